//! The kinds that the operator reads and writes, by the names of their API.

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use serde_json::{Value, json};

/// A kind by the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Group; empty for the core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in addresses.
    pub plural: &'static str,
}

/// Graphs.
pub const GRAPH: Kind = nvidia(crds::DYNAMO_GRAPH_DEPLOYMENT, "dynamographdeployments");
/// Components of graphs, or alone.
pub const COMPONENT: Kind = nvidia(crds::DYNAMO_COMPONENT_DEPLOYMENT, "dynamocomponentdeployments");
/// What holds pods.
pub const DEPLOYMENT: Kind = kind("apps", "v1", "Deployment", "deployments");
/// One revision of a graph's spec.
pub const CONTROLLER_REVISION: Kind = kind("apps", "v1", "ControllerRevision", "controllerrevisions");

/// Models; one version.
pub const MODEL: Kind = kind(crds::GROUP, "v1alpha1", "DynamoModel", "dynamomodels");
/// What brings a model to its claim.
pub const JOB: Kind = kind("batch", "v1", "Job", "jobs");
/// Where weights are kept.
pub const PERSISTENT_VOLUME_CLAIM: Kind = kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");
/// Pods behind a Service.
pub const ENDPOINT_SLICE: Kind = kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");

/// Kinds of the objects that a render may hold, the components of a graph apart.
pub const CHILDREN: [Kind; 9] = [
    DEPLOYMENT,
    kind("", "v1", "Service", "services"),
    kind("", "v1", "ServiceAccount", "serviceaccounts"),
    PERSISTENT_VOLUME_CLAIM,
    kind("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    kind("networking.k8s.io", "v1", "Ingress", "ingresses"),
    kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    nvidia(crds::SCALING_ADAPTER, "dynamographdeploymentscalingadapters"),
];

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version, kind, plural }
}

const fn nvidia(name: &'static str, plural: &'static str) -> Kind {
    kind(crds::GROUP, "v1beta1", name, plural)
}

impl Kind {
    /// The kind of a rendered object; none when the operator does not watch it.
    pub fn of(object: &Value) -> Option<Self> {
        let (api_version, name) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        CHILDREN
            .iter()
            .chain(&[GRAPH, COMPONENT, CONTROLLER_REVISION, MODEL, JOB])
            .find(|kind| kind.kind == name && kind.api_version() == api_version)
            .copied()
    }

    /// `GROUP/VERSION`, or the version alone for the core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The same for the client.
    pub fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    /// The objects of one Kubernetes namespace, or of all.
    pub fn api(&self, client: &Client, k8s_namespace: Option<&str>) -> Api<DynamicObject> {
        match k8s_namespace {
            Some(name) => Api::namespaced_with(client.clone(), name, &self.resource()),
            None => Api::all_with(client.clone(), &self.resource()),
        }
    }

    /// Names one object.
    pub fn reference(&self, k8s_namespace: &str, name: &str) -> ObjectRef<DynamicObject> {
        ObjectRef::new_with(name, self.resource()).within(k8s_namespace)
    }

    /// The beginning of an object of this kind, to be applied.
    pub fn intent(&self, k8s_namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": self.api_version(),
            "kind": self.kind,
            "metadata": { "name": name, "namespace": k8s_namespace },
        })
    }
}

/// The object as JSON, with what the API server keeps for itself.
pub fn value(object: &DynamicObject) -> Value {
    // The type holds JSON values and texts only.
    serde_json::to_value(object).unwrap_or_default()
}

/// Kubernetes namespace of an object; `default` when it names none, as in `kubectl`.
pub fn k8s_namespace(object: &DynamicObject) -> &str {
    object.metadata.namespace.as_deref().unwrap_or("default")
}

/// Name of an object.
pub fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// An annotation of an object.
pub fn annotation<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A label of an object.
pub fn label<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    object.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether an object with this uid owns it.
pub fn is_owned_by(object: &DynamicObject, uid: &str) -> bool {
    object.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// An annotation of the operator: hash of what was applied last.
pub const APPLIED_HASH: &str = "busbar.dev/applied-hash";
/// An annotation of the operator on a graph: the worker hash whose update failed and is not tried again.
pub const FAILED_WORKER_HASH: &str = "busbar.dev/failed-worker-hash";
/// An annotation of the operator on a graph: why that update failed.
pub const ROLLOUT_FAILURE: &str = "busbar.dev/rollout-failure";
/// An annotation of the user on a graph: seconds in which an update must make progress.
pub const PROGRESS_DEADLINE: &str = "busbar.dev/rollout-progress-deadline-seconds";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_object_finds_its_kind() {
        assert_eq!(Kind::of(&DEPLOYMENT.intent("a", "b")), Some(DEPLOYMENT));
        assert_eq!(Kind::of(&GRAPH.intent("a", "b")), Some(GRAPH));
        assert_eq!(Kind::of(&json!({"apiVersion": "v1", "kind": "Service"})).map(|kind| kind.plural), Some("services"));
        assert_eq!(Kind::of(&json!({"apiVersion": "apps/v1", "kind": "Service"})), None);
    }
}
