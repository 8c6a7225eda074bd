//! A request for a graph, in its first shape.

use crate::schema::kubernetes::free_form;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A request for a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeploymentRequest {
    /// `nvidia.com/v1alpha1`.
    pub api_version: String,
    /// `DynamoGraphDeploymentRequest`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Model and goal.
    pub spec: RequestSpec,
    /// Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RequestStatus>,
}

/// Model and goal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["model"]))]
pub struct RequestSpec {
    /// The model.
    #[schemars(extend("minLength" = 1))]
    pub model: String,
    /// `auto`, `vllm`, `sglang` or `trtllm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["auto", "sglang", "trtllm", "vllm"]))]
    pub backend: Option<String>,
    /// Mock engines in place of real ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_mocker: Option<bool>,
    /// The profiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiling_config: Option<ProfilingConfig>,
    /// Deprecated: GPUs are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_gpu_discovery: Option<bool>,
    /// Deploy the result; false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_apply: Option<bool>,
    /// Of the graph that is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_overrides: Option<DeploymentOverrides>,
}

/// The profiler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["profilerImage"]))]
pub struct ProfilingConfig {
    /// Its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub config: Option<Value>,
    /// A key of a ConfigMap with a graph to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapKey>,
    /// Its image.
    #[schemars(extend("minLength" = 1))]
    pub profiler_image: String,
    /// Claim for what it writes.
    #[serde(rename = "outputPVC", skip_serializing_if = "Option::is_none")]
    pub output_pvc: Option<String>,
    /// Requests and limits of its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::resource_requirements")]
    pub resources: Option<ResourceRequirements>,
    /// Tolerations of its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::tolerations")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Nodes of its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// The key; `disagg.yaml` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "disagg.yaml"))]
    pub key: Option<String>,
}

/// What the graph that is made must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentOverrides {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Its annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Image of its workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_image: Option<String>,
}

/// How far a request is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestStatus {
    /// Generation of the spec that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Initializing`, `Pending`, `Profiling`, `Deploying`, `Ready`, `DeploymentDeleted` or `Failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Initializing", "Pending", "Profiling", "Deploying", "Ready", "DeploymentDeleted",
        "Failed"]))]
    pub state: Option<String>,
    /// The backend that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Each with a reason and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::conditions")]
    pub conditions: Option<Vec<Condition>>,
    /// Where the results are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiling_results: Option<String>,
    /// The graph that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub generated_deployment: Option<Value>,
    /// The graph that was deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentReport>,
}

/// The graph that was deployed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeploymentReport {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// It was made by this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
}
