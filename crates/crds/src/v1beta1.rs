//! `nvidia.com/v1beta1`: a list of components with native pod templates, the stored version.
//!
//! Source: Dynamo, deploy/operator/api/v1beta1/dynamographdeployment_types.go. Words of a closed set are texts here and
//! an `enum` in the schema, so that a wrong one is reported by whoever validates, with its path.

mod component;
mod experimental;
mod graph;
mod request;

pub use component::{
    CompilationCache, ComponentSpec, DeploymentSpec, DeploymentStatus, DynamoComponentDeployment, ScalingAdapter,
};
pub use experimental::{Checkpoint, CheckpointJob, Experimental, Failover, GpuMemoryClientPod, GpuMemoryService};
pub use graph::{
    DynamoGraphDeployment, DynamoGraphDeploymentScalingAdapter, GraphSpec, GraphStatus, ReplicaStatus,
    RollingUpdateStatus, ScaledComponent, ScalingAdapterSpec,
};
pub use request::{
    DeploymentInfo, DynamoGraphDeploymentRequest, Features, Hardware, Mocker, ModelCache, Overrides, ParetoPoint,
    ProfilingResults, RequestSpec, RequestStatus, Sla, Workload,
};
