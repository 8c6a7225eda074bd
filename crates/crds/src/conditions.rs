//! Words of statuses: states, conditions and their reasons, as Dynamo's users' scripts look for them.
//!
//! Source: Dynamo, deploy/operator/api, the status types of both versions.

/// The condition that `kubectl wait --for=condition=Ready` waits for, on a graph.
pub const READY: &str = "Ready";
/// A component serves.
pub const AVAILABLE: &str = "Available";
/// The objects below a component are ready.
pub const DYNAMO_COMPONENT_READY: &str = "DynamoComponentReady";
/// The topology levels that a graph names exist.
pub const TOPOLOGY_LEVELS_AVAILABLE: &str = "TopologyLevelsAvailable";
/// A deployment request reached its end.
pub const SUCCEEDED: &str = "Succeeded";

/// `status.state` of a graph, the first while nothing is known.
pub const GRAPH_STATES: [&str; 4] = ["initializing", "pending", "successful", "failed"];
/// Kinds of object that hold a component's pods.
pub const COMPONENT_KINDS: [&str; 4] = ["PodClique", "PodCliqueScalingGroup", "Deployment", "LeaderWorkerSet"];
/// Phases of a rolling update; empty when none was.
pub const ROLLING_UPDATE_PHASES: [&str; 5] = ["Pending", "InProgress", "Completed", "Failed", ""];
/// Reasons of [`READY`].
pub const READY_REASONS: [&str; 7] = [
    "all_resources_are_ready",
    "insufficient_capacity",
    "pods_not_ready",
    "updating",
    "mixed_not_ready_reasons",
    "some_resources_are_not_ready",
    "failed_to_reconcile_the_resources",
];
