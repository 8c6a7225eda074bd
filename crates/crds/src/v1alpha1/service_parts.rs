//! Smaller parts of a service.

use crate::parts::CheckpointIdentity;
use crate::rules;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec};
use k8s_openapi::api::core::v1::EnvVar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Deprecated and ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaling {
    /// Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i64>,
    /// Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
    /// Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::autoscaler_behavior")]
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
    /// Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::autoscaler_metrics")]
    pub metrics: Option<Vec<MetricSpec>>,
}

/// Exposure outside of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::INGRESS))]
pub struct Ingress {
    /// On.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Host name between prefix and suffix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// An Istio VirtualService in place of an Ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_virtual_service: Option<bool>,
    /// Its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_service_gateway: Option<String>,
    /// Before the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_prefix: Option<String>,
    /// Onto the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<IngressTls>,
    /// After the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_suffix: Option<String>,
    /// Class of the ingress controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_controller_class_name: Option<String>,
}

/// The certificate of an ingress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    /// Secret with certificate and key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}

/// Labels and annotations of the pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExtraPodMetadata {
    /// Onto the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Whether a scaling adapter owns the replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScalingAdapter {
    /// On; false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A frontend beside the worker, in the same pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["image"]))]
pub struct FrontendSidecar {
    /// Its image.
    pub image: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// A Secret whose keys become environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_from_secret: Option<String>,
    /// Its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::kubernetes::env")]
    pub envs: Option<Vec<EnvVar>>,
}

/// Snapshots of a started engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::CHECKPOINT_V1ALPHA1))]
pub struct Checkpoint {
    /// On; false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// `Auto` or `Manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Auto", "Manual"]))]
    pub mode: Option<String>,
    /// Name of a DynamoCheckpoint to restore from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_ref: Option<String>,
    /// What makes two checkpoints the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<CheckpointIdentity>,
}

/// GPU memory that outlives the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["enabled"]))]
pub struct GpuMemoryService {
    /// On.
    pub enabled: bool,
    /// `intraPod` (default) or `interPod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["intraPod", "interPod"], "x-default" = "intraPod"))]
    pub mode: Option<String>,
    /// Device class that the GPUs are claimed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "gpu.nvidia.com"))]
    pub device_class_name: Option<String>,
}

/// A shadow engine that takes over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["enabled"]))]
pub struct Failover {
    /// On.
    pub enabled: bool,
    /// That of the GPU memory service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["intraPod", "interPod"], "x-default" = "intraPod"))]
    pub mode: Option<String>,
    /// Shadows of each rank; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 1, "x-default" = 1, "format" = "int32"))]
    pub num_shadows: Option<i64>,
}
