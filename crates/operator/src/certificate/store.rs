//! The Secret: read, decided upon, written by whoever is first.

use super::{IssueError, Material, renew};
use graph::cluster::labels;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Keys of the Secret; the first three as in Dynamo's `webhook-server-cert`.
const BUNDLE: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY_KEY: &str = "ca.key";
/// Every refused write means that someone else's went through, and then there is nothing left to write.
const ATTEMPTS_MAX: u32 = 10;
/// After a refused write.
const PAUSE: Duration = Duration::from_millis(200);

/// The certificate is not there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The API server refused, or is away.
    #[error(
        "read and write the Secret {name} with the webhooks' certificate; the operator needs get, create and update on secrets in its namespace"
    )]
    Api {
        /// Name of the Secret.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Someone writes it all the time.
    #[error("the Secret {0} is changed by someone else all the time; find who else writes it")]
    Contended(String),
}

/// The Secret's content, made or renewed where it has to be. A Secret that someone deleted gets back what was `known` of
/// it: another authority would cut off every replica until it hears of that.
///
/// # Errors
/// [`StoreError`]; what is in the Secret is whole in any case.
pub async fn ensure(
    secrets: &Api<Secret>,
    name: &str,
    names: &[String],
    known: Option<&Material>,
    now: SystemTime,
) -> Result<Material, StoreError> {
    let refused = |source| StoreError::Api { name: name.to_owned(), source: Box::new(source) };
    for _ in 0..ATTEMPTS_MAX {
        let found = secrets.get_opt(name).await.map_err(refused)?;
        let is_there = found.is_some();
        let material = if is_there { found.as_ref().and_then(read) } else { known.cloned() };
        let wanted = match (renew(material.as_ref(), names, now)?, material) {
            (None, Some(material)) if is_there => return Ok(material),
            (Some(renewed), _) => renewed,
            (None, Some(known)) => known,
            // Nothing is never good enough.
            (None, None) => continue,
        };
        let secret = write(found, name, &wanted);
        let parameters = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
        let written = match secret.metadata.resource_version {
            Some(_) => secrets.replace(name, &parameters, &secret).await,
            None => secrets.create(&parameters, &secret).await,
        };
        match written {
            Ok(_) => {
                tracing::info!(secret = name, "the webhooks' certificate was written");
                return Ok(wanted);
            }
            // 409: another replica was first. 404: it was deleted meanwhile.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(refused(error)),
        }
    }
    Err(StoreError::Contended(name.to_owned()))
}

fn read(secret: &Secret) -> Option<Material> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Material {
        bundle: text(BUNDLE)?,
        authority_key: text(AUTHORITY_KEY)?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    })
}

fn write(found: Option<Secret>, name: &str, material: &Material) -> Secret {
    // The label is of one that the operator makes itself: the chart's bears Helm's, which refuses an upgrade over another's.
    let label = || BTreeMap::from([(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned())]);
    let mut secret = found.unwrap_or_else(|| Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(label()), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    });
    let parts = [
        (BUNDLE, &material.bundle),
        (AUTHORITY_KEY, &material.authority_key),
        (CERTIFICATE, &material.certificate),
        (KEY, &material.key),
    ];
    let own = parts.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())));
    secret.data = Some(BTreeMap::from(own));
    secret
}
