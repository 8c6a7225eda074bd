//! Until it is so: releases and graphs, told as they come.

use super::object::Address;
use super::{Cluster, ClusterError, Progress, Tell, pods};
use plan::{Plan, PlannedGraph};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How often the cluster is asked. A watch would tell sooner and has to be asked anew after each of its ends; what is
/// waited for takes seconds to minutes.
const POLL: Duration = Duration::from_millis(1000);
/// The label of everything that belongs to a graph. Source: Dynamo, deploy/operator (labels of the components).
pub(crate) const GRAPH_LABEL: &str = "nvidia.com/dynamo-graph-deployment-name";

/// What a graph says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GraphState {
    /// The condition Ready is true, of this very generation.
    pub(crate) ready: bool,
    /// `REASON: MESSAGE`, or what stands in for it.
    pub(crate) said: String,
}

/// Reads the state of a graph's object.
pub(crate) fn state_of(object: &Value) -> GraphState {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = object.pointer("/status/observedGeneration").and_then(Value::as_i64);
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == crds::conditions::READY);
    let Some(ready) = ready else {
        let said = "the operator has not said anything yet".to_owned();
        return GraphState { ready: false, said };
    };
    let of = ready["observedGeneration"].as_i64().or(observed);
    if of.is_some() && generation.is_some() && of < generation {
        return GraphState { ready: false, said: "the operator has not seen the last change yet".to_owned() };
    }
    let text = |key: &str| ready[key].as_str().unwrap_or_default();
    let said = format!("{}: {}", text("reason"), text("message"));
    GraphState { ready: ready["status"] == "True", said: said.trim_end_matches(": ").to_owned() }
}

/// Waits until every graph is ready.
///
/// # Errors
/// [`ClusterError::NotReady`] with each graph's own words and those of its pods.
pub(crate) async fn graphs(
    cluster: &Cluster,
    plan: &Plan,
    timeout: Duration,
    tell: Tell<'_>,
) -> Result<(), ClusterError> {
    let started = Instant::now();
    let mut last: Vec<String> = vec![String::new(); plan.graphs.len()];
    loop {
        let mut waiting = Vec::new();
        for (i, graph) in plan.graphs.iter().enumerate() {
            let state = read(cluster, graph).await?;
            if state.said != last[i] {
                if last[i].is_empty() || state.ready {
                    let mark = if state.ready { "✓" } else { "…" };
                    tell(Progress::Line(format!("  {mark} graph {}: {}", graph.name, state.said)));
                }
                last[i].clone_from(&state.said);
            }
            if !state.ready {
                waiting.push((graph, state.said));
            }
        }
        let Some((first, said)) = waiting.first() else { return Ok(()) };
        if started.elapsed() >= timeout {
            return Err(not_ready(cluster, &waiting, timeout).await);
        }
        let more = if waiting.len() > 1 { format!(" (and {} more)", waiting.len() - 1) } else { String::new() };
        tell(Progress::Stage(format!("graph {}: {said}{more}", first.name)));
        tokio::time::sleep(POLL).await;
    }
}

async fn read(cluster: &Cluster, graph: &PlannedGraph) -> Result<GraphState, ClusterError> {
    let object = Address::of(&graph.manifest).get(&cluster.client).await?;
    Ok(object.map_or_else(|| GraphState { ready: false, said: "it is gone".to_owned() }, |object| state_of(&object)))
}

async fn not_ready(cluster: &Cluster, waiting: &[(&PlannedGraph, String)], timeout: Duration) -> ClusterError {
    let mut reasons = Vec::new();
    for (graph, said) in waiting {
        reasons.push(format!("graph {}/{}: {said}", graph.k8s_namespace, graph.name));
        let selector = format!("{GRAPH_LABEL}={}", graph.name);
        reasons.extend(pods::not_ready(&cluster.client, &graph.k8s_namespace, &selector).await.unwrap_or_default());
    }
    let what = waiting.iter().map(|(graph, _)| format!("graph {}", graph.name)).collect::<Vec<_>>().join(", ");
    ClusterError::NotReady { what, seconds: timeout.as_secs(), reasons }
}

/// Tells what the pods of a release wait for, until it is dropped; gives nothing back.
pub(crate) async fn tell_release(cluster: &Cluster, plan: &Plan, tell: Tell<'_>) {
    let selector = format!("app.kubernetes.io/instance={}", plan.release.name);
    loop {
        tokio::time::sleep(POLL).await;
        let waiting = pods::not_ready(&cluster.client, &plan.release.k8s_namespace, &selector).await;
        let said = waiting.ok().and_then(|reasons| reasons.into_iter().next());
        let said = said.map_or(String::new(), |said| format!(": {said}"));
        tell(Progress::Stage(format!("release {}{said}", plan.release.name)));
    }
}

/// Asks again and again until there is something, at most for `timeout`; then gives what `late` says.
pub(crate) async fn poll<T>(
    timeout: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, ClusterError>,
    late: impl FnOnce() -> ClusterError,
) -> Result<T, ClusterError> {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if started.elapsed() >= timeout {
            return Err(late());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(status: &Value, ready: bool, said: &str) {
        let object = json!({ "metadata": { "generation": 3 }, "status": status });
        assert_eq!(state_of(&object), GraphState { ready, said: said.to_owned() });
    }

    #[test]
    fn ready_counts_only_for_the_generation_that_was_applied() {
        let condition = |status: &str| json!([{"type": "Ready", "status": status, "reason": "r", "message": "m"}]);
        check(&json!({}), false, "the operator has not said anything yet");
        check(&json!({"observedGeneration": 3, "conditions": condition("True")}), true, "r: m");
        check(&json!({"observedGeneration": 3, "conditions": condition("False")}), false, "r: m");
        check(
            &json!({"observedGeneration": 2, "conditions": condition("True")}),
            false,
            "the operator has not seen the last change yet",
        );
    }
}
