//! A graph and the adapter that scales one of its components.

use super::component::{ComponentSpec, ScalingAdapter};
use crate::parts::{
    AdapterStatus, CheckpointStatus, GraphExperimental, GraphTopology, PlacementStatus, ProviderOverride, Restart,
    RestartStatus,
};
use crate::rules;
use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    pub status: Option<GraphStatus>,
}

/// What should run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::GRAPH_V1BETA1))]
pub struct GraphSpec {
    /// Onto all children; a component's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto all children; a component's wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Priority class of the pods; Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// At most 25, names unique whatever their case.
    #[schemars(extend("maxItems" = 25, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentSpec>,
    /// Prepended to every component's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::kubernetes::env")]
    pub env: Vec<EnvVar>,
    /// `vllm`, `sglang` or `trtllm`; found from the commands when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = crate::BACKEND_FRAMEWORKS))]
    pub backend_framework: Option<String>,
    /// Asks for a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
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
    /// Replicas by component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<BTreeMap<String, ReplicaStatus>>,
    /// The restart asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStatus>,
    /// Checkpoints by component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<BTreeMap<String, CheckpointStatus>>,
    /// The update under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdateStatus>,
    /// The scheduler's placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
}

/// Replicas of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["componentKind", "replicas", "updatedReplicas"]))]
pub struct ReplicaStatus {
    /// Kind of the object that holds the pods.
    #[schemars(extend("enum" = crate::conditions::COMPONENT_KINDS))]
    pub component_kind: String,
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
    /// Components that are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_components: Option<Vec<String>>,
}

/// Lets an autoscaler own the replicas of one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamoGraphDeploymentScalingAdapter {
    /// `nvidia.com/v1beta1`.
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
    /// The component.
    pub dgd_ref: ScaledComponent,
}

/// A component, or a group of them, of a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = rules::SCALED_COMPONENT))]
pub struct ScaledComponent {
    /// Name of the graph.
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// Name of the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub component_name: Option<String>,
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub component_group_name: Option<String>,
}
