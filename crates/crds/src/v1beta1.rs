//! `nvidia.com/v1beta1`: a list of components with native pod templates, the stored version.
//!
//! Source: Dynamo, deploy/operator/api/v1beta1/dynamographdeployment_types.go. Fields that only the operator reads are
//! carried as JSON.

use k8s_openapi::api::core::v1::{EnvVar, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeployment {
    /// `nvidia.com/v1beta1`.
    pub api_version: String,
    /// `DynamoGraphDeployment`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What should run.
    pub spec: GraphSpec,
    /// Written by the operator; ignored on input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// `spec` of a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphSpec {
    /// Onto all children; a component's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto all children; a component's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// At most 25, names unique whatever their case.
    pub components: Vec<ComponentSpec>,
    /// Prepended to every component's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// `vllm`, `sglang` or `trtllm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_framework: Option<String>,
    /// Ordered restart; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Value>,
    /// Topology; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<Value>,
    /// Grove root fragment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<Value>,
    /// Experimental fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experimental: Option<Value>,
}

/// A component; also the spec of `DynamoComponentDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentSpec {
    /// 1 to 63 letters, digits and `-`.
    pub name: String,
    /// `frontend`, `worker`, `prefill`, `decode`, `planner` or `epp`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub component_type: Option<String>,
    /// MAJOR.MINOR.PATCH when the image's tag does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_version_override: Option<String>,
    /// The Dynamo namespace is `dynamo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_dynamo_namespace: Option<bool>,
    /// The pod; its container `main` runs the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplateSpec>,
    /// Replicas; 1 when absent. Signed, so that a negative count can be reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_available: Option<i64>,
    /// Several nodes; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multinode: Option<Value>,
    /// Leader and worker roles; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<Value>>,
    /// Shared memory; 8Gi when absent, `0` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory_size: Option<Value>,
    /// The model that the component serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<Value>,
    /// Scaling adapter; `{}` is on. Kept although it may be empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_adapter: Option<Value>,
    /// Endpoint picker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epp_config: Option<Value>,
    /// Name of a container that is a frontend beside the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend_sidecar: Option<String>,
    /// Name of a restartable init container that runs the Dynamo runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_sidecar: Option<String>,
    /// Claim for the engine's compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compilation_cache: Option<Value>,
    /// Topology; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<Value>,
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Experimental fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experimental: Option<Value>,
}
