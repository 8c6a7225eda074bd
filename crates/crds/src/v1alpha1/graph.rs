//! A graph, a component of its own, and the adapter that scales one service.

use super::ordered::Ordered;
use super::service::ServiceSpec;
use super::service_parts::ScalingAdapter;
use crate::parts::{
    AdapterStatus, CheckpointStatus, GraphExperimental, GraphTopology, PlacementStatus, ProviderOverride, Restart,
    RestartStatus,
};
use crate::rules;
use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeployment {
    /// `nvidia.com/v1alpha1`.
    pub api_version: String,
    /// `DynamoGraphDeployment`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What should run.
    pub spec: GraphSpec,
    /// Written by the operator; ignored on input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<GraphStatus>,
}

/// What should run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::GRAPH_V1ALPHA1))]
pub struct GraphSpec {
    /// Onto all children; a service's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto all children; a service's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Volume claims that services mount by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 100))]
    pub pvcs: Option<Vec<Pvc>>,
    /// Components by name, at most 25.
    #[schemars(extend("maxProperties" = 25))]
    pub services: Ordered<ServiceSpec>,
    /// Environment of every service; the service wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::kubernetes::env")]
    pub envs: Vec<EnvVar>,
    /// `vllm`, `sglang` or `trtllm`; found from the commands when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::BACKEND_FRAMEWORKS))]
    pub backend_framework: Option<String>,
    /// Asks for a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Priority class of the pods; Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Where the pods are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<GraphTopology>,
    /// Fragment for the provider's root object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<ProviderOverride>,
    /// Preview features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experimental: Option<GraphExperimental<ScalingAdapter>>,
}

/// A volume claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = rules::PVC))]
pub struct Pvc {
    /// Make it; false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// Its name.
    pub name: String,
    /// Its storage class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::int_or_string")]
    pub size: Option<Value>,
    /// Such as `ReadWriteMany`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_access_mode: Option<String>,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphStatus {
    /// Generation of the spec that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `initializing`, `pending`, `successful` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::conditions::GRAPH_STATES, "x-default" = "initializing"))]
    pub state: Option<String>,
    /// `Ready` above all; each with a reason and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::conditions")]
    pub conditions: Option<Vec<Condition>>,
    /// Replicas by service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<BTreeMap<String, ReplicaStatus>>,
    /// The restart asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStatus>,
    /// Checkpoints by service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<BTreeMap<String, CheckpointStatus>>,
    /// The update under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdateStatus>,
    /// The scheduler's placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
}

/// Replicas of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["componentKind", "replicas", "updatedReplicas"]))]
pub struct ReplicaStatus {
    /// Kind of the object that holds the pods.
    #[schemars(extend("enum" = crate::conditions::COMPONENT_KINDS))]
    pub component_kind: String,
    /// Deprecated: the last of `componentNames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_name: Option<String>,
    /// Names of those objects; the old and the new during an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_names: Option<Vec<String>>,
    /// Pods that have not ended.
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub replicas: i64,
    /// Pods of the wanted revision.
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub updated_replicas: i64,
    /// Ready pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub ready_replicas: Option<i64>,
    /// Available pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub available_replicas: Option<i64>,
}

/// How far an update is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdateStatus {
    /// `Pending`, `InProgress`, `Completed`, `Failed` or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::conditions::ROLLING_UPDATE_PHASES))]
    pub phase: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Services that are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_services: Option<Vec<String>>,
}

/// A component of its own, as the operator makes them for a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoComponentDeployment {
    /// `nvidia.com/v1alpha1`.
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
    pub service: ServiceSpec,
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
    /// Never written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<BTreeMap<String, String>>,
    /// Replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ReplicaStatus>,
}

/// Lets an autoscaler own the replicas of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeploymentScalingAdapter {
    /// `nvidia.com/v1alpha1`.
    pub api_version: String,
    /// `DynamoGraphDeploymentScalingAdapter`.
    pub kind: String,
    /// Name, Kubernetes namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// How many of what.
    pub spec: ScalingAdapterSpec,
    /// Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<AdapterStatus>,
}

/// How many of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["replicas", "dgdRef"]))]
pub struct ScalingAdapterSpec {
    /// Replicas wanted; the scale subresource writes it.
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub replicas: i64,
    /// The service.
    pub dgd_ref: ScaledService,
}

/// A service, or a group of them, of a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = rules::SCALED_SERVICE))]
pub struct ScaledService {
    /// Name of the graph.
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// Name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub service_name: Option<String>,
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub component_group_name: Option<String>,
}
