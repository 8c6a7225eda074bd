//! A model in the cluster, and what a worker pod tells of itself.

use crate::schema::kubernetes::free_form;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A model, or an adapter of one, that workers serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoModel {
    /// `nvidia.com/v1alpha1`.
    pub api_version: String,
    /// `DynamoModel`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// Which model.
    pub spec: ModelSpec,
    /// Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ModelStatus>,
}

/// Which model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["modelName", "baseModelName"]))]
pub struct ModelSpec {
    /// Name that clients ask for.
    #[schemars(extend("minLength" = 1))]
    pub model_name: String,
    /// The base model; components with this `modelRef` serve it.
    #[schemars(extend("minLength" = 1))]
    pub base_model_name: String,
    /// `base` (default), `lora` or `adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["base", "lora", "adapter"], "x-default" = "base"))]
    pub model_type: Option<String>,
    /// Where its files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ModelSource>,
}

/// Where a model's files are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["uri"]))]
pub struct ModelSource {
    /// `s3://BUCKET/PATH` or `hf://ORG/MODEL@REVISION`.
    #[schemars(extend("pattern" = "^(s3|hf)://.+$"))]
    pub uri: String,
}

/// Where a model is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// Pods that serve the base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<ModelEndpoint>>,
    /// How many of them have the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub ready_endpoints: Option<i64>,
    /// How many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub total_endpoints: Option<i64>,
    /// Each with a reason and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// A pod that serves the base model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["address"]))]
pub struct ModelEndpoint {
    /// Address of its system server.
    pub address: String,
    /// Name of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// It has the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// What a worker pod tells of itself; the pod owns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoWorkerMetadata {
    /// `nvidia.com/v1alpha1`.
    pub api_version: String,
    /// `DynamoWorkerMetadata`.
    pub kind: String,
    /// Name, Kubernetes namespace, owner.
    pub metadata: ObjectMeta,
    /// The record.
    pub spec: WorkerMetadataSpec,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["data"]))]
pub struct WorkerMetadataSpec {
    /// Endpoints, model cards and event channels, as the runtime writes them.
    #[schemars(schema_with = "free_form")]
    pub data: Value,
}
