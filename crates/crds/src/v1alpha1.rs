//! `nvidia.com/v1alpha1`: a map of services, the version that the published guides use; and the kinds that have no other.
//!
//! Source: Dynamo, docs/kubernetes/api-reference.md. Words of a closed set are texts here and an `enum` in the schema,
//! so that a wrong one is reported by whoever validates, with its path.

mod graph;
mod model;
mod ordered;
mod request;
mod service;
mod service_parts;

pub use graph::{
    DeploymentSpec, DeploymentStatus, DynamoComponentDeployment, DynamoGraphDeployment,
    DynamoGraphDeploymentScalingAdapter, GraphSpec, GraphStatus, Pvc, ReplicaStatus, RollingUpdateStatus,
    ScaledService, ScalingAdapterSpec,
};
pub use model::{
    DynamoModel, DynamoWorkerMetadata, ModelEndpoint, ModelSource, ModelSpec, ModelStatus, WorkerMetadataSpec,
};
pub use ordered::Ordered;
pub use request::{
    ConfigMapKey, DeploymentOverrides, DeploymentReport, DynamoGraphDeploymentRequest, ProfilingConfig, RequestSpec,
    RequestStatus,
};
pub use service::{ExtraPodSpec, ResourceItem, Resources, ServiceSpec, SharedMemory, VolumeMount};
pub use service_parts::{
    Autoscaling, Checkpoint, ExtraPodMetadata, Failover, FrontendSidecar, GpuMemoryService, Ingress, IngressTls,
    ScalingAdapter,
};
