//! What the API server asks while it takes an object: convert it, default it, check it.
//!
//! Every replica serves, leader or not. [`convert`], [`default`] and [`validate`] are pure functions of a review;
//! [`server`] is HTTPS around them; [`registration`] tells the API server where we are and whom to trust, and tells it
//! again when someone took that away.
//!
//! Source: Kubernetes, "Dynamic Admission Control" and "Versions in CustomResourceDefinitions"; Dynamo,
//! docs/kubernetes/webhooks.md.

pub mod convert;
pub mod default;
pub mod registration;
pub mod review;
mod server;
pub mod validate;
mod watching;

use crate::certificate::store::StoreError;
use crate::certificate::{Material, Serving, store};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use registration::{RegistrationError, Target};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Path that checks.
pub const VALIDATE_PATH: &str = "/validate";
/// Path that defaults.
pub const MUTATE_PATH: &str = "/mutate";
/// Name of the Secret with the certificate.
pub const SECRET_NAME: &str = "busbar-operator-webhook-cert";

/// The Secret and the registration are looked at this often even when no watch tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// After a failure, for what failed may soon be there: the definitions, a right, the API server.
const RETRY: Duration = Duration::from_secs(3);

/// Where the webhooks are and whom they serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// The operator's own Kubernetes namespace: of its Service and of its Secret.
    pub k8s_namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Where the API server reaches an operator outside of the cluster, in place of the Service: `https://HOST:PORT`.
    pub url: Option<String>,
    /// The one Kubernetes namespace that the operator works in; all when absent.
    pub watch_namespace: Option<String>,
    /// Name of the Secret that holds the certificate.
    pub secret: String,
}

/// The webhooks cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The socket.
    #[error("listen for webhooks on {address}; give a free port with --webhook-port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `--webhook-url` is none.
    #[error("--webhook-url `{0}` is not https://HOST or https://HOST:PORT, which is all that it may be")]
    Url(String),
}

/// Serves until `stop`; `ready` turns true once the API server knows where to ask.
///
/// Failures of the API server are logged and tried again.
///
/// # Errors
/// [`WebhookError`], before anything is served.
pub async fn serve(
    client: Client,
    config: WebhookConfig,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), WebhookError> {
    let target = Target::of(&config)?;
    let failed = |source| WebhookError::Listen { address: config.address, source };
    let listener = TcpListener::bind(config.address).await.map_err(failed)?;
    let serving = Arc::new(Serving::default());
    let operator = Arc::new(parking_lot::RwLock::new(None));
    let app = server::App { operator: operator.clone() };
    let server = server::run(listener, serving.clone(), app, stop.clone());
    let keeper = Keeper { client, config: config.clone(), target, serving, operator, ready };
    tokio::join!(server, keeper.run(stop));
    Ok(())
}

/// Keeps the certificate valid and the API server informed.
struct Keeper {
    client: Client,
    config: WebhookConfig,
    target: Target,
    serving: Arc<Serving>,
    operator: Arc<parking_lot::RwLock<Option<String>>>,
    ready: watch::Sender<bool>,
}

/// One round came to nothing.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
}

impl Keeper {
    async fn run(self, stop: CancellationToken) {
        let mut changes = watching::changes(&self.client, &self.config);
        let mut known = None;
        loop {
            let pause = match self.round(&mut known).await {
                Ok(()) => {
                    self.ready.send_replace(true);
                    LOOK_EVERY
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(error = %error, cause, "the webhooks are not registered; tried again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = watching::next(&mut changes) => {}
            }
        }
    }

    /// Certificate, then registration. A new authority is trusted before anything that it signed is shown; only the
    /// first certificate is shown at once, because nothing is served without one.
    async fn round(&self, known: &mut Option<Material>) -> Result<(), KeepError> {
        self.learn_own_name().await;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.config.k8s_namespace);
        let names = self.target.names();
        let material = store::ensure(&secrets, &self.config.secret, &names, known.as_ref(), SystemTime::now()).await?;
        if !self.serving.is_set() {
            self.serving.set(&material);
        }
        registration::ensure(&self.client, &self.config, &self.target, &material.bundle).await?;
        self.serving.set(&material);
        *known = Some(material);
        Ok(())
    }

    /// Who we are to the API server: the only one who may change replicas that an adapter owns. While it is not known
    /// nobody may.
    async fn learn_own_name(&self) {
        if self.operator.read().is_some() {
            return;
        }
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
            Ok(review) => {
                let name = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
                *self.operator.write() = name;
            }
            Err(error) => tracing::warn!(error = %error, "the operator's own name is not known yet; asked again"),
        }
    }
}
