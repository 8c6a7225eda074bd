//! Specs of a graph that were ready, kept as ControllerRevisions, and the way back to one.
//!
//! A revision is written when a graph becomes ready. Its name comes from what it holds, so the same spec is kept once;
//! a spec that becomes ready again moves to the end. `restart` is no part of it: going back restarts nothing by itself.

use crate::apply::{WriteError, Writes};
use crate::kinds::{self, CONTROLLER_REVISION, GRAPH};
use graph::cluster::labels;
use kube::Client;
use kube::api::{DynamicObject, ListParams, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Revisions that are kept of a graph, as Kubernetes keeps of a Deployment.
pub const REVISIONS_MAX: usize = 10;
/// Graphs whose last recorded generation is remembered; what is forgotten costs one list.
const REMEMBERED_MAX: usize = 10_000;
/// Changes that are shown of a way back.
const CHANGES_MAX: usize = 50;

/// Writes revisions.
#[derive(Default)]
pub struct Revisions {
    /// Generation that was recorded last, by the graph's uid.
    recorded: Mutex<HashMap<String, Option<i64>>>,
}

impl Revisions {
    /// Keeps the spec of a graph that is ready, unless it is the latest one kept; the oldest beyond
    /// [`REVISIONS_MAX`] go.
    ///
    /// # Errors
    /// [`WriteError`]; recording is tried again with the next reconcile.
    pub async fn record(&self, writes: &Writes, graph: &DynamicObject) -> Result<(), WriteError> {
        let uid = graph.metadata.uid.clone().unwrap_or_default();
        let generation = graph.metadata.generation;
        if self.recorded.lock().get(&uid) == Some(&generation) {
            return Ok(());
        }
        let (k8s_namespace, name) = (kinds::k8s_namespace(graph), kinds::name(graph));
        let kept = list(writes.client(), k8s_namespace, name).await.map_err(|source| WriteError::Refused {
            act: "list",
            what: format!("the revisions of {k8s_namespace}/{name}"),
            source: Box::new(source),
        })?;
        let kept: Vec<_> = kept.into_iter().filter(|revision| kinds::is_owned_by(&revision.object, &uid)).collect();
        let spec = spec_of(graph);
        let own_name = format!("{name}-{}", digits(&spec));
        if kept.last().is_none_or(|latest| kinds::name(&latest.object) != own_name) {
            let number = kept.last().map_or(1, |latest| latest.number + 1);
            writes.apply(intent(graph, &own_name, number, &spec), None).await?;
        }
        let is_same = |revision: &&Revision| kinds::name(&revision.object) != own_name;
        let others: Vec<_> = kept.iter().filter(is_same).collect();
        for old in others.iter().take((others.len() + 1).saturating_sub(REVISIONS_MAX)) {
            writes.delete(CONTROLLER_REVISION, &old.object).await?;
        }
        let mut recorded = self.recorded.lock();
        if recorded.len() >= REMEMBERED_MAX {
            recorded.clear();
        }
        recorded.insert(uid, generation);
        Ok(())
    }
}

fn intent(graph: &DynamicObject, own_name: &str, number: i64, spec: &Value) -> Value {
    let (k8s_namespace, name) = (kinds::k8s_namespace(graph), kinds::name(graph));
    let mut intent = CONTROLLER_REVISION.intent(k8s_namespace, own_name);
    intent["metadata"]["labels"] = json!({ labels::GRAPH_NAME: name, labels::MANAGED_BY: labels::MANAGER });
    intent["metadata"]["ownerReferences"] = json!([{
        "apiVersion": GRAPH.api_version(),
        "kind": GRAPH.kind,
        "name": name,
        "uid": graph.metadata.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    }]);
    intent["revision"] = json!(number);
    intent["data"] = json!({ "spec": spec });
    intent
}

fn spec_of(graph: &DynamicObject) -> Value {
    let mut spec = graph.data["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.shift_remove("restart");
    }
    spec
}

fn digits(spec: &Value) -> String {
    // The API server hands out keys in one order, its own.
    Sha256::digest(spec.to_string().as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// A spec that was ready.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Its number; grows.
    pub number: i64,
    /// The ControllerRevision.
    pub object: DynamicObject,
}

impl Revision {
    /// The spec.
    pub fn spec(&self) -> &Value {
        &self.object.data["data"]["spec"]
    }
}

/// Revisions of a graph, the latest last.
///
/// # Errors
/// The client's.
pub async fn list(client: &Client, k8s_namespace: &str, graph: &str) -> Result<Vec<Revision>, kube::Error> {
    let selector = format!("{}={graph},{}={}", labels::GRAPH_NAME, labels::MANAGED_BY, labels::MANAGER);
    let api = CONTROLLER_REVISION.api(client, Some(k8s_namespace));
    let found = api.list(&ListParams::default().labels(&selector)).await?;
    let number = |object: &DynamicObject| object.data["revision"].as_i64().unwrap_or_default();
    let mut all: Vec<_> = found.items.into_iter().map(|object| Revision { number: number(&object), object }).collect();
    all.sort_by_key(|revision| revision.number);
    Ok(all)
}

/// Going back did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// The API server.
    #[error("{act} {k8s_namespace}/{graph}")]
    Api {
        /// What was done.
        act: &'static str,
        /// Kubernetes namespace.
        k8s_namespace: String,
        /// Name of the graph.
        graph: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is nothing to go back to.
    #[error("graph {graph} has no revision {wanted}; it has: {known}")]
    NoRevision {
        /// Name of the graph.
        graph: String,
        /// Which was asked for.
        wanted: String,
        /// Numbers that there are.
        known: String,
    },
}

/// What going back came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The revision whose spec the graph has now.
    pub to_revision: i64,
    /// What changed: path, before, after. Empty when the graph was that already.
    pub changes: Vec<(String, String, String)>,
}

/// Gives a graph the spec of an earlier revision: of `to_revision`, or of the latest one that is not what the graph says
/// now. The operator then updates as after any change.
///
/// # Errors
/// [`RollbackError`]; the graph is as it was.
pub async fn roll_back(
    client: &Client,
    k8s_namespace: &str,
    graph: &str,
    to_revision: Option<i64>,
) -> Result<RolledBack, RollbackError> {
    let refused = |act: &'static str| {
        let (k8s_namespace, graph) = (k8s_namespace.to_owned(), graph.to_owned());
        move |source: kube::Error| RollbackError::Api { act, k8s_namespace, graph, source: Box::new(source) }
    };
    let api = GRAPH.api(client, Some(k8s_namespace));
    let mut object = api.get(graph).await.map_err(refused("read graph"))?;
    let all = list(client, k8s_namespace, graph).await.map_err(refused("list the revisions of graph"))?;
    let now = spec_of(&object);
    let target = match to_revision {
        Some(number) => all.iter().find(|revision| revision.number == number),
        None => all.iter().rev().find(|revision| *revision.spec() != now),
    };
    let Some(target) = target else {
        let known: Vec<String> = all.iter().map(|revision| revision.number.to_string()).collect();
        let wanted = to_revision.map_or_else(|| "before this one".to_owned(), |number| number.to_string());
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        return Err(RollbackError::NoRevision { graph: graph.to_owned(), wanted, known });
    };
    let mut changed = Vec::new();
    changes(&now, target.spec(), "spec", &mut changed);
    if !changed.is_empty() {
        let restart = object.data["spec"].get("restart").cloned();
        object.data["spec"] = target.spec().clone();
        if let Some(restart) = restart {
            object.data["spec"]["restart"] = restart;
        }
        api.replace(graph, &PostParams::default(), &object).await.map_err(refused("write graph"))?;
    }
    changed.truncate(CHANGES_MAX);
    Ok(RolledBack { to_revision: target.number, changes: changed })
}

/// Paths at which two values differ, with both. Items of a list are told apart by `name` where they have one.
fn changes(before: &Value, after: &Value, path: &str, found: &mut Vec<(String, String, String)>) {
    let none = &Value::Null;
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                changes(a.get(key).unwrap_or(none), b.get(key).unwrap_or(none), &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let name = |item: &Value, at: usize| item["name"].as_str().map_or_else(|| at.to_string(), str::to_owned);
            let mut keys: Vec<String> = Vec::new();
            for (at, item) in a.iter().enumerate().chain(b.iter().enumerate()) {
                let key = name(item, at);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            let find = |items: &[Value], key: &str| {
                items.iter().enumerate().find(|(at, item)| name(item, *at) == key).map(|(_, item)| item.clone())
            };
            for key in keys {
                let (a, b) = (find(a, &key).unwrap_or_default(), find(b, &key).unwrap_or_default());
                changes(&a, &b, &format!("{path}[{key}]"), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push((path.to_owned(), shown(a), shown(b))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "(absent)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_the_field_and_both_values() {
        let before = json!({"components": [{"name": "W", "image": "a:2", "args": ["--x"]}, {"name": "P"}], "env": []});
        let after = json!({"components": [{"name": "W", "image": "a:1", "args": ["--y"], "replicas": 2}], "env": []});
        let mut found = Vec::new();
        changes(&before, &after, "spec", &mut found);
        let lines: Vec<String> = found.iter().map(|(path, a, b)| format!("{path}: {a} -> {b}")).collect();
        assert_eq!(
            lines,
            [
                "spec.components[W].args[0]: --x -> --y",
                "spec.components[W].image: a:2 -> a:1",
                "spec.components[W].replicas: (absent) -> 2",
                "spec.components[P]: {\"name\":\"P\"} -> (absent)",
            ]
        );
    }
}
