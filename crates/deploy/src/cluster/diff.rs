//! What a plan would change. Asks the API server itself, by applying without effect; changes nothing.

use super::object::{Address, Applied, Manner};
use super::{Cluster, ClusterError, chart, record};
use crate::cluster::helm::Helm;
use plan::Plan;
use serde::Serialize;
use serde_json::Value;

/// What would happen to one thing of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Deed {
    /// It is not there.
    Make,
    /// It is another.
    Change,
    /// It is so already.
    Keep,
}

impl Deed {
    /// `+`, `~` or `=`.
    pub fn sign(self) -> char {
        match self {
            Self::Make => '+',
            Self::Change => '~',
            Self::Keep => '=',
        }
    }
}

/// One line of a diff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What would be done.
    pub deed: Deed,
    /// To what: `namespace busbar-system`, `release busbar`.
    pub what: String,
    /// Paths that would change, with what is there and what would be; why a release changes.
    pub details: Vec<String>,
}

/// Changed fields of one object that are told.
const DETAILS_MAX: usize = 12;

/// The changes, in the order in which they would be made.
///
/// # Errors
/// When the cluster does not answer, or refuses a graph: what it says is what `up` would meet.
pub async fn diff(cluster: &Cluster, helm: &Helm, plan: &Plan) -> Result<Vec<Change>, ClusterError> {
    let mut changes = Vec::new();
    for object in &plan.k8s_namespaces {
        let address = Address::of(object);
        let deed = if address.get(&cluster.client).await?.is_some() { Deed::Keep } else { Deed::Make };
        changes.push(Change { deed, what: address.shown(), details: Vec::new() });
    }
    changes.push(release(cluster, helm, plan).await?);
    let served = record::definitions_are_there(&cluster.client).await?;
    for graph in &plan.graphs {
        let what = format!("graph {}/{}", graph.k8s_namespace, graph.name);
        let address = Address::of(&graph.manifest);
        let before = if served { address.get(&cluster.client).await? } else { None };
        let Some(before) = before else {
            changes.push(Change { deed: Deed::Make, what, details: Vec::new() });
            continue;
        };
        let manner = Manner { force: true, dry_run: true };
        let (applied, after) = address.apply(&cluster.client, &graph.manifest, manner).await?;
        let mut details = Vec::new();
        compare(&before["spec"], &after["spec"], "spec", &mut details);
        let deed = if applied == Applied::Unchanged { Deed::Keep } else { Deed::Change };
        changes.push(Change { deed, what, details });
    }
    Ok(changes)
}

/// The description that a release of this plan carries.
pub(crate) fn description(plan: &Plan) -> String {
    format!("busbar {}", chart::fingerprint(&plan.release.values.to_string()))
}

async fn release(cluster: &Cluster, helm: &Helm, plan: &Plan) -> Result<Change, ClusterError> {
    let what = format!("release {}/{}", plan.release.k8s_namespace, plan.release.name);
    let Some(status) = helm.status(&plan.release).await? else {
        return Ok(Change { deed: Deed::Make, what, details: Vec::new() });
    };
    let mut details = Vec::new();
    if status.info.status != "deployed" {
        details.push(format!("it is {}: {}", status.info.status, status.info.description));
    } else if status.info.description != description(plan) {
        details.push("its chart or its values are others".to_owned());
    }
    for address in missing(cluster, &status.manifest).await? {
        details.push(format!("{} is gone", address.shown()));
    }
    let deed = if details.is_empty() { Deed::Keep } else { Deed::Change };
    Ok(Change { deed, what, details })
}

/// Objects of a release that are not in the cluster any more.
pub(crate) async fn missing(cluster: &Cluster, manifest: &str) -> Result<Vec<Address>, ClusterError> {
    let mut missing = Vec::new();
    for document in serde_saphyr::from_multiple::<Value>(manifest).unwrap_or_default() {
        if document.is_null() {
            continue;
        }
        let address = Address::of(&document);
        if address.get(&cluster.client).await?.is_none() {
            missing.push(address);
        }
    }
    Ok(missing)
}

/// Leaves that differ: `spec.replicas: 2 → 3`.
fn compare(before: &Value, after: &Value, path: &str, details: &mut Vec<String>) {
    if before == after || details.len() > DETAILS_MAX {
        return;
    }
    if details.len() == DETAILS_MAX {
        details.push("…".to_owned());
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                compare(value, after.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), details);
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                compare(&Value::Null, value, &format!("{path}.{key}"), details);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                compare(before, after, &format!("{path}[{i}]"), details);
            }
        }
        (before, after) => details.push(format!("{path}: {} → {}", short(before), short(after))),
    }
}

/// Letters of a value in a diff.
const VALUE_CHARS_MAX: usize = 60;

fn short(value: &Value) -> String {
    let text = if value.is_null() { "absent".to_owned() } else { value.to_string() };
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_diff_names_the_leaves() {
        let mut details = Vec::new();
        let before = json!({"a": 1, "b": {"c": [1, 2]}, "gone": true});
        let after = json!({"a": 1, "b": {"c": [1, 3]}, "new": "x"});
        compare(&before, &after, "spec", &mut details);
        assert_eq!(details, ["spec.b.c[1]: 2 → 3", "spec.gone: true → absent", "spec.new: absent → \"x\""]);
    }
}
