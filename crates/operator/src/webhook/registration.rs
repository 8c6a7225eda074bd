//! Tells the API server where the webhooks are and which authority to trust.
//!
//! Two configurations of our own, applied with our field manager, and the conversion of the definitions, patched. An
//! operator of one Kubernetes namespace registers for that one alone, under names with its own, and leaves definitions
//! that another operator converts as they are.

use super::{MUTATE_PATH, VALIDATE_PATH, WebhookConfig, WebhookError};
use axum::http::Uri;
use crds::definition::{CONVERSION_PATH, ConversionService, definitions};
use graph::cluster::labels;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Longer than any answer takes; what the API server waits for us holds up its caller.
const TIMEOUT_S: u32 = 10;
/// Port of the Service.
const SERVICE_PORT: u16 = 443;
/// Kinds that are checked. DynamoWorkerMetadata is not: worker pods write it all the time, and must be able to while the
/// operator is away.
const CHECKED: [&str; 5] = [
    "dynamographdeployments",
    "dynamocomponentdeployments",
    "dynamographdeploymentscalingadapters",
    "dynamographdeploymentrequests",
    "dynamomodels",
];
/// Kinds that are defaulted.
const DEFAULTED: [&str; 1] = ["dynamocomponentdeployments"];

/// The API server could not be told.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// A definition is not there.
    #[error("the definition {0} is not installed; run `busbar crds --apply`")]
    NotInstalled(String),
    /// It refused, or is away.
    #[error("register the webhooks: {verb} {object}; the operator needs the right to {verb} it")]
    Api {
        /// What was done.
        verb: &'static str,
        /// With what.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Where the API server finds us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Service of the cluster.
    Service {
        /// Its name.
        name: String,
        /// Its Kubernetes namespace.
        k8s_namespace: String,
    },
    /// Outside of the cluster.
    Url {
        /// `https://HOST:PORT`, without an end.
        base: String,
        /// The host, for the certificate.
        host: String,
    },
}

impl Target {
    /// From the configuration.
    ///
    /// # Errors
    /// [`WebhookError::Url`] when the URL has a path, a query or another scheme.
    pub fn of(config: &WebhookConfig) -> Result<Self, WebhookError> {
        let Some(url) = &config.url else {
            return Ok(Self::Service { name: config.service.clone(), k8s_namespace: config.k8s_namespace.clone() });
        };
        let refused = || WebhookError::Url(url.clone());
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|authority| is_bare && !authority.as_str().contains('@'));
        if uri.scheme_str() != Some("https") {
            return Err(refused());
        }
        let authority = authority.ok_or_else(refused)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self::Url { base: format!("https://{authority}"), host })
    }

    /// Names that the certificate must have.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Service { name, k8s_namespace } => {
                vec![format!("{name}.{k8s_namespace}.svc"), format!("{name}.{k8s_namespace}.svc.cluster.local")]
            }
            Self::Url { host, .. } => vec![host.clone()],
        }
    }

    /// `clientConfig` of a webhook at `path`; the other way of addressing is named as `null`, so that a merge removes it.
    fn client_config(&self, path: &str, bundle: &str) -> Value {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        match self {
            Self::Service { name, k8s_namespace } => json!({
                "service": { "name": name, "namespace": k8s_namespace, "path": path, "port": SERVICE_PORT },
                "url": null, "caBundle": bundle,
            }),
            Self::Url { base, .. } => json!({ "url": format!("{base}{path}"), "service": null, "caBundle": bundle }),
        }
    }
}

/// Name of the configuration that checks.
pub fn validating(config: &WebhookConfig) -> String {
    named("busbar-operator-validating", config)
}

/// Name of the configuration that defaults.
pub fn mutating(config: &WebhookConfig) -> String {
    named("busbar-operator-mutating", config)
}

fn named(name: &str, config: &WebhookConfig) -> String {
    config.watch_namespace.as_ref().map_or_else(|| name.to_owned(), |watched| format!("{name}-{watched}"))
}

/// Names of the definitions that have two versions.
pub fn converted() -> Vec<String> {
    let all = definitions(&ConversionService::default());
    let all = all.iter().filter(|(_, definition)| definition.pointer("/spec/conversion").is_some());
    all.filter_map(|(_, definition)| Some(definition.pointer("/metadata/name")?.as_str()?.to_owned())).collect()
}

/// Both configurations, as they are applied.
pub fn configurations(config: &WebhookConfig, target: &Target, bundle: &str) -> [Value; 2] {
    let object = |kind: &str, name: String, webhook: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            // No labels: where the chart made the object, `managed-by` is Helm's, which refuses an upgrade over another's.
            "metadata": { "name": name },
            "webhooks": [webhook],
        })
    };
    let webhook = |name: &str, path: &str, resources: &[&str]| {
        let mut webhook = json!({
            "name": name,
            "clientConfig": without_nulls(target.client_config(path, bundle)),
            "rules": [{
                "apiGroups": [crds::GROUP],
                "apiVersions": ["v1alpha1", "v1beta1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": resources,
                "scope": "Namespaced",
            }],
            // The object comes in the version that its user wrote, and so do the paths in the answer.
            "matchPolicy": "Exact",
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_S,
            "admissionReviewVersions": ["v1"],
        });
        if let Some(watched) = &config.watch_namespace {
            webhook["namespaceSelector"] = json!({ "matchLabels": { "kubernetes.io/metadata.name": watched } });
        }
        webhook
    };
    [
        object(
            "ValidatingWebhookConfiguration",
            validating(config),
            webhook("validate.busbar.dev", VALIDATE_PATH, &CHECKED),
        ),
        object(
            "MutatingWebhookConfiguration",
            mutating(config),
            webhook("default.busbar.dev", MUTATE_PATH, &DEFAULTED),
        ),
    ]
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(parts) = &mut value {
        parts.retain(|_, part| !part.is_null());
    }
    value
}

/// Applies both configurations and points the conversion of the definitions here.
///
/// # Errors
/// [`RegistrationError`]; what was done until then stays and does no harm.
pub async fn ensure(
    client: &Client,
    config: &WebhookConfig,
    target: &Target,
    bundle: &str,
) -> Result<(), RegistrationError> {
    for name in converted() {
        ensure_conversion(client, config, target, bundle, &name).await?;
    }
    let [validating_object, mutating_object] = configurations(config, target, bundle);
    let parameters = PatchParams::apply(labels::MANAGER).force();
    let failed = |object: &str| {
        let object = format!("{object} (admissionregistration.k8s.io)");
        move |source| RegistrationError::Api { verb: "patch", object, source: Box::new(source) }
    };
    let name = validating(config);
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    api.patch(&name, &parameters, &Patch::Apply(validating_object)).await.map_err(failed(&name))?;
    let name = mutating(config);
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    api.patch(&name, &parameters, &Patch::Apply(mutating_object)).await.map_err(failed(&name))?;
    Ok(())
}

async fn ensure_conversion(
    client: &Client,
    config: &WebhookConfig,
    target: &Target,
    bundle: &str,
    name: &str,
) -> Result<(), RegistrationError> {
    let failed =
        |verb| move |source| RegistrationError::Api { verb, object: name.to_owned(), source: Box::new(source) };
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let found = api.get_opt(name).await.map_err(failed("get"))?;
    let found = found.ok_or_else(|| RegistrationError::NotInstalled(name.to_owned()))?;
    let found = serde_json::to_value(&found.spec.conversion).unwrap_or_default();
    let wanted = target.client_config(CONVERSION_PATH, bundle);
    if !is_ours(&found, config, target) || is_told(&found, &wanted) {
        return Ok(());
    }
    let patch = json!({ "spec": { "conversion": {
        "strategy": "Webhook",
        "webhook": { "clientConfig": wanted, "conversionReviewVersions": ["v1"] },
    } } });
    let parameters = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(name, &parameters, &Patch::Merge(patch)).await.map_err(failed("patch"))?;
    tracing::info!(definition = name, "the API server converts through this operator");
    Ok(())
}

/// Whether the conversion is this operator's to set. One that works in the whole cluster takes it in any case.
fn is_ours(conversion: &Value, config: &WebhookConfig, target: &Target) -> bool {
    let client = conversion.pointer("/webhook/clientConfig");
    let names_us = client.and_then(|client| client.get("service")).is_some_and(|service| match target {
        Target::Service { name, k8s_namespace } => {
            service.get("name") == Some(&json!(name)) && service.get("namespace") == Some(&json!(k8s_namespace))
        }
        Target::Url { .. } => false,
    });
    let is_nobodys = client.is_none_or(|client| client.get("caBundle").is_none_or(Value::is_null));
    config.watch_namespace.is_none() || names_us || is_nobodys
}

fn is_told(conversion: &Value, wanted: &Value) -> bool {
    let client = conversion.pointer("/webhook/clientConfig").cloned().unwrap_or_default();
    conversion.get("strategy") == Some(&json!("Webhook")) && without_nulls(client) == without_nulls(wanted.clone())
}
