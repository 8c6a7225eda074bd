//! The CustomResourceDefinitions, made from the Rust types.
//!
//! They are one YAML file a kind, in `assets/crds`; `busbar crds` writes them and a test holds
//! them fresh. Names, short names and columns are those of Dynamo, as scripts of its users read them.

mod columns;

use crate::{GROUP, schema, v1alpha1, v1beta1};
use columns::Column;
use serde_json::{Map, Value, json};

/// Where the API server finds the operator that converts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversionService {
    /// Kubernetes namespace of the operator's Service.
    pub k8s_namespace: String,
    /// Name of the Service.
    pub name: String,
    /// The authority that signed its certificate: PEM, base64. The operator writes it; absent in the files.
    pub ca_bundle: Option<String>,
}

/// Kubernetes namespace that the platform chart is installed in when nothing else is asked.
pub const K8S_NAMESPACE: &str = "busbar-system";
/// Name of the operator's Service.
const SERVICE_NAME: &str = "busbar-operator-webhook";
/// Path of the webhook that converts.
pub const CONVERSION_PATH: &str = "/convert";
/// Port of the operator's Service.
const CONVERSION_PORT: u16 = 443;

impl Default for ConversionService {
    /// What the platform chart installs when nothing else is asked.
    fn default() -> Self {
        Self { k8s_namespace: K8S_NAMESPACE.to_owned(), name: SERVICE_NAME.to_owned(), ca_bundle: None }
    }
}

/// A definition could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write the definition of {kind} as YAML")]
pub struct NotWritten {
    /// The kind.
    pub kind: &'static str,
    /// Why.
    #[source]
    pub source: serde_saphyr::SerializeError,
}

/// One served version of a kind.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    is_stored: bool,
    /// What the API server tells whoever still uses it.
    deprecation: Option<&'static str>,
    spec: fn() -> Value,
    status: Option<fn() -> Value>,
    columns: &'static [Column],
}

/// A kind and its names.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: Option<&'static str>,
    has_scale: bool,
    versions: Vec<Version>,
}

/// File name and definition of every kind, in the order of the names.
pub fn definitions(service: &ConversionService) -> Vec<(String, Value)> {
    let mut all: Vec<_> =
        kinds().iter().map(|kind| (format!("{GROUP}_{}.yaml", kind.plural), definition(kind, service))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// File name and YAML text of every kind.
///
/// # Errors
/// [`NotWritten`] when the serializer refuses a value, which only a bug in a schema causes.
pub fn files(service: &ConversionService) -> Result<Vec<(String, String)>, NotWritten> {
    let kinds: Vec<_> = kinds().iter().map(|kind| (kind.kind, definition(kind, service), kind.plural)).collect();
    let mut files = Vec::with_capacity(kinds.len());
    for (kind, definition, plural) in kinds {
        let yaml = serde_saphyr::to_string(&definition).map_err(|source| NotWritten { kind, source })?;
        files.push((format!("{GROUP}_{plural}.yaml"), format!("{HEADER}{yaml}")));
    }
    files.sort();
    Ok(files)
}

const HEADER: &str = "# Written by `busbar crds`; a test holds it fresh.\n";

fn kinds() -> Vec<Kind> {
    vec![
        Kind {
            kind: crate::DYNAMO_GRAPH_DEPLOYMENT,
            plural: "dynamographdeployments",
            short: Some("dgd"),
            has_scale: false,
            versions: vec![
                served::<v1alpha1::GraphSpec, v1alpha1::GraphStatus>(columns::GRAPH),
                stored::<v1beta1::GraphSpec, v1beta1::GraphStatus>(columns::GRAPH),
            ],
        },
        Kind {
            kind: crate::DYNAMO_COMPONENT_DEPLOYMENT,
            plural: "dynamocomponentdeployments",
            short: Some("dcd"),
            has_scale: false,
            versions: vec![
                served::<v1alpha1::DeploymentSpec, v1alpha1::DeploymentStatus>(columns::COMPONENT),
                stored::<v1beta1::DeploymentSpec, v1beta1::DeploymentStatus>(columns::COMPONENT),
            ],
        },
        Kind {
            kind: crate::SCALING_ADAPTER,
            plural: "dynamographdeploymentscalingadapters",
            short: Some("dgdsa"),
            has_scale: true,
            versions: vec![
                deprecated(served::<v1alpha1::ScalingAdapterSpec, crate::parts::AdapterStatus>(
                    columns::ADAPTER_V1ALPHA1,
                )),
                stored::<v1beta1::ScalingAdapterSpec, crate::parts::AdapterStatus>(columns::ADAPTER_V1BETA1),
            ],
        },
        Kind {
            kind: crate::DEPLOYMENT_REQUEST,
            plural: "dynamographdeploymentrequests",
            short: Some("dgdr"),
            has_scale: false,
            versions: vec![
                deprecated(served::<v1alpha1::RequestSpec, v1alpha1::RequestStatus>(columns::REQUEST_V1ALPHA1)),
                stored::<v1beta1::RequestSpec, v1beta1::RequestStatus>(columns::REQUEST_V1BETA1),
            ],
        },
        Kind {
            kind: "DynamoModel",
            plural: "dynamomodels",
            short: Some("dm"),
            has_scale: false,
            versions: vec![only(served::<v1alpha1::ModelSpec, v1alpha1::ModelStatus>(columns::MODEL))],
        },
        Kind {
            kind: "DynamoWorkerMetadata",
            plural: "dynamoworkermetadatas",
            short: None,
            has_scale: false,
            versions: vec![Version {
                status: None,
                ..only(served::<v1alpha1::WorkerMetadataSpec, v1alpha1::ModelStatus>(&[]))
            }],
        },
    ]
}

fn served<Spec: schemars::JsonSchema, Status: schemars::JsonSchema>(columns: &'static [Column]) -> Version {
    Version {
        name: "v1alpha1",
        is_stored: false,
        deprecation: None,
        spec: schema::of::<Spec>,
        status: Some(schema::of::<Status>),
        columns,
    }
}

fn stored<Spec: schemars::JsonSchema, Status: schemars::JsonSchema>(columns: &'static [Column]) -> Version {
    Version { name: "v1beta1", is_stored: true, ..served::<Spec, Status>(columns) }
}

fn only(version: Version) -> Version {
    Version { is_stored: true, ..version }
}

fn deprecated(version: Version) -> Version {
    Version { deprecation: Some("nvidia.com/v1alpha1 of this kind is deprecated; use nvidia.com/v1beta1"), ..version }
}

fn definition(kind: &Kind, service: &ConversionService) -> Value {
    let mut names = json!({
        "kind": kind.kind,
        "listKind": format!("{}List", kind.kind),
        "plural": kind.plural,
        "singular": kind.kind.to_lowercase(),
    });
    if let Some(short) = kind.short {
        names["shortNames"] = json!([short]);
    }
    let mut spec = json!({
        "group": GROUP,
        "names": names,
        "scope": "Namespaced",
        "versions": kind.versions.iter().map(|v| version(kind, v)).collect::<Vec<_>>(),
    });
    if kind.versions.len() > 1 {
        spec["conversion"] = conversion(service);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{GROUP}", kind.plural) },
        "spec": spec,
    })
}

/// Never `None`: the API server would change the version's name alone and prune what it then does not know.
fn conversion(service: &ConversionService) -> Value {
    let mut client = json!({ "service": {
        "name": service.name,
        "namespace": service.k8s_namespace,
        "path": CONVERSION_PATH,
        "port": CONVERSION_PORT,
    } });
    if let Some(bundle) = &service.ca_bundle {
        client["caBundle"] = json!(bundle);
    }
    json!({ "strategy": "Webhook", "webhook": { "clientConfig": client, "conversionReviewVersions": ["v1"] } })
}

fn version(kind: &Kind, version: &Version) -> Value {
    let mut written = json!({ "name": version.name, "served": true, "storage": version.is_stored });
    if let Some(warning) = version.deprecation {
        written["deprecated"] = json!(true);
        written["deprecationWarning"] = json!(warning);
    }
    if !version.columns.is_empty() {
        written["additionalPrinterColumns"] = json!(version.columns);
    }
    written["schema"] = json!({ "openAPIV3Schema": root(kind, version) });
    let mut subresources = Map::new();
    if version.status.is_some() {
        subresources.insert("status".to_owned(), json!({}));
    }
    if kind.has_scale {
        let scale = json!({
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        });
        subresources.insert("scale".to_owned(), scale);
    }
    if !subresources.is_empty() {
        written["subresources"] = Value::Object(subresources);
    }
    written
}

fn root(kind: &Kind, version: &Version) -> Value {
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
        "spec": (version.spec)(),
    });
    if let Some(status) = version.status {
        properties["status"] = status();
    }
    json!({
        "description": format!("{} of {GROUP}/{}.", kind.kind, version.name),
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    })
}
