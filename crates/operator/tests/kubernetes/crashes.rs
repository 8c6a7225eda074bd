//! An operator that is killed in front of any write, and two at once.

use crate::cluster::{CAP, Cluster};
use operator::OperatorError;
use operator::kinds::GRAPH;
use serde_json::{Value, json};

/// More writes than a first graph and its update need.
const WRITES_MAX: u64 = 200;

async fn run_to_rest(cluster: &Cluster, graph: &Value) {
    cluster.apply(graph).await;
    let name = graph["metadata"]["name"].as_str().unwrap();
    cluster.until_ready(name, "the graph is ready", |ready| ready["status"] == "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_write_the_end_is_the_same() {
    let graph = Cluster::fixture("agg");
    let undisturbed = Cluster::connect("undisturbed").await;
    let operator = undisturbed.operator("one", None);
    run_to_rest(&undisturbed, &graph).await;
    undisturbed.versions_at_rest().await;
    let expected = undisturbed.snapshot().await;
    operator.stop().await;

    let cluster = Cluster::connect("killed").await;
    cluster.apply(&graph).await;
    let mut killed = 0;
    // Each one may write once and dies in front of the second: together they stop at every write of the whole way.
    for attempt in 0..WRITES_MAX {
        let operator = cluster.operator(&format!("operator-{attempt}"), Some(1));
        let ended = tokio::select! {
            ended = operator.task => Some(ended.unwrap()),
            _ = until_successful(&cluster) => None,
        };
        match ended {
            Some(Err(OperatorError::Crashed)) => killed += 1,
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    assert!(killed > 10, "only {killed} writes were cut off");
    let last = cluster.operator("last", None);
    run_to_rest(&cluster, &graph).await;
    cluster.versions_at_rest().await;
    let found = cluster.snapshot().await;
    let rename =
        |all: Vec<(String, Value)>, k8s_namespace: &str| json!(all).to_string().replace(k8s_namespace, "NAMESPACE");
    let (expected, found) = (rename(expected, &undisturbed.k8s_namespace), rename(found, &cluster.k8s_namespace));
    similar(&expected, &found);
    eprintln!("crashes: {killed} operators were cut off in front of a write");
    last.stop().await;
    for cluster in [undisturbed, cluster] {
        cluster.delete_graphs().await;
    }
}

fn similar(expected: &str, found: &str) {
    if expected != found {
        let at =
            expected.bytes().zip(found.bytes()).position(|(a, b)| a != b).unwrap_or(expected.len().min(found.len()));
        let around =
            |text: &str| text.get(at.saturating_sub(300)..(at + 200).min(text.len())).unwrap_or_default().to_owned();
        panic!("the ends differ:\nundisturbed: {}\nkilled:      {}", around(expected), around(found));
    }
}

async fn until_successful(cluster: &Cluster) {
    cluster
        .until("the graph is ready", || async {
            let graph = cluster.get(GRAPH, "vllm-agg").await.unwrap();
            if graph["status"]["state"] == "successful" { Ok(()) } else { Err(graph["status"].clone()) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_acts_and_when_it_goes_the_other_changes_nothing() {
    let cluster = Cluster::connect("two").await;
    let (first, second) = (cluster.operator("first", None), cluster.operator("second", None));
    run_to_rest(&cluster, &Cluster::fixture("agg_router")).await;
    let versions = cluster.versions_at_rest().await;
    assert_eq!(versions, cluster.versions_at_rest().await, "objects flap");
    let leads = |operator: &crate::cluster::Running| {
        let address = operator.metrics;
        async move {
            let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
            text.contains("\nbusbar_operator_leader 1\n")
        }
    };
    let (one, two) = (leads(&first).await, leads(&second).await);
    assert!(one != two, "first leads: {one}, second leads: {two}");
    let (leader, other) = if one { (first, second) } else { (second, first) };
    leader.stop().await;
    cluster
        .until("the other leads", || async { if leads(&other).await { Ok(()) } else { Err(json!(CAP.as_secs())) } })
        .await;
    assert_eq!(versions, cluster.versions_at_rest().await, "a new leader writes what is already so");
    cluster.delete_graphs().await;
    other.stop().await;
}
