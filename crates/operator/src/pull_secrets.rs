//! Which Secret of a Kubernetes namespace logs in to which registry.

use graph::cluster::registry_host;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key of the Secret that holds the logins.
const KEY: &str = ".dockerconfigjson";

/// Names of the Secrets by the registry hosts that they log in to, in the order of the names. A Secret that cannot be
/// read is none. Nothing of a login itself is kept.
pub(crate) fn by_host(secrets: &[Arc<Secret>]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for secret in secrets {
        let Some(name) = &secret.metadata.name else { continue };
        for host in hosts(secret) {
            let names = found.entry(host).or_default();
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    found.values_mut().for_each(|names| names.sort());
    found
}

fn hosts(secret: &Secret) -> Vec<String> {
    let Some(text) = secret.data.as_ref().and_then(|data| data.get(KEY)) else { return Vec::new() };
    let Ok(config) = serde_json::from_slice::<Value>(&text.0) else { return Vec::new() };
    let logins = config["auths"].as_object().into_iter().flatten();
    logins.map(|(server, _)| registry_host(&as_server(server))).collect()
}

/// A key of `auths` is a server: with a scheme, a host alone, or a host with a path.
fn as_server(key: &str) -> String {
    if key.contains("://") { key.to_owned() } else { format!("https://{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn secret(name: &str, config: &str) -> Arc<Secret> {
        let data = BTreeMap::from([(KEY.to_owned(), ByteString(config.as_bytes().to_vec()))]);
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Arc::new(Secret { metadata, data: Some(data), ..Secret::default() })
    }

    #[test]
    fn a_secret_is_found_by_each_host_that_it_logs_in_to() {
        let secrets = [
            secret("z-hub", r#"{"auths": {"https://index.docker.io/v1/": {"auth": "eA=="}}}"#),
            secret("nvidia", r#"{"auths": {"nvcr.io": {}, "localhost:5000": {}, "ghcr.io/team": {}}}"#),
            secret("a-hub", r#"{"auths": {"docker.io": {}}}"#),
            secret("broken", "not json"),
        ];
        let found = by_host(&secrets);
        let names = |host: &str| found.get(host).cloned().unwrap_or_default();
        assert_eq!(names("docker.io"), ["a-hub", "z-hub"]);
        assert_eq!(
            (names("nvcr.io"), names("localhost:5000"), names("ghcr.io")),
            (vec!["nvidia".into()], vec!["nvidia".into()], vec!["nvidia".to_owned()])
        );
        assert_eq!(found.len(), 4);
    }
}
