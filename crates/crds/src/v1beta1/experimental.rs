//! Preview features of a component.

use crate::parts::CheckpointIdentity;
use crate::rules;
use crate::schema::kubernetes::free_form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Pattern of a container's name.
const CONTAINER_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Preview features; their shape may change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::EXPERIMENTAL))]
pub struct Experimental {
    /// GPU memory that outlives the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_service: Option<GpuMemoryService>,
    /// A shadow engine that takes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// Snapshots of a started engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// GPU memory that outlives the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::GPU_MEMORY_SERVICE))]
pub struct GpuMemoryService {
    /// `IntraPod` (default) or `InterPod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["IntraPod", "InterPod"], "x-default" = "IntraPod"))]
    pub mode: Option<String>,
    /// Device class that the GPUs are claimed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "gpu.nvidia.com"))]
    pub device_class_name: Option<String>,
    /// Other containers of the pod that are clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set"))]
    pub extra_client_containers: Option<Vec<String>>,
    /// Reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub extra_client_pods: Option<Vec<GpuMemoryClientPod>>,
}

/// Reserved: a pod that is a client of the GPU memory service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "podTemplate"]))]
pub struct GpuMemoryClientPod {
    /// Its name.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = CONTAINER_PATTERN))]
    pub name: String,
    /// Its pod.
    #[schemars(schema_with = "free_form")]
    pub pod_template: Value,
}

/// A shadow engine that takes over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// That of the GPU memory service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["IntraPod", "InterPod"], "x-default" = "IntraPod"))]
    pub mode: Option<String>,
    /// Shadows of each rank; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 1, "x-default" = 1, "format" = "int32"))]
    pub num_shadows: Option<i64>,
}

/// Snapshots of a started engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["enabled"], "x-kubernetes-validations" = rules::CHECKPOINT_V1BETA1))]
pub struct Checkpoint {
    /// On.
    pub enabled: bool,
    /// Deprecated: give or leave out `checkpointRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Auto", "Manual"]))]
    pub mode: Option<String>,
    /// `Immediate` (default) or `WaitForCheckpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Immediate", "WaitForCheckpoint"], "x-default" = "Immediate"))]
    pub startup_policy: Option<String>,
    /// `Delete` (default) or `Retain`, when the graph is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Delete", "Retain"], "x-default" = "Delete"))]
    pub deletion_policy: Option<String>,
    /// Name of a DynamoCheckpoint to restore from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_ref: Option<String>,
    /// Deprecated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<CheckpointIdentity>,
    /// The container that is frozen; `main` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = CONTAINER_PATTERN, "x-default" = "main"))]
    pub target_container_name: Option<String>,
    /// The Job that makes the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<CheckpointJob>,
}

/// The Job that makes a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckpointJob {
    /// Containers of the Job that are clients of the GPU memory service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set"))]
    pub gms_client_containers: Option<Vec<String>>,
    /// Merged over the workload's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub pod_template: Option<Value>,
}
