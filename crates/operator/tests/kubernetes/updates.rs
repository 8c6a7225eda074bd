//! Updates of workers, their failure, restarts, and scale to nothing and back.

use crate::cluster::Cluster;
use operator::kinds::{COMPONENT, DEPLOYMENT, GRAPH};
use operator::revision::roll_back;
use serde_json::{Value, json};

const WORKER: &str = "VllmDecodeWorker";

fn main_container(graph: &mut Value) -> &mut Value {
    &mut graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0]
}

fn is_ready(ready: &Value) -> bool {
    ready["status"] == "True"
}

async fn images_of_workers(cluster: &Cluster) -> Vec<String> {
    let deployments = cluster.list(DEPLOYMENT).await;
    let workers = deployments.iter().filter(|d| d["metadata"]["name"].as_str().unwrap().contains("vllmdecodeworker"));
    workers.map(|d| d["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_rolls_keeps_enough_ready_and_can_be_taken_back_by_revision() {
    let cluster = Cluster::connect("update").await;
    let operator = cluster.operator("one", None);
    let mut graph = Cluster::fixture("agg_router");
    cluster.apply(&graph).await;
    cluster.until_ready("vllm-agg-router", "the graph is ready", is_ready).await;
    let old = images_of_workers(&cluster).await;
    main_container(&mut graph)["image"] = json!("registry.example.com/vllm-runtime:2.0.0");
    cluster.apply(&graph).await;
    cluster
        .until("the update is over", || async {
            let object = cluster.get(GRAPH, "vllm-agg-router").await.unwrap();
            let status = &object["status"];
            // Two are wanted and none may be missing, whatever the moment.
            let ready = status["components"][WORKER]["readyReplicas"].as_i64().unwrap_or_default();
            assert!(ready >= 2, "{status:#}");
            let is_over = status["rollingUpdate"]["phase"] == "Completed" && status["state"] == "successful";
            if is_over { Ok(()) } else { Err(status.clone()) }
        })
        .await;
    assert_eq!(images_of_workers(&cluster).await, ["registry.example.com/vllm-runtime:2.0.0"]);
    assert_eq!(cluster.names(COMPONENT).await.len(), 2);
    cluster
        .until("both specs are kept", || async {
            let kept = cluster.list(operator::kinds::CONTROLLER_REVISION).await.len();
            if kept == 2 { Ok(()) } else { Err(json!(kept)) }
        })
        .await;
    let done = roll_back(&cluster.client, &cluster.k8s_namespace, "vllm-agg-router", None).await.unwrap();
    assert_eq!(done.to_revision, 1);
    assert!(done.changes.iter().any(|(path, _, _)| path.ends_with("containers[main].image")), "{:?}", done.changes);
    cluster.until_ready("vllm-agg-router", "the graph is ready again", is_ready).await;
    assert_eq!(images_of_workers(&cluster).await, old);
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_never_becomes_ready_is_rolled_back_and_not_tried_again() {
    let cluster = Cluster::connect("failed").await;
    let operator = cluster.operator("one", None);
    let mut graph = Cluster::fixture("agg_router");
    graph["metadata"]["annotations"]["busbar.dev/rollout-progress-deadline-seconds"] = json!("10");
    cluster.apply(&graph).await;
    cluster.until_ready("vllm-agg-router", "the graph is ready", is_ready).await;
    let before = cluster.names(COMPONENT).await;
    let good = graph.clone();
    main_container(&mut graph)["resources"]["limits"]["nvidia.com/gpu"] = json!("64");
    cluster.apply(&graph).await;
    let ready =
        cluster.until_ready("vllm-agg-router", "it is rolled back", |ready| ready["reason"] == "rolled_back").await;
    assert!(ready["message"].as_str().unwrap().contains("64 nvidia.com/gpu"), "{ready:#}");
    cluster
        .until("the new generation is gone and the old one serves", || async {
            let names = cluster.names(COMPONENT).await;
            let status = cluster.get(GRAPH, "vllm-agg-router").await.unwrap()["status"].clone();
            let serves = status["components"][WORKER]["readyReplicas"] == 2;
            if names == before && serves { Ok(()) } else { Err(json!({"names": names, "status": status})) }
        })
        .await;
    let versions = cluster.versions_at_rest().await;
    assert_eq!(versions, cluster.versions_at_rest().await, "the failed update is tried again");
    cluster.apply(&good).await;
    cluster.until_ready("vllm-agg-router", "the good spec is ready", is_ready).await;
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_through_all_components_and_replicas_go_to_zero_and_back() {
    let cluster = Cluster::connect("restart").await;
    let operator = cluster.operator("one", None);
    let mut graph = Cluster::fixture("agg");
    cluster.apply(&graph).await;
    cluster.until_ready("vllm-agg", "the graph is ready", is_ready).await;
    graph["spec"]["restart"] = json!({"id": "again"});
    cluster.apply(&graph).await;
    cluster
        .until("the restart is over", || async {
            let status = cluster.get(GRAPH, "vllm-agg").await.unwrap()["status"].clone();
            if status["restart"]["phase"] == "Completed" { Ok(()) } else { Err(status) }
        })
        .await;
    for deployment in cluster.list(DEPLOYMENT).await {
        assert_eq!(deployment["spec"]["template"]["metadata"]["annotations"]["nvidia.com/restartAt"], "again");
    }
    for replicas in [0, 2] {
        graph["spec"]["components"][1]["replicas"] = json!(replicas);
        cluster.apply(&graph).await;
        cluster.until_ready("vllm-agg", "the graph is ready", is_ready).await;
        let status = cluster.get(GRAPH, "vllm-agg").await.unwrap()["status"].clone();
        assert_eq!(status["components"]["worker"]["readyReplicas"], replicas, "{status:#}");
    }
    cluster.delete_graphs().await;
    operator.stop().await;
}
