//! A service: the shape of a component in v1alpha1, and its pod.

use super::service_parts::{
    Autoscaling, Checkpoint, ExtraPodMetadata, Failover, FrontendSidecar, GpuMemoryService, Ingress, ScalingAdapter,
};
use crate::parts::{ComponentTopology, EppConfig, ModelReference, Multinode, ProviderOverride, Role};
use crate::rules;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Probe, ResourceClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A service: the component spec shared with `DynamoComponentDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The component's name again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// `frontend`, `worker`, `prefill`, `decode`, `planner`, `epp`, `default` or `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_type: Option<String>,
    /// `prefill` or `decode` of a `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_component_type: Option<String>,
    /// Deprecated and ignored, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_namespace: Option<String>,
    /// The Dynamo namespace is `dynamo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_dynamo_namespace: Option<bool>,
    /// Requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Deprecated and ignored, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::kubernetes::env")]
    pub envs: Vec<EnvVar>,
    /// A Secret whose keys become environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_from_secret: Option<String>,
    /// Mounts of `pvcs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 100))]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Exposure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// The model that the service serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<ModelReference>,
    /// Shared memory at /dev/shm; 8Gi when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<SharedMemory>,
    /// Onto the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_pod_metadata: Option<ExtraPodMetadata>,
    /// The pod, with the component's container as `mainContainer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::extra_pod_spec")]
    pub extra_pod_spec: Option<ExtraPodSpec>,
    /// Override.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::probe")]
    pub liveness_probe: Option<Probe>,
    /// Override.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::probe")]
    pub readiness_probe: Option<Probe>,
    /// Replicas; 1 when absent.
    // Signed, so that a negative count can be reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub replicas: Option<i64>,
    /// One replica over several nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multinode: Option<Multinode>,
    /// A scaling adapter owns the replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_adapter: Option<ScalingAdapter>,
    /// Endpoint picker; type epp only. Deprecated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epp_config: Option<EppConfig>,
    /// A frontend beside the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend_sidecar: Option<FrontendSidecar>,
    /// Snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// GPU memory service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_service: Option<GpuMemoryService>,
    /// Failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// Replicas that are scheduled together; Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "format" = "int32"))]
    pub min_available: Option<i64>,
    /// Leader and worker of a multinode component.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 2, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Option<Vec<Role>>,
    /// Where the pods are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<ComponentTopology>,
    /// Fragment for the provider's object of this component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<ProviderOverride>,
    /// MAJOR.MINOR.PATCH when the image's tag does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_version_override: Option<String>,
    /// Name of a restartable init container that runs the Dynamo runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_sidecar: Option<String>,
}

/// Requests and limits in Dynamo's own shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resources {
    /// Least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceItem>,
    /// Most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceItem>,
    /// Dynamic resource claims.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::resource_claims")]
    pub claims: Option<Vec<ResourceClaim>>,
}

/// Amounts. Numbers are taken beside texts, as users write both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceItem {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub cpu: Option<Value>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub memory: Option<Value>,
    /// Number of GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub gpu: Option<Value>,
    /// Resource name of the GPU; `nvidia.com/gpu` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Anything else by resource name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::quantities")]
    pub custom: Option<BTreeMap<String, Quantity>>,
}

/// A mount of a volume claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = rules::VOLUME_MOUNT))]
pub struct VolumeMount {
    /// Name of the claim.
    pub name: String,
    /// Where; required unless it is the compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<String>,
    /// It holds the engine's compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_as_compilation_cache: Option<bool>,
}

/// Shared memory of the pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = rules::SHARED_MEMORY))]
pub struct SharedMemory {
    /// None at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Size, such as `8Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub size: Option<Value>,
}

/// A pod spec with the component's container beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtraPodSpec {
    /// The component's container; its name may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_container: Option<Container>,
    /// The rest of the pod.
    #[serde(flatten)]
    pub pod: PodSpec,
}
