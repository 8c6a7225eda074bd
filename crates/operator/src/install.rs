//! Puts the definitions into a cluster: `busbar crds --apply`, which is also what the chart's install Job runs.
//!
//! Applied server-side under a field manager of our own, so it can be run again at any time: what it wrote before is
//! brought up to date, and the authority that the operator put in (`caBundle`) is the operator's and stays. Nothing is
//! ever removed: that would take every graph with it.

use crds::definition::{ConversionService, definitions};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Field manager of the definitions. Another than the operator's, or each apply would drop what the other wrote.
const MANAGER: &str = "busbar-install";
/// The API server takes a second or two until it serves a new kind.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Where a conversion's address is.
const CLIENT_CONFIG: &str = "/spec/conversion/webhook/clientConfig";

/// What came of one definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there and is another now.
    Changed,
    /// It was there as it is.
    Unchanged,
}

impl Outcome {
    /// The word in the output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The definitions are not all installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No way to the cluster.
    #[error("read how to reach the cluster from {from}")]
    Config {
        /// From where.
        from: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server refused, or is away.
    #[error("{verb} the definition {name}")]
    Api {
        /// What was done.
        verb: &'static str,
        /// With which.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server does not serve it.
    #[error("the API server does not serve {name}: {reason}")]
    NotEstablished {
        /// Which.
        name: String,
        /// What it says.
        reason: String,
    },
}

impl InstallError {
    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Config { .. } => {
                "give a kubeconfig with --kubeconfig FILE, or a context of it with --context NAME".to_owned()
            }
            Self::Api { verb, source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 403 => format!(
                    "let this user {verb} customresourcedefinitions (apiextensions.k8s.io), in the whole cluster; `get`, \
                     `create` and `patch` are needed"
                ),
                kube::Error::Api(status) if status.code == 401 => {
                    "log in again: the API server does not know this user".to_owned()
                }
                kube::Error::Api(_) => "correct what the API server says, then run it again".to_owned(),
                _ => "see that the API server can be reached (`kubectl version`), then run it again".to_owned(),
            },
            Self::NotEstablished { name, .. } => {
                format!("see `kubectl describe crd {name}`; another definition may have one of its names")
            }
        }
    }
}

/// A client from a kubeconfig file, or as `kubectl` finds one, or in a pod.
///
/// # Errors
/// [`InstallError::Config`].
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, InstallError> {
    let from = match (kubeconfig, context) {
        (Some(file), Some(context)) => format!("{} (context {context})", file.display()),
        (Some(file), None) => file.display().to_string(),
        (None, Some(context)) => format!("the kubeconfig (context {context})"),
        (None, None) => "the kubeconfig or the pod's service account".to_owned(),
    };
    let config = match (kubeconfig, context) {
        (None, None) => Config::infer().await.map_err(Into::into),
        (file, context) => of_file(file.map(Path::to_owned), context.map(str::to_owned)).await,
    };
    let failed = |source| InstallError::Config { from: from.clone(), source };
    Client::try_from(config.map_err(failed)?).map_err(|error| failed(error.into()))
}

async fn of_file(
    file: Option<PathBuf>,
    context: Option<String>,
) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    match file {
        Some(file) => Ok(Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?),
        None => Ok(Config::from_kubeconfig(&options).await?),
    }
}

/// Applies every definition and waits until the API server serves it; `tell` hears of each as it is done.
///
/// # Errors
/// [`InstallError`] at the first that fails; those before it stay, and the next run goes on.
pub async fn apply(
    client: &Client,
    service: &ConversionService,
    mut tell: impl FnMut(&str, Outcome),
) -> Result<(), InstallError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for (_, definition) in definitions(service) {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let outcome = apply_one(&api, &name, definition).await?;
        tell(&name, outcome);
        names.push(name);
    }
    for name in names {
        established(&api, &name).await?;
    }
    Ok(())
}

async fn apply_one(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    mut definition: Value,
) -> Result<Outcome, InstallError> {
    let failed = |verb| move |source| InstallError::Api { verb, name: name.to_owned(), source: Box::new(source) };
    let before = api.get_opt(name).await.map_err(failed("get"))?;
    if let Some(before) = &before {
        keep_address(&mut definition, &serde_json::to_value(before).unwrap_or_default());
    }
    // Whoever installed them before (a chart, `kubectl apply`) hands them over.
    let parameters = PatchParams::apply(MANAGER).force();
    let after = api.patch(name, &parameters, &Patch::Apply(definition)).await.map_err(failed("patch"))?;
    Ok(match before {
        None => Outcome::Created,
        Some(before) if before.metadata.generation == after.metadata.generation => Outcome::Unchanged,
        Some(_) => Outcome::Changed,
    })
}

/// An operator outside of the cluster is reached by a URL, and the API server takes a URL or a Service, not both: while
/// one serves, it stays.
fn keep_address(definition: &mut Value, before: &Value) {
    let url = before.pointer(CLIENT_CONFIG).and_then(|client| client.get("url")).filter(|url| url.is_string());
    if let (Some(url), Some(client)) = (url, definition.pointer_mut(CLIENT_CONFIG)) {
        *client = json!({ "url": url });
    }
}

async fn established(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), InstallError> {
    let mut reason = "it says nothing yet".to_owned();
    let wait = async {
        loop {
            let found = api.get(name).await;
            let found = found.map_err(|source| InstallError::Api {
                verb: "get",
                name: name.to_owned(),
                source: Box::new(source),
            })?;
            let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
            if conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
                return Ok(());
            }
            if let Some(refused) = conditions.iter().find(|condition| condition.status == "False") {
                reason = refused.message.clone().unwrap_or_else(|| refused.type_.clone());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let waited = tokio::time::timeout(ESTABLISHED_WITHIN, wait).await;
    waited.unwrap_or_else(|_| Err(InstallError::NotEstablished { name: name.to_owned(), reason }))
}
