//! `nvidia.com/v1alpha1`: a map of services, the version that the published guides use.
//!
//! Source: Dynamo, docs/kubernetes/api-reference.md. Fields that only the operator reads are carried as JSON.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    pub status: Option<Value>,
}

/// `spec` of a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphSpec {
    /// Onto all children.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto all children.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Volume claims; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvcs: Option<Vec<Value>>,
    /// Components by name, at most 25.
    pub services: Ordered<ServiceSpec>,
    /// Environment of every service; the service wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub envs: Vec<EnvVar>,
    /// `vllm`, `sglang` or `trtllm`; found from the commands when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_framework: Option<String>,
    /// Ordered restart; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Value>,
    /// Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Grove only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_constraint: Option<Value>,
    /// Experimental fields, kept through conversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experimental: Option<Value>,
}

/// A map that keeps the order of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of names")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

/// A service: the component spec shared with `DynamoComponentDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Onto the generated resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The component's name again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// `frontend`, `worker`, `prefill`, `decode`, `planner`, `epp`, `default` or `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_type: Option<String>,
    /// `prefill` or `decode` of a `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_component_type: Option<String>,
    /// Deprecated and ignored, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_namespace: Option<String>,
    /// The Dynamo namespace is `dynamo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_dynamo_namespace: Option<bool>,
    /// Requests and limits; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Deprecated and ignored, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Value>,
    /// Environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub envs: Vec<EnvVar>,
    /// A Secret whose keys become environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_from_secret: Option<String>,
    /// Mounts of `pvcs`; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Exposure; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Value>,
    /// The model that the service serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<Value>,
    /// Shared memory; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<SharedMemory>,
    /// Onto the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_pod_metadata: Option<Value>,
    /// The pod, with the component's container as `mainContainer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_pod_spec: Option<ExtraPodSpec>,
    /// Override.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Override.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Replicas; 1 when absent. Signed, so that a negative count can be reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Several nodes; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multinode: Option<Value>,
    /// Scaling adapter; cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling_adapter: Option<Value>,
    /// Endpoint picker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epp_config: Option<Value>,
    /// A frontend beside the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend_sidecar: Option<Value>,
    /// Snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// GPU memory service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_service: Option<Value>,
    /// Failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Value>,
    /// Kept from v1beta1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_version_override: Option<String>,
    /// Kept from v1beta1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamo_sidecar: Option<Value>,
}

/// Requests and limits in Dynamo's own shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceItem>,
    /// Most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceItem>,
    /// Dynamic resource claims.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<Value>>,
}

/// Amounts. Numbers are taken beside texts, as users write both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceItem {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Value>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Value>,
    /// Number of GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Value>,
    /// Resource name of the GPU; `nvidia.com/gpu` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_type: Option<String>,
    /// Anything else by resource name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<Map<String, Value>>,
}

/// A mount of a volume claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// Name of the claim.
    pub name: String,
    /// Where; required unless it is the compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<String>,
    /// It holds the engine's compilation cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_as_compilation_cache: Option<bool>,
}

/// Shared memory of the pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedMemory {
    /// None at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Size, such as `8Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Value>,
}

/// A pod spec with the component's container beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtraPodSpec {
    /// The component's container; its name may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_container: Option<Container>,
    /// The rest of the pod.
    #[serde(flatten)]
    pub pod: PodSpec,
}
