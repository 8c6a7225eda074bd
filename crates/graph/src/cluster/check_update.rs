//! What a change of a graph may not change.

use crate::finding::Finding;
use crds::v1beta1::{ComponentSpec, DynamoComponentDeployment, DynamoGraphDeployment};

/// Annotation of Dynamo's operator: which kind of objects runs the graph.
const WORKLOAD_PROVIDER: &str = "nvidia.com/workload-provider";

/// Who asks for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The operator's own identity: it carries out what a scaling adapter says.
    Operator,
    /// Anyone else, and whoever cannot be told.
    User,
}

impl Caller {
    /// From a yes or no.
    pub fn from_is_operator(is_operator: bool) -> Self {
        if is_operator { Self::Operator } else { Self::User }
    }
}

/// Every violation of the change from `old` to `new`: types and `minAvailable` stay, `restart.id` stays while an update
/// is under way, replicas that a scaling adapter owns are the operator's. [`super::check`] is for `new` alone.
pub fn check_update(old: &DynamoGraphDeployment, new: &DynamoGraphDeployment, caller: Caller) -> Vec<Finding> {
    let mut found = Vec::new();
    let id = |graph: &DynamoGraphDeployment| graph.spec.restart.as_ref().map(|restart| restart.id.clone());
    if is_updating(old) && id(old) != id(new) {
        found.push(Finding::new(
            "spec.restart.id",
            "an update of the graph is under way, and a restart would cut it short",
            "wait until status.rollingUpdate.phase is Completed or Failed",
        ));
    }
    let provider = |graph: &DynamoGraphDeployment| {
        graph.metadata.annotations.as_ref().and_then(|all| all.get(WORKLOAD_PROVIDER).cloned())
    };
    if provider(old).is_some() && provider(old) != provider(new) {
        let path = format!("metadata.annotations[{WORKLOAD_PROVIDER}]");
        found.push(Finding::new(path, "cannot change", "delete the graph and create it anew"));
    }
    for (i, component) in new.spec.components.iter().enumerate() {
        let same = |other: &&ComponentSpec| other.name.eq_ignore_ascii_case(&component.name);
        if let Some(before) = old.spec.components.iter().find(same) {
            check_kept(before, component, &format!("spec.components[{i}]"), &mut found);
            check_replicas(before, component, &format!("spec.components[{i}].replicas"), caller, &mut found);
        }
    }
    found
}

/// Every violation of the change of one component.
pub fn check_component_update(old: &DynamoComponentDeployment, new: &DynamoComponentDeployment) -> Vec<Finding> {
    let mut found = Vec::new();
    check_kept(&old.spec.component, &new.spec.component, "spec", &mut found);
    found
}

fn is_updating(graph: &DynamoGraphDeployment) -> bool {
    let update = graph.status.as_ref().and_then(|status| status.rolling_update.as_ref());
    matches!(update.and_then(|update| update.phase.as_deref()), Some("Pending" | "InProgress"))
}

fn check_kept(old: &ComponentSpec, new: &ComponentSpec, path: &str, found: &mut Vec<Finding>) {
    if let Some(word) = old.component_type.as_deref()
        && new.component_type.as_deref() != Some(word)
    {
        let problem = format!("the type was `{word}` and cannot change");
        found.push(Finding::new(format!("{path}.type"), problem, "give the new component another name"));
    }
    if old.min_available.is_some() && old.min_available != new.min_available {
        let remedy = "delete the component and create it anew";
        found.push(Finding::new(format!("{path}.minAvailable"), "cannot change once it is set", remedy));
    }
}

/// Replicas that a scaling adapter owns; taking the adapter away gives them back.
fn check_replicas(old: &ComponentSpec, new: &ComponentSpec, path: &str, caller: Caller, found: &mut Vec<Finding>) {
    let is_owned = old.scaling_adapter.is_some() && new.scaling_adapter.is_some();
    let (before, after) = (old.replicas.unwrap_or(1), new.replicas.unwrap_or(1));
    if is_owned && before != after && caller == Caller::User {
        found.push(Finding::new(
            path,
            format!("a scaling adapter owns the replicas, {before} now"),
            "scale the adapter: kubectl scale dgdsa NAME --replicas N; or remove scalingAdapter",
        ));
    }
}
