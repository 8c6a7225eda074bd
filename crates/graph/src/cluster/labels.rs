//! Labels and annotations of the objects of a graph: Dynamo's words, which users' selectors and scripts hold us to.
//!
//! Source: Dynamo, deploy/operator/internal/consts.

/// Label of everything that the operator makes; its value is [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The operator, as label value and as field manager.
pub const MANAGER: &str = "busbar-operator";

/// Name of the DynamoComponentDeployment: what a Deployment selects its pods by.
pub const SELECTOR: &str = "nvidia.com/selector";
/// Name of the graph.
pub const GRAPH_NAME: &str = "nvidia.com/dynamo-graph-deployment-name";
/// Name of the component, as written.
pub const COMPONENT: &str = "nvidia.com/dynamo-component";
/// The Dynamo namespace, without a worker's suffix.
pub const DYNAMO_NAMESPACE: &str = "nvidia.com/dynamo-namespace";
/// `frontend`, `worker`, `prefill`, `decode`, `planner`, `epp` or `default`.
pub const COMPONENT_TYPE: &str = "nvidia.com/dynamo-component-type";
/// `prefill` or `decode`.
pub const SUB_COMPONENT_TYPE: &str = "nvidia.com/dynamo-sub-component-type";
/// `worker` on workers of all kinds.
pub const COMPONENT_CLASS: &str = "nvidia.com/dynamo-component-class";
/// Hash of the graph's workers, on workers of all kinds.
pub const WORKER_HASH: &str = "nvidia.com/dynamo-worker-hash";
/// Base model of a component with `modelRef`: annotation with its name.
pub const BASE_MODEL: &str = "nvidia.com/dynamo-base-model";
/// Base model of a component with `modelRef`: label with [`super::base_model_hash`].
pub const BASE_MODEL_HASH: &str = "nvidia.com/dynamo-base-model-hash";
/// On Services: which backend finds their pods. As an annotation the user's choice, `kubernetes` or `etcd`.
pub const DISCOVERY_BACKEND: &str = "nvidia.com/dynamo-discovery-backend";
/// On Services: `true` where the backend is Kubernetes.
pub const DISCOVERY_ENABLED: &str = "nvidia.com/dynamo-discovery-enabled";
/// On pods: `true` unless [`ENABLE_METRICS`] is `false`.
pub const METRICS_ENABLED: &str = "nvidia.com/metrics-enabled";

/// Annotation of the user: `pod` (default) or `container`.
pub const KUBE_DISCOVERY_MODE: &str = "nvidia.com/dynamo-kube-discovery-mode";
/// Annotation of the user: `false` opts out of metrics.
pub const ENABLE_METRICS: &str = "nvidia.com/enable-metrics";
/// Annotation of the user: `true` leaves image pull secrets to the manifest.
pub const DISABLE_PULL_SECRETS: &str = "nvidia.com/disable-image-pull-secret-discovery";
/// Annotation of the user: pods above the wanted number during an update, a count or a percentage.
pub const MAX_SURGE: &str = "nvidia.com/deployment-rolling-update-max-surge";
/// Annotation of the user: pods that may be missing during an update, a count or a percentage.
pub const MAX_UNAVAILABLE: &str = "nvidia.com/deployment-rolling-update-max-unavailable";
/// Annotation of the user: `mp` or `ray`.
pub const EXECUTOR_BACKEND: &str = "nvidia.com/vllm-distributed-executor-backend";
/// Annotation of the user: `true` asks for Grove.
pub const ENABLE_GROVE: &str = "nvidia.com/enable-grove";
/// Annotation of the user: `true` asks for a DisaggregatedSet.
pub const ENABLE_DISAGGREGATED_SET: &str = "nvidia.com/enable-disaggregatedset";
/// Annotation of the operator on a DynamoComponentDeployment: a new text restarts its pods.
pub const RESTART_AT: &str = "nvidia.com/restartAt";
/// Annotation of the operator on a graph: the worker hash that serves.
pub const CURRENT_WORKER_HASH: &str = "nvidia.com/current-worker-hash";
/// The same, under Dynamo's newer name.
pub const CURRENT_WORKER_HASH_V2: &str = "nvidia.com/current-worker-hash-v2";

/// Annotations of a graph's metadata that speak of its components and go down to them.
pub(super) const PASSED_DOWN: [&str; 8] = [
    DISCOVERY_BACKEND,
    KUBE_DISCOVERY_MODE,
    ENABLE_METRICS,
    DISABLE_PULL_SECRETS,
    MAX_SURGE,
    MAX_UNAVAILABLE,
    EXECUTOR_BACKEND,
    "sidecar.istio.io/inject",
];
