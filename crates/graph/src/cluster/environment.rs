//! The environment that a component's container gets from the operator.

use super::components::type_word;
use super::{DiscoveryBackend, Settings};
use crate::component::ComponentKind;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

/// The frontend's HTTP port.
pub(super) const HTTP_PORT: i32 = 8000;
/// A worker's system server: health and metrics.
pub(super) const SYSTEM_PORT: i32 = 9090;
/// NIXL's metrics; further exporters of a pod count up from here.
pub(super) const NIXL_PORT: i32 = 19090;
/// The planner's metrics.
pub(super) const PLANNER_PORT: i32 = 9085;
/// The endpoint picker's gRPC.
pub(super) const EPP_PORT: i32 = 9002;
/// The endpoint picker's gRPC health.
pub(super) const EPP_HEALTH_PORT: i32 = 9003;

/// What the environment of a container depends on.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    /// What the component is.
    pub(super) kind: Option<ComponentKind>,
    /// The Dynamo namespace, without a worker's suffix.
    pub(super) dynamo_namespace: &'a str,
    /// Name of the graph; of the component where it has none.
    pub(super) graph: &'a str,
    /// Its Kubernetes namespace.
    pub(super) k8s_namespace: &'a str,
    /// The worker hash, on workers of a graph.
    pub(super) worker_hash: Option<&'a str>,
    /// Who finds whom.
    pub(super) discovery: DiscoveryBackend,
    /// Each container is an instance of its own.
    pub(super) is_container_mode: bool,
}

/// Variables of a container of kind `kind` at `place`, in no order.
///
/// Source: Dynamo, deploy/operator, component_*.go.
pub(super) fn injected(
    place: &Place<'_>,
    kind: Option<ComponentKind>,
    container: &str,
    settings: &Settings,
) -> Vec<EnvVar> {
    let mut all = vec![
        literal("DYN_NAMESPACE", place.dynamo_namespace),
        literal("DYN_COMPONENT", type_word(kind)),
        literal("DYN_PARENT_DGD_K8S_NAME", place.graph),
        literal("DYN_PARENT_DGD_K8S_NAMESPACE", place.k8s_namespace),
        pod_field("POD_NAME", "metadata.name"),
        pod_field("POD_NAMESPACE", "metadata.namespace"),
        pod_field("POD_UID", "metadata.uid"),
    ];
    if place.discovery == DiscoveryBackend::Kubernetes {
        all.push(literal("DYN_DISCOVERY_BACKEND", DiscoveryBackend::Kubernetes.word()));
    }
    if place.is_container_mode {
        all.extend([literal("CONTAINER_NAME", container), literal("DYN_KUBE_DISCOVERY_MODE", "container")]);
    }
    all.extend(platform(settings));
    match kind {
        Some(ComponentKind::Frontend) => all.extend(frontend(place)),
        Some(ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode) => all.extend(worker(place)),
        Some(ComponentKind::Planner) => all.extend([
            literal("PLANNER_PROMETHEUS_PORT", &PLANNER_PORT.to_string()),
            literal("DYN_SYSTEM_PORT", &SYSTEM_PORT.to_string()),
        ]),
        // It needs no GPU; without the last one NVIDIA's runtime looks for a driver.
        Some(ComponentKind::Epp) => all.extend([
            literal("USE_STREAMING", "true"),
            literal("RUST_LOG", "info"),
            literal("NVIDIA_VISIBLE_DEVICES", "void"),
        ]),
        None => {}
    }
    all
}

/// Addresses of what the platform runs, as far as there is such.
fn platform(settings: &Settings) -> impl Iterator<Item = EnvVar> {
    let etcd = (!settings.etcd_endpoints.is_empty()).then(|| settings.etcd_endpoints.join(","));
    [
        ("NATS_SERVER", settings.nats_address.clone()),
        ("ETCD_ENDPOINTS", etcd),
        ("MODEL_EXPRESS_URL", settings.model_express_url.clone()),
        ("PROMETHEUS_ENDPOINT", settings.prometheus_endpoint.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.filter(|value| !value.is_empty()).map(|value| literal(name, &value)))
}

fn frontend(place: &Place<'_>) -> [EnvVar; 4] {
    let port = HTTP_PORT.to_string();
    [
        literal("DYNAMO_PORT", &port),
        literal("DYN_HTTP_PORT", &port),
        literal("DYN_NAMESPACE_PREFIX", place.dynamo_namespace),
        // Without it the prefix `default-chat` would also take the workers of a graph `chat-2`.
        literal("DYN_NAMESPACE_PREFIX_STRICT", "true"),
    ]
}

fn worker(place: &Place<'_>) -> Vec<EnvVar> {
    let mut all = vec![
        literal("DYN_SYSTEM_ENABLED", "true"),
        literal("DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS", r#"["generate"]"#),
        literal("DYN_SYSTEM_PORT", &SYSTEM_PORT.to_string()),
        literal("DYN_HEALTH_CHECK_ENABLED", "false"),
        literal("NIXL_TELEMETRY_ENABLE", "n"),
        literal("NIXL_TELEMETRY_EXPORTER", "prometheus"),
        literal("NIXL_TELEMETRY_PROMETHEUS_PORT", &NIXL_PORT.to_string()),
    ];
    all.extend(place.worker_hash.map(|hash| literal("DYN_NAMESPACE_WORKER_SUFFIX", hash)));
    all
}

/// By name; but a variable stands behind those that its value names as `$(NAME)`, because Kubernetes expands only what
/// stands before.
pub(super) fn in_order(mut all: Vec<EnvVar>) -> Vec<EnvVar> {
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ordered: Vec<EnvVar> = Vec::with_capacity(all.len());
    while !all.is_empty() {
        let is_free = |var: &EnvVar| {
            let value = var.value.as_deref().unwrap_or_default();
            !all.iter().any(|other| other.name != var.name && value.contains(&format!("$({})", other.name)))
        };
        // A circle expands nowhere; its members keep their order.
        let next = all.iter().position(is_free).unwrap_or(0);
        ordered.push(all.remove(next));
    }
    ordered
}

pub(super) fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn pod_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: None, field_path: path.to_owned() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}
