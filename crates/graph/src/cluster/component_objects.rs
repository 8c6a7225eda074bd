//! What runs a component: Deployment, Services, disruption budget.

use super::components::component_labels;
use super::container::{GRPC, HTTP, SYSTEM, startup_seconds};
use super::environment::{EPP_PORT, HTTP_PORT, Place, SYSTEM_PORT};
use super::names::{component_child, dynamo_namespace, k8s_namespace, kind_of, model_service_name, name_of};
use super::pod::{Labels, annotation, template};
use super::{DiscoveryBackend, Settings, base_model_hash, graph_objects, labels, service_name};
use crate::component::ComponentKind;
use crds::v1beta1::DynamoComponentDeployment;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use std::collections::BTreeMap;

/// Surge and unavailability during an update when no annotation says otherwise, as in Dynamo.
const UPDATE_SHARE: &str = "25%";
/// Progress that a Deployment must show within, beyond the time that its containers have to start: Kubernetes' default.
const PROGRESS_SECONDS: i32 = 600;
/// Replicas from which on a node drain takes one pod at a time.
const BUDGET_REPLICAS_MIN: i64 = 2;

/// What runs the component, with the DynamoComponentDeployment as owner: Deployment, Service, the headless Service of
/// `modelRef`, a PodDisruptionBudget from two replicas on; for a component of no graph also the rights that discovery
/// needs.
///
/// Labels of the DynamoComponentDeployment go to all of it. `nvidia.com/restartAt` among its annotations goes onto the
/// pods: a new text restarts them. A component over several nodes has no Deployment: see [`super::warnings`].
pub fn component_objects(component: &DynamoComponentDeployment, settings: &Settings) -> Vec<Value> {
    let identity = Identity::of(component, settings);
    let place = identity.place();
    let pods = template(component, &place, &identity.labels, settings);
    let mut objects = Vec::new();
    if component.spec.component.multinode.is_none() {
        objects.push(json(&deployment(component, &identity, pods)));
    }
    objects.push(json(&service(component, &identity)));
    objects.extend(component.spec.component.model_ref.as_ref().map(|_| json(&model_service(component, &identity))));
    if component.spec.component.replicas.unwrap_or(1) >= BUDGET_REPLICAS_MIN {
        objects.push(json(&disruption_budget(component, &identity)));
    }
    if identity.is_alone && identity.discovery == DiscoveryBackend::Kubernetes {
        let child = |name| identity.child(component, name);
        objects.extend(graph_objects::discovery_rights(&identity.graph, k8s_namespace(&component.metadata), child));
    }
    objects
}

/// What names and labels of a component's objects follow from.
struct Identity {
    kind: Option<ComponentKind>,
    graph: String,
    dynamo_namespace: String,
    k8s_namespace: String,
    labels: Labels,
    discovery: DiscoveryBackend,
    is_container_mode: bool,
    /// It belongs to no graph.
    is_alone: bool,
}

impl Identity {
    fn of(component: &DynamoComponentDeployment, settings: &Settings) -> Self {
        let given = component.metadata.labels.clone().unwrap_or_default();
        let name = name_of(&component.metadata);
        let graph = given.get(labels::GRAPH_NAME).cloned();
        let is_alone = graph.is_none();
        let graph = graph.unwrap_or_else(|| name.to_owned());
        let k8s_namespace = k8s_namespace(&component.metadata).to_owned();
        let is_global = component.spec.component.global_dynamo_namespace == Some(true);
        let dynamo_namespace = dynamo_namespace(&k8s_namespace, &graph, is_global);
        let kind = kind_of(&component.spec.component);
        let own_name = Some(component.spec.component.name.as_str()).filter(|own| !own.is_empty()).unwrap_or(name);
        let mut own = component_labels(own_name, kind, dynamo_namespace.clone());
        own.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
        own.insert(labels::SELECTOR.to_owned(), name.to_owned());
        let kept = [labels::GRAPH_NAME, labels::WORKER_HASH];
        own.extend(kept.iter().filter_map(|key| Some(((*key).to_owned(), given.get(*key)?.clone()))));
        if let Some(model) = &component.spec.component.model_ref {
            own.insert(labels::BASE_MODEL_HASH.to_owned(), base_model_hash(&model.name));
        }
        let told_by = Labels { given, own };
        let wanted = annotation(component, labels::DISCOVERY_BACKEND).and_then(DiscoveryBackend::parse);
        let discovery = wanted.unwrap_or(settings.discovery_backend);
        let is_container_mode = annotation(component, labels::KUBE_DISCOVERY_MODE) == Some("container");
        Self { kind, graph, dynamo_namespace, k8s_namespace, labels: told_by, discovery, is_container_mode, is_alone }
    }

    fn place(&self) -> Place<'_> {
        Place {
            kind: self.kind,
            dynamo_namespace: &self.dynamo_namespace,
            graph: &self.graph,
            k8s_namespace: &self.k8s_namespace,
            worker_hash: self.labels.own.get(labels::WORKER_HASH).map(String::as_str),
            discovery: self.discovery,
            is_container_mode: self.is_container_mode,
        }
    }

    fn child(&self, component: &DynamoComponentDeployment, name: String) -> ObjectMeta {
        component_child(component, name, self.labels.all())
    }
}

fn selector(component: &DynamoComponentDeployment) -> LabelSelector {
    let name = name_of(&component.metadata).to_owned();
    LabelSelector { match_labels: Some(BTreeMap::from([(labels::SELECTOR.to_owned(), name)])), match_expressions: None }
}

fn deployment(component: &DynamoComponentDeployment, identity: &Identity, pods: PodTemplateSpec) -> Deployment {
    let share = |key| {
        let text = annotation(component, key).unwrap_or(UPDATE_SHARE);
        Some(text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int))
    };
    let update = RollingUpdateDeployment {
        max_surge: share(labels::MAX_SURGE),
        max_unavailable: share(labels::MAX_UNAVAILABLE),
    };
    let containers = pods.spec.iter().flat_map(|pod| &pod.containers);
    // A model that loads within the time of its probe is not stuck.
    let startup = containers.filter_map(startup_seconds).max().unwrap_or(0);
    let replicas = component.spec.component.replicas.unwrap_or(1);
    Deployment {
        metadata: identity.child(component, name_of(&component.metadata).to_owned()),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            selector: selector(component),
            strategy: Some(DeploymentStrategy {
                rolling_update: Some(update),
                type_: Some("RollingUpdate".to_owned()),
            }),
            progress_deadline_seconds: Some(startup.saturating_add(PROGRESS_SECONDS)),
            template: pods,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The Service that clients and, through its EndpointSlices, other components find the pods by.
fn service(component: &DynamoComponentDeployment, identity: &Identity) -> Service {
    let mut metadata = identity.child(component, service_name(name_of(&component.metadata)));
    if identity.discovery == DiscoveryBackend::Kubernetes {
        let own = metadata.labels.get_or_insert_default();
        own.insert(labels::DISCOVERY_BACKEND.to_owned(), DiscoveryBackend::Kubernetes.word().to_owned());
        own.insert(labels::DISCOVERY_ENABLED.to_owned(), "true".to_owned());
    }
    let (name, port, target, protocol) = match identity.kind {
        Some(ComponentKind::Frontend) => (HTTP, HTTP_PORT, IntOrString::String(HTTP.to_owned()), None),
        Some(ComponentKind::Epp) => (GRPC, EPP_PORT, IntOrString::Int(EPP_PORT), Some("http2".to_owned())),
        _ => (SYSTEM, SYSTEM_PORT, IntOrString::String(SYSTEM.to_owned()), None),
    };
    let selected = [labels::COMPONENT_TYPE, labels::DYNAMO_NAMESPACE, labels::COMPONENT];
    let select = selected.iter().filter_map(|key| Some(((*key).to_owned(), identity.labels.own.get(*key)?.clone())));
    let port = ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(target),
        protocol: Some("TCP".to_owned()),
        app_protocol: protocol,
        node_port: None,
    };
    Service {
        metadata,
        spec: Some(ServiceSpec { selector: Some(select.collect()), ports: Some(vec![port]), ..ServiceSpec::default() }),
        status: None,
    }
}

/// The headless Service of a component with `modelRef`; a DynamoModel finds it, and through it the pods, by the hash of
/// its base model. Each component has its own, where Dynamo's components of one model share one: shared, it could have
/// no owner.
fn model_service(component: &DynamoComponentDeployment, identity: &Identity) -> Service {
    let mut metadata = identity.child(component, model_service_name(name_of(&component.metadata)));
    if let Some(model) = &component.spec.component.model_ref {
        metadata.annotations.get_or_insert_default().insert(labels::BASE_MODEL.to_owned(), model.name.clone());
    }
    let port = ServicePort {
        name: Some(SYSTEM.to_owned()),
        port: SYSTEM_PORT,
        target_port: Some(IntOrString::Int(SYSTEM_PORT)),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: selector(component).match_labels,
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// A node drain takes one pod of the component at a time, and a pod that does not serve anyway at once.
fn disruption_budget(component: &DynamoComponentDeployment, identity: &Identity) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: identity.child(component, name_of(&component.metadata).to_owned()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(component)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// As JSON. Kubernetes' own types have text keys only, so this cannot fail.
pub(super) fn json(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
