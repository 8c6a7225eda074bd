//! A request for a graph: the model and the goal are given, the configuration is looked for.

use crate::rules;
use crate::schema::kubernetes::free_form;
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request for a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeploymentRequest {
    /// `nvidia.com/v1beta1`.
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
    /// `auto` (default), `vllm`, `sglang` or `trtllm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["auto", "sglang", "trtllm", "vllm"], "x-default" = "auto"))]
    pub backend: Option<String>,
    /// Image of the profiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A volume claim that holds the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCache>,
    /// GPUs to plan for; found when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// The traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,
    /// What the result must hold whatever is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
    /// Features of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// `rapid` (default) or `thorough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["rapid", "thorough"], "x-default" = "rapid"))]
    pub search_strategy: Option<String>,
    /// Deploy the result; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = true))]
    pub auto_apply: Option<bool>,
}

/// A volume claim that holds the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelCache {
    /// Name of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvc_name: Option<String>,
    /// Folder of the model in the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvc_model_path: Option<String>,
    /// Where the claim is mounted; `/opt/model-cache` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "/opt/model-cache"))]
    pub pvc_mount_path: Option<String>,
}

/// GPUs to plan for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Hardware {
    /// Such as `h100_sxm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_sku: Option<String>,
    /// Memory of one GPU, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub vram_mb: Option<f64>,
    /// GPUs in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub total_gpus: Option<i64>,
    /// GPUs of one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub num_gpus_per_node: Option<i64>,
}

/// The traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workload {
    /// Tokens of a prompt; 4000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "x-default" = 4000, "format" = "int32"))]
    pub isl: Option<i64>,
    /// Tokens of an answer; 1000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "x-default" = 1000, "format" = "int32"))]
    pub osl: Option<i64>,
    /// Requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub concurrency: Option<f64>,
    /// Requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub request_rate: Option<f64>,
}

/// The goal, in milliseconds or in a word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::SLA))]
pub struct Sla {
    /// Time to the first token, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub ttft: Option<f64>,
    /// Time between tokens, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub itl: Option<f64>,
    /// Time of a whole answer, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub e2e_latency: Option<f64>,
    /// `latency` or `throughput`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["latency", "throughput"]))]
    pub optimization_type: Option<String>,
}

/// What the result must hold whatever is found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Overrides {
    /// Merged over the profiling Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::job_spec")]
    pub profiling_job: Option<JobSpec>,
    /// Merged over the graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub dgd: Option<Value>,
}

/// Features of the result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Features {
    /// The planner's configuration; there means on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub planner: Option<Value>,
    /// Mock engines in place of real ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mocker: Option<Mocker>,
}

/// Mock engines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mocker {
    /// On.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// How far a request is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestStatus {
    /// Generation of the spec that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Pending`, `Profiling`, `Ready`, `Deploying`, `Deployed` or `Failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Pending", "Profiling", "Ready", "Deploying", "Deployed", "Failed"]))]
    pub phase: Option<String>,
    /// What the profiler does now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Initializing", "SweepingPrefill", "SweepingDecode", "SelectingConfig",
        "BuildingCurves", "GeneratingDGD", "Done"]))]
    pub profiling_phase: Option<String>,
    /// The graph that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dgd_name: Option<String>,
    /// The profiler's Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiling_job_name: Option<String>,
    /// `Succeeded` above all; each with a reason and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::conditions")]
    pub conditions: Option<Vec<Condition>>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiling_results: Option<ProfilingResults>,
    /// What was deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_info: Option<DeploymentInfo>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfilingResults {
    /// Configurations that none other beats in all respects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pareto: Option<Vec<ParetoPoint>>,
    /// The one that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub selected_config: Option<Value>,
}

/// One configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ParetoPoint {
    /// The graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub config: Option<Value>,
}

/// What was deployed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentInfo {
    /// Replicas wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub replicas: Option<i64>,
    /// Replicas available.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub available_replicas: Option<i64>,
}
