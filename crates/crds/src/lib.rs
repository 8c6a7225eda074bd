//! The kinds of the group `nvidia.com` as their users write them, their schemas and their conversion.
//!
//! **Invariant:** types and pure functions only: no client, no clock, no async. A manifest that Dynamo's API server takes
//! is taken here, a key that neither version knows is reported with its path however deep it lies, and an object that goes
//! to the other version and back is the same object.
//!
//! Start with [`v1beta1`], the stored version; [`v1alpha1`] is served beside it. [`platform`] is the file that describes a
//! whole installation. [`definition`] makes the
//! CustomResourceDefinitions, [`convert`] carries an object from one version to the other, [`strict`] finds unknown keys.

pub mod conditions;
pub mod convert;
pub mod definition;
pub mod parts;
pub mod platform;
pub mod rules;
mod schema;
pub mod strict;
pub mod v1alpha1;
pub mod v1beta1;

/// API group of Dynamo's kinds.
pub const GROUP: &str = "nvidia.com";
/// The kind of a graph.
pub const DYNAMO_GRAPH_DEPLOYMENT: &str = "DynamoGraphDeployment";
/// The kind of one component.
pub const DYNAMO_COMPONENT_DEPLOYMENT: &str = "DynamoComponentDeployment";
/// The kind that lets an autoscaler own replicas.
pub const SCALING_ADAPTER: &str = "DynamoGraphDeploymentScalingAdapter";
/// The kind that asks for a graph.
pub const DEPLOYMENT_REQUEST: &str = "DynamoGraphDeploymentRequest";
/// The container of a v1beta1 pod template that runs the component.
pub const MAIN_CONTAINER: &str = "main";
/// Pattern of a component's name.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$";
/// Engines whose workers a graph may hold.
pub const BACKEND_FRAMEWORKS: [&str; 3] = ["sglang", "vllm", "trtllm"];
/// What a v1beta1 component may be.
pub const COMPONENT_TYPES: [&str; 6] = ["frontend", "worker", "prefill", "decode", "planner", "epp"];
