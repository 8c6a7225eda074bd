//! Parts that both API versions write the same way.

use crate::rules;
use crate::schema::kubernetes::free_form;
use k8s_openapi::api::core::v1::ConfigMapKeySelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Pattern of a topology domain.
const DOMAIN_PATTERN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
/// Pattern of a node label's key.
const LABEL_KEY_PATTERN: &str = "^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?)/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// Asks for a restart: a new `id` starts one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["id"]))]
pub struct Restart {
    /// Any text; a change starts a restart.
    #[schemars(extend("minLength" = 1))]
    pub id: String,
    /// In which order; one after the other by name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RestartStrategy>,
}

/// Order of a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::RESTART_STRATEGY))]
pub struct RestartStrategy {
    /// `Sequential` (default) or `Parallel`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Sequential", "Parallel"], "x-default" = "Sequential"))]
    pub strategy_type: Option<String>,
    /// All components in the order of the restart; by name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 25))]
    pub order: Option<Vec<String>>,
}

/// Where the pods of a whole graph are packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["clusterTopologyName"]))]
pub struct GraphTopology {
    /// The ClusterTopology that names the levels.
    #[schemars(extend("minLength" = 1))]
    pub cluster_topology_name: String,
    /// The level to pack within, such as `rack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = DOMAIN_PATTERN))]
    pub pack_domain: Option<String>,
}

/// Where the pods of one component are packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["packDomain"]))]
pub struct ComponentTopology {
    /// The level to pack within; not wider than the graph's.
    #[schemars(extend("pattern" = DOMAIN_PATTERN))]
    pub pack_domain: String,
}

/// A fragment for the object of the workload provider (Grove).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProviderOverride {
    /// API of the provider, `grove.io/v1alpha1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The provider's object, such as `PodCliqueSet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The fragment; only its topology constraint is honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub value: Option<Value>,
}

/// Preview features of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphExperimental<Adapter> {
    /// Which decode workers may take the KV cache of a prefill worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_transfer_policy: Option<KvTransferPolicy>,
    /// Components that scale together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub component_groups: Option<Vec<ComponentGroup<Adapter>>>,
}

/// Which decode workers may take the KV cache of a prefill worker, by topology.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["domain"], "x-kubernetes-validations" = rules::KV_TRANSFER_POLICY))]
pub struct KvTransferPolicy {
    /// Node label whose value is the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 317, "pattern" = LABEL_KEY_PATTERN))]
    pub label_key: Option<String>,
    /// The ClusterTopology that names the levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub cluster_topology_name: Option<String>,
    /// The level that must or should match, such as `zone`.
    #[schemars(extend("pattern" = DOMAIN_PATTERN))]
    pub domain: String,
    /// `required` (default) or `preferred`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["required", "preferred"], "x-default" = "required"))]
    pub enforcement: Option<String>,
    /// 0.0 (ignored) to 1.0 (strongest); only with `preferred`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub preferred_weight: Option<f64>,
}

/// Components that scale as one unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["name", "replicas", "components"]))]
pub struct ComponentGroup<Adapter> {
    /// Unique among the graph's groups.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = crate::NAME_PATTERN))]
    pub name: String,
    /// Units.
    #[schemars(extend("minimum" = 1, "format" = "int32"))]
    pub replicas: i64,
    /// The scaling adapter owns `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_adapter: Option<Adapter>,
    /// Members.
    #[schemars(extend("minItems" = 1, "maxItems" = 16, "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<GroupMember>,
}

/// A component of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct GroupMember {
    /// Name of the component.
    #[schemars(extend("minLength" = 1))]
    pub name: String,
}

/// A model that a component serves: makes a headless Service for discovery.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct ModelReference {
    /// Identifier of the base model.
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// Revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// One replica over several nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Multinode {
    /// Nodes of one replica; 2 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 2, "x-default" = 2, "format" = "int32"))]
    pub node_count: Option<i64>,
}

/// A role of a multinode component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct Role {
    /// `leader` or `worker`.
    #[schemars(extend("enum" = ["leader", "worker"]))]
    pub name: String,
    /// Pods of the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "format" = "int32"))]
    pub replicas: Option<i64>,
    /// Fragment for the provider's object of this role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_override: Option<ProviderOverride>,
}

/// Configuration of an endpoint picker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::EPP_CONFIG))]
pub struct EppConfig {
    /// A key of a ConfigMap that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::config_map_key")]
    pub config_map_ref: Option<ConfigMapKeySelector>,
    /// The `EndpointPickerConfig` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub config: Option<Value>,
}

/// What makes two checkpoints the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["model", "backendFramework"]))]
pub struct CheckpointIdentity {
    /// The model.
    #[schemars(extend("minLength" = 1))]
    pub model: String,
    /// `vllm`, `sglang` or `trtllm`.
    #[schemars(extend("enum" = crate::BACKEND_FRAMEWORKS))]
    pub backend_framework: String,
    /// Version of the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_version: Option<String>,
    /// Tensor parallel size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "x-default" = 1, "format" = "int32"))]
    pub tensor_parallel_size: Option<i64>,
    /// Pipeline parallel size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "x-default" = 1, "format" = "int32"))]
    pub pipeline_parallel_size: Option<i64>,
    /// `fp16`, `bf16`, `fp8` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Longest sequence, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "format" = "int32"))]
    pub max_model_len: Option<i64>,
    /// Anything else that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_parameters: Option<BTreeMap<String, String>>,
}

/// How far a restart is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartStatus {
    /// The `restart.id` that is worked on.
    #[serde(rename = "observedID", skip_serializing_if = "Option::is_none")]
    pub observed_id: Option<String>,
    /// `Pending`, `Restarting`, `Completed`, `Failed` or `Superseded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Pending", "Restarting", "Completed", "Failed", "Superseded"]))]
    pub phase: Option<String>,
    /// Components that restart now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<Vec<String>>,
}

/// The checkpoint of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckpointStatus {
    /// Name of the DynamoCheckpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_name: Option<String>,
    /// Identifier of the artifact.
    #[serde(rename = "checkpointID", skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<String>,
    /// Hash of the identity; older consumers read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_hash: Option<String>,
    /// New pods can restore from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// How well the scheduler placed the graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlacementStatus {
    /// 0.0 to 1.0, the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub score: Option<f64>,
    /// Whether the score is there and whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Reported", "Partial", "Unsupported", "Unknown"]))]
    pub state: Option<String>,
}

/// Pods that a scaling adapter controls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AdapterStatus {
    /// Replicas now; read by the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub replicas: Option<i64>,
    /// Label selector of the pods; read by the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// When the adapter last changed the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
}
