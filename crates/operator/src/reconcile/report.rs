//! What is told about a graph, gathered from its components.

use super::generations::{component_name, ready_condition};
use crate::kinds::{self, DEPLOYMENT};
use crate::restart::Seen;
use crate::status::component::{Held, READY_REASON, UPDATING_REASON};
use crate::status::graph::Component;
use crds::conditions::AVAILABLE;
use crds::v1beta1::{DeploymentStatus, ReplicaStatus};
use graph::cluster::labels;
use kube::api::DynamicObject;
use std::sync::Arc;

/// One component of the graph: `wanted` is the object that it should be, `all` are its objects of all generations.
pub(super) fn component(name: &str, wanted: Option<&DynamicObject>, all: &[Arc<DynamicObject>]) -> Component {
    let status: Option<DeploymentStatus> = wanted.and_then(super::status_of);
    let is_current = wanted.is_some_and(|object| {
        status.as_ref().is_some_and(|status| status.observed_generation == object.metadata.generation)
    });
    let (mut is_ready, mut reason, message) = match ready_condition(status.as_ref()) {
        Some(condition) => (condition.status == "True", condition.reason.clone(), condition.message.clone()),
        None => (false, UPDATING_REASON.to_owned(), "it is being made".to_owned()),
    };
    if !is_current && is_ready {
        (is_ready, reason) = (false, UPDATING_REASON.to_owned());
    }
    let message = if is_current || reason != UPDATING_REASON { message } else { "its change is being made".to_owned() };
    let is_available = all.iter().any(|object| {
        let status: Option<DeploymentStatus> = super::status_of(object);
        let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == AVAILABLE && condition.status == "True")
    });
    debug_assert!(!is_ready || reason == READY_REASON, "a ready component has the reason of one");
    Component { name: name.to_owned(), is_ready, is_available, reason, message, replicas: replicas(wanted, all) }
}

/// Pods of all generations, of which those of `wanted` are updated.
fn replicas(wanted: Option<&DynamicObject>, all: &[Arc<DynamicObject>]) -> ReplicaStatus {
    let of = |object: &DynamicObject| {
        let status: Option<DeploymentStatus> = super::status_of(object);
        status.and_then(|status| status.component).unwrap_or_default()
    };
    let each: Vec<ReplicaStatus> = all.iter().map(|object| of(object)).collect();
    let sum = |field: fn(&ReplicaStatus) -> i64| each.iter().map(field).sum::<i64>();
    let mut names: Vec<String> = all.iter().map(|object| kinds::name(object).to_owned()).collect();
    names.sort();
    ReplicaStatus {
        component_kind: DEPLOYMENT.kind.to_owned(),
        component_names: Some(names),
        replicas: sum(|one| one.replicas),
        updated_replicas: wanted.map(|object| of(object).updated_replicas).unwrap_or_default(),
        ready_replicas: Some(sum(|one| one.ready_replicas.unwrap_or_default())),
        available_replicas: Some(sum(|one| one.available_replicas.unwrap_or_default())),
    }
}

/// What a restart has to know of a component: what it was told, and whether the pods of its Deployment are of that and
/// ready. A component's own status may still be of before it was told.
pub(super) fn restart_seen(component: Option<&DynamicObject>, deployment: Option<&DynamicObject>) -> Seen {
    let Some(component) = component else { return Seen { is_new: true, ..Seen::default() } };
    let told = kinds::annotation(component, labels::RESTART_AT).map(str::to_owned);
    let wanted = component.data["spec"]["replicas"].as_i64().unwrap_or(1);
    let is_ready = deployment.is_some_and(|deployment| {
        let value = kinds::value(deployment);
        let on_pods =
            value["spec"]["template"]["metadata"]["annotations"][labels::RESTART_AT].as_str().map(str::to_owned);
        let held = Held::of(&value);
        let count = |field: &str| value["status"][field].as_i64().unwrap_or_default();
        on_pods == told
            && held.is_observed
            && held.updated >= wanted
            && count("replicas") == held.updated
            && count("availableReplicas") >= wanted
    });
    Seen { told, is_ready, is_new: false }
}

/// The objects of one component, of all generations.
pub(super) fn of_component(name: &str, all: &[Arc<DynamicObject>]) -> Vec<Arc<DynamicObject>> {
    all.iter().filter(|object| component_name(object).eq_ignore_ascii_case(name)).cloned().collect()
}
