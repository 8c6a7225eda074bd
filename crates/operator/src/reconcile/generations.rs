//! The generations of a graph's workers: what is seen of them, and what is asked for.

use crate::kinds::{self, COMPONENT};
use crate::rollout::{Counts, Limits, Observed, Request};
use crate::status::Cause;
use crds::conditions::DYNAMO_COMPONENT_READY;
use crds::v1beta1::{DeploymentStatus, DynamoGraphDeployment};
use graph::cluster::{is_worker, labels, worker_hash};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the graph asks for of its workers, and what stands on it from before.
pub(super) fn request(object: &DynamicObject, graph: &DynamoGraphDeployment) -> Request {
    let workers = || graph.spec.components.iter().filter(|component| is_worker(component));
    let count = |replicas: Option<i64>| u32::try_from(replicas.unwrap_or(1)).unwrap_or(0);
    let annotation = |key: &str| {
        let spec = graph.spec.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        spec.or_else(|| kinds::annotation(object, key))
    };
    let limits = |wanted| Limits::parse(annotation(labels::MAX_SURGE), annotation(labels::MAX_UNAVAILABLE), wanted);
    let failed = kinds::annotation(object, kinds::FAILED_WORKER_HASH).map(|hash| {
        let why = kinds::annotation(object, kinds::ROLLOUT_FAILURE).unwrap_or("its workers failed");
        (hash.to_owned(), why.to_owned())
    });
    Request {
        hash: worker_hash(graph).to_string(),
        replicas: workers().map(|component| (component.name.clone(), count(component.replicas))).collect(),
        limits: workers().map(|component| (component.name.clone(), limits(count(component.replicas)))).collect(),
        serving: kinds::annotation(object, labels::CURRENT_WORKER_HASH).map(str::to_owned),
        failed,
    }
}

/// Workers of all generations, by (hash, component).
pub(super) fn workers(components: &[Arc<DynamicObject>]) -> BTreeMap<(String, String), Arc<DynamicObject>> {
    let of = |component: &Arc<DynamicObject>| {
        let hash = kinds::label(component, labels::WORKER_HASH)?;
        let is_going = component.metadata.deletion_timestamp.is_some();
        (!is_going).then(|| ((hash.to_owned(), component_name(component).to_owned()), Arc::clone(component)))
    };
    components.iter().filter_map(of).collect()
}

/// Name of the component in its graph.
pub(super) fn component_name(component: &DynamicObject) -> &str {
    component.data["spec"]["name"].as_str().unwrap_or_default()
}

/// What is seen of one worker.
pub(super) fn observed(component: &DynamicObject) -> Observed {
    let status: Option<DeploymentStatus> = super::status_of(component);
    let replicas = status.as_ref().and_then(|status| status.component.clone()).unwrap_or_default();
    let count = |number: i64| u32::try_from(number).unwrap_or(0);
    let failure = ready_condition(status.as_ref()).filter(|condition| {
        let finals = [Cause::CrashLoop, Cause::Deadline];
        condition.status == "False" && finals.iter().any(|cause| cause.is_final() && cause.reason() == condition.reason)
    });
    Observed {
        counts: Counts {
            replicas: count(component.data["spec"]["replicas"].as_i64().unwrap_or(1)),
            ready: count(replicas.available_replicas.unwrap_or_default()),
        },
        pods: count(replicas.replicas),
        failure: failure.map(|condition| condition.message.clone()),
    }
}

/// The condition of a component that says whether it is ready.
pub(super) fn ready_condition(status: Option<&DeploymentStatus>) -> Option<&Condition> {
    status?.conditions.as_ref()?.iter().find(|condition| condition.type_ == DYNAMO_COMPONENT_READY)
}

/// A component as it was applied, to be applied again with other replicas: an earlier generation, which the graph as it
/// is now no longer renders.
pub(super) fn again(component: &DynamicObject, replicas: u32) -> Value {
    let metadata = &component.metadata;
    let mut intent = COMPONENT.intent(kinds::k8s_namespace(component), kinds::name(component));
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(kinds::APPLIED_HASH);
    intent["metadata"]["labels"] = json!(metadata.labels);
    intent["metadata"]["annotations"] = json!(annotations);
    intent["metadata"]["ownerReferences"] = json!(metadata.owner_references);
    intent["spec"] = component.data["spec"].clone();
    intent["spec"]["replicas"] = json!(replicas);
    intent
}
