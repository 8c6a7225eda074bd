//! A component: inside a graph, or alone as a DynamoComponentDeployment.

use super::experimental::Experimental;
use super::graph::ReplicaStatus;
use crate::parts::{ComponentTopology, EppConfig, ModelReference, Multinode, ProviderOverride, Role};
use crate::rules;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A component; also the spec of `DynamoComponentDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = rules::COMPONENT_V1BETA1))]
pub struct ComponentSpec {
    /// 1 to 63 letters, digits and `-`.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = crate::NAME_PATTERN))]
    pub name: String,
    /// `frontend`, `worker`, `prefill`, `decode`, `planner` or `epp`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::COMPONENT_TYPES))]
    pub component_type: Option<String>,
    /// MAJOR.MINOR.PATCH when the image's tag does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = r"^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$"))]
    pub runtime_version_override: Option<String>,
    /// The Dynamo namespace is `dynamo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_dynamo_namespace: Option<bool>,
    /// The pod; its container `main` runs the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::pod_template")]
    pub pod_template: Option<PodTemplateSpec>,
    /// Replicas; 1 when absent.
    // Signed, so that a negative count can be reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub replicas: Option<i64>,
    /// Replicas that are scheduled together; Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "format" = "int32"))]
    pub min_available: Option<i64>,
    /// One replica over several nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multinode: Option<Multinode>,
    /// Leader and worker of a multinode component.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 2, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Option<Vec<Role>>,
    /// Shared memory at /dev/shm; 8Gi when absent, `0` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub shared_memory_size: Option<Value>,
    /// The model that the component serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<ModelReference>,
    /// A scaling adapter owns the replicas; `{}` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_adapter: Option<ScalingAdapter>,
    /// Endpoint picker; type epp only. Deprecated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epp_config: Option<EppConfig>,
    /// Name of a container of the pod that is a frontend beside the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub frontend_sidecar: Option<String>,
    /// Name of a restartable init container that runs the Dynamo runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub dynamo_sidecar: Option<String>,
    /// Claim for the engine's compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compilation_cache: Option<CompilationCache>,
    /// Where the pods are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<ComponentTopology>,
    /// Fragment for the provider's object of this component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<ProviderOverride>,
    /// Preview features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experimental: Option<Experimental>,
}

/// On by being there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingAdapter {}

/// A volume claim that keeps what the engine compiled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pvcName"]))]
pub struct CompilationCache {
    /// Name of the claim, in the same Kubernetes namespace.
    #[schemars(extend("minLength" = 1))]
    pub pvc_name: String,
    /// Where; the engine's own place when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
}

/// A component of its own, as the operator makes them for a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoComponentDeployment {
    /// `nvidia.com/v1beta1`.
    pub api_version: String,
    /// `DynamoComponentDeployment`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What should run.
    pub spec: DeploymentSpec,
    /// Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
}

/// What should run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// `vllm`, `sglang` or `trtllm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::BACKEND_FRAMEWORKS))]
    pub backend_framework: Option<String>,
    /// The component.
    #[serde(flatten)]
    pub component: ComponentSpec,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// Generation of the spec that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available` and `DynamoComponentReady`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::conditions")]
    pub conditions: Option<Vec<Condition>>,
    /// Replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<ReplicaStatus>,
}
