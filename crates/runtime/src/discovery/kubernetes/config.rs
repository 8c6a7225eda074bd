//! Which pod this process is in, and under which name it is known there.

use protocol::ids::InstanceId;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The container whose records lie under the name of the pod alone, in both modes.
const MAIN_CONTAINER: &str = "main";

/// Instance ids keep to the integers that a JSON number of any reader holds exactly.
const INSTANCE_ID_MASK: u64 = (1 << 53) - 1;

/// What one instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubernetesMode {
    /// A pod: it is there while its endpoint is ready in an EndpointSlice.
    Pod,
    /// A container, with this name (`CONTAINER_NAME`): it is there while the pod says that it is ready.
    Container(String),
}

/// Who we are in a cluster, under Dynamo's names for it. Where the cluster is, the kubeconfig or the pod's service
/// account says.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Name of our pod (`POD_NAME`).
    pub pod_name: String,
    /// Its UID (`POD_UID`): the pod owns our object, which goes with it.
    pub pod_uid: String,
    /// Its Kubernetes namespace (`POD_NAMESPACE`); that of the kubeconfig or the service account when absent.
    pub k8s_namespace: Option<String>,
    /// What an instance is (`DYN_KUBE_DISCOVERY_MODE`); the same for all processes of a graph.
    pub mode: KubernetesMode,
    /// The field manager of what we write. Two processes of one pod may share its object when theirs differ.
    pub field_manager: String,
}

impl KubernetesConfig {
    /// The field manager of workers, as Dynamo's workers have it.
    pub const WORKER: &str = "dynamo-worker";

    /// The field manager of frontends.
    pub const FRONTEND: &str = "dynamo-frontend";

    /// Name of our DynamoWorkerMetadata: the pod's; with the container's where it is not `main`.
    ///
    /// Source: Dynamo 1.6.1, the objects that its mocker writes; §2.9 of the contracts.
    pub fn object_name(&self) -> String {
        match &self.mode {
            KubernetesMode::Pod => self.pod_name.clone(),
            KubernetesMode::Container(container) => object_name(&self.pod_name, container),
        }
    }

    /// The instance id of this process.
    pub fn instance_id(&self) -> InstanceId {
        instance_id(&self.object_name())
    }
}

/// Name of the object of a container.
pub(super) fn object_name(pod: &str, container: &str) -> String {
    if container == MAIN_CONTAINER { pod.to_owned() } else { format!("{pod}-{container}") }
}

/// The instance whose object has this name: Rust's default hash of it, to 53 bits.
fn instance_id(object_name: &str) -> InstanceId {
    let mut hasher = DefaultHasher::new();
    object_name.hash(&mut hasher);
    InstanceId(hasher.finish() & INSTANCE_ID_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_those_of_dynamo() {
        let check = |pod: &str, container: Option<&str>, name: &str| {
            let config = KubernetesConfig {
                pod_name: pod.into(),
                pod_uid: String::new(),
                k8s_namespace: None,
                mode: container.map_or(KubernetesMode::Pod, |name| KubernetesMode::Container(name.into())),
                field_manager: KubernetesConfig::WORKER.into(),
            };
            assert_eq!(config.object_name(), name);
            config.instance_id()
        };
        // Of a stock mocker 1.6.1 with POD_NAME=mocker-0.
        assert_eq!(check("mocker-0", None, "mocker-0"), InstanceId(0x12_5b4e_0b24_710a));
        assert_eq!(check("mocker-0", Some("main"), "mocker-0"), InstanceId(0x12_5b4e_0b24_710a));
        assert_ne!(check("mocker-0", Some("engine-0"), "mocker-0-engine-0"), InstanceId(0x12_5b4e_0b24_710a));
    }
}
