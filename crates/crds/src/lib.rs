//! The kinds of the group `nvidia.com` as their users write them.
//!
//! **Invariant:** types and names only: no client, no clock, no async. A manifest that Dynamo's API server takes is
//! taken here, and a key that neither version knows is reported with its path, however deep it lies.
//!
//! Start with [`v1beta1`], the stored version; [`v1alpha1`] is served beside it. [`strict`] finds unknown keys.

pub mod strict;
pub mod v1alpha1;
pub mod v1beta1;

/// API group of Dynamo's kinds.
pub const GROUP: &str = "nvidia.com";
/// The kind of a graph.
pub const DYNAMO_GRAPH_DEPLOYMENT: &str = "DynamoGraphDeployment";
/// The container of a v1beta1 pod template that runs the component.
pub const MAIN_CONTAINER: &str = "main";
