//! Names that objects of a graph have, and what a component is.

use super::labels;
use crate::argv::{self, Module};
use crate::component::ComponentKind;
use crate::parse::command_line;
use crds::v1beta1::{ComponentSpec, DynamoComponentDeployment, DynamoGraphDeployment};
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Longest name of a Service, and longest value of a label.
pub const NAME_LENGTH_MAX: usize = 63;
/// The Dynamo namespace of components with `globalDynamoNamespace`.
pub const GLOBAL_DYNAMO_NAMESPACE: &str = "dynamo";
/// What stands for a Kubernetes namespace that the object does not name, as in `kubectl`.
const DEFAULT_NAMESPACE: &str = "default";

/// Prefixes of annotations that speak of the object that carries them, not of what is below it.
const NOT_SHARED: [&str; 5] =
    ["nvidia.com/", "dynamo.nvidia.com/", "kubectl.kubernetes.io/", "busbar.dev/", "sidecar.istio.io/"];

/// First 8 hexadecimal digits of the SHA-256 over a graph's workers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerHash(pub(super) String);

impl WorkerHash {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for WorkerHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a component is: its type, or what its command starts; none when neither tells.
pub fn kind_of(component: &ComponentSpec) -> Option<ComponentKind> {
    if let Some(word) = component.component_type.as_deref() {
        return ComponentKind::parse(word, "").ok();
    }
    match argv::recognise(&command_line(main_container(component)?)).ok()?.module {
        Module::Frontend => Some(ComponentKind::Frontend),
        Module::Vllm | Module::Mocker | Module::Worker => Some(ComponentKind::Worker),
    }
}

/// Whether it belongs to the workers that [`super::worker_hash`] covers.
pub fn is_worker(component: &ComponentSpec) -> bool {
    matches!(kind_of(component), Some(ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode))
}

/// The container that runs the component.
pub(super) fn main_container(component: &ComponentSpec) -> Option<&Container> {
    let pod = component.pod_template.as_ref()?.spec.as_ref()?;
    pod.containers.iter().find(|container| container.name == crds::MAIN_CONTAINER)
}

/// `<k8s namespace>-<graph>`, or `dynamo` with `globalDynamoNamespace`. Workers add `-<worker hash>` themselves, from
/// `DYN_NAMESPACE_WORKER_SUFFIX`.
///
/// Source: Dynamo, api/v1beta1, `ComputeDynamoNamespace`.
pub fn dynamo_namespace(k8s_namespace: &str, graph: &str, is_global: bool) -> String {
    if is_global { GLOBAL_DYNAMO_NAMESPACE.to_owned() } else { format!("{k8s_namespace}-{graph}") }
}

/// Name of a component's DynamoComponentDeployment and Deployment: `<graph>-<component>` in lower case, and for workers
/// `-<worker hash>`.
pub fn component_name(graph: &str, component: &ComponentSpec, hash: &WorkerHash) -> String {
    let name = format!("{graph}-{}", component.name.to_lowercase());
    if is_worker(component) { format!("{name}-{hash}") } else { name }
}

/// Name of a component's Service: that of its DynamoComponentDeployment, as a DNS label.
pub fn service_name(component_name: &str) -> String {
    component_name.replace('.', "-").to_lowercase()
}

/// Name of the headless Service of a component with `modelRef`.
pub fn model_service_name(component_name: &str) -> String {
    format!("{}-model", service_name(component_name))
}

/// Name of the scaling adapter of a component.
pub fn scaling_adapter_name(graph: &str, component: &str) -> String {
    format!("{graph}-{}", component.to_lowercase())
}

/// ServiceAccount of a graph's pods; its Role adds `-role` and its RoleBinding `-binding`.
pub fn service_account_name(graph: &str) -> String {
    format!("{graph}-k8s-service-discovery")
}

/// The Kubernetes namespace of an object, `default` when it names none.
pub(super) fn k8s_namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAMESPACE)
}

/// The name of an object, empty when it has none yet.
pub(super) fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Reference to the object that owns what is rendered from it. None before the API server has given it a uid.
fn owner(metadata: &ObjectMeta, kind: &str) -> Option<Vec<OwnerReference>> {
    let uid = metadata.uid.clone()?;
    Some(vec![OwnerReference {
        api_version: crds::convert::Version::V1beta1.api_version(),
        block_owner_deletion: Some(true),
        controller: Some(true),
        kind: kind.to_owned(),
        name: name_of(metadata).to_owned(),
        uid,
    }])
}

/// Metadata of an object of a graph.
pub(super) fn graph_child(
    graph: &DynamoGraphDeployment,
    name: String,
    own_labels: BTreeMap<String, String>,
) -> ObjectMeta {
    let mut all = graph.spec.labels.clone().unwrap_or_default();
    all.extend(own_labels);
    all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    all.insert(labels::GRAPH_NAME.to_owned(), name_of(&graph.metadata).to_owned());
    ObjectMeta {
        name: Some(name),
        namespace: Some(k8s_namespace(&graph.metadata).to_owned()),
        labels: Some(all),
        annotations: graph.spec.annotations.clone(),
        owner_references: owner(&graph.metadata, crds::DYNAMO_GRAPH_DEPLOYMENT),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object of a component.
pub(super) fn component_child(
    component: &DynamoComponentDeployment,
    name: String,
    all_labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(k8s_namespace(&component.metadata).to_owned()),
        labels: Some(all_labels),
        annotations: shared_annotations(component),
        owner_references: owner(&component.metadata, crds::DYNAMO_COMPONENT_DEPLOYMENT),
        ..ObjectMeta::default()
    }
}

/// Annotations of a component that are not addressed to the operator or to `kubectl`.
fn shared_annotations(component: &DynamoComponentDeployment) -> Option<BTreeMap<String, String>> {
    let is_shared = |key: &str| !NOT_SHARED.iter().any(|prefix| key.starts_with(prefix));
    let given = component.metadata.annotations.iter().flatten();
    let shared: BTreeMap<_, _> =
        given.filter(|(key, _)| is_shared(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    (!shared.is_empty()).then_some(shared)
}
