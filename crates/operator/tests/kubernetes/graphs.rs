//! Graphs become objects with Dynamo's names, tell how they are, and leave nothing behind.

use crate::cluster::{Cluster, condition};
use operator::kinds::{COMPONENT, DEPLOYMENT, GRAPH, Kind};
use serde_json::json;

const SERVICE: Kind = operator::kinds::CHILDREN[1];

#[tokio::test(flavor = "multi_thread")]
async fn dynamos_examples_become_ready_under_their_names_and_leave_nothing() {
    let cluster = Cluster::connect("examples").await;
    let operator = cluster.operator("one", None);
    let graphs = ["agg", "agg_router", "disagg", "disagg_router"].map(Cluster::fixture);
    for graph in &graphs {
        cluster.apply(graph).await;
    }
    for graph in &graphs {
        let name = graph["metadata"]["name"].as_str().unwrap();
        cluster.until_ready(name, "the graph is ready", |ready| ready["status"] == "True").await;
        assert_eq!(cluster.get(GRAPH, name).await.unwrap()["status"]["state"], "successful");
    }
    let hash = cluster.get(GRAPH, "vllm-agg-router").await.unwrap()["metadata"]["annotations"]
        ["nvidia.com/current-worker-hash"].as_str().unwrap().to_owned();
    for kind in [COMPONENT, DEPLOYMENT, SERVICE] {
        let names = cluster.names(kind).await;
        for wanted in ["vllm-agg-router-frontend".to_owned(), format!("vllm-agg-router-vllmdecodeworker-{hash}")] {
            assert!(names.contains(&wanted), "{}: {wanted} is not among {names:?}", kind.kind);
        }
    }
    let status = cluster.get(GRAPH, "vllm-agg-router").await.unwrap()["status"].clone();
    assert_eq!(status["components"]["VllmDecodeWorker"]["readyReplicas"], 2, "{status:#}");
    let text = reqwest::get(format!("http://{}/metrics", operator.metrics)).await.unwrap().text().await.unwrap();
    assert!(text.contains("\nbusbar_operator_leader 1\n"), "{text}");
    let ready = reqwest::get(format!("http://{}/readyz", operator.health)).await.unwrap();
    assert!(ready.status().is_success());
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_a_gpu_says_which_and_where() {
    let cluster = Cluster::connect("gpu").await;
    let operator = cluster.operator("one", None);
    let mut graph = Cluster::fixture("agg");
    let worker = &mut graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0];
    worker["resources"]["limits"]["nvidia.com/gpu"] = json!("64");
    cluster.apply(&graph).await;
    let ready = cluster
        .until_ready("vllm-agg", "the worker waits for GPUs", |ready| ready["reason"] == "insufficient_capacity")
        .await;
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("worker: ") && message.contains("64 nvidia.com/gpu"), "{message}");
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_named_with_its_registry_and_the_secret_that_lacks() {
    let cluster = Cluster::connect("image").await;
    let operator = cluster.operator("one", None);
    cluster.apply(&Cluster::untouched_fixture("agg")).await;
    let is_told =
        |ready: &serde_json::Value| ready["message"].as_str().unwrap_or_default().contains("cannot be pulled");
    let ready = cluster.until_ready("vllm-agg", "the frontend's image cannot be pulled", is_told).await;
    let message = ready["message"].as_str().unwrap();
    for part in ["nvcr.io/nvidia/ai-dynamo/vllm-runtime:my-tag", "kubectl create secret docker-registry", "nvcr.io"] {
        assert!(message.contains(part), "{message}");
    }
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_someone_changed_or_deleted_is_put_back_and_told() {
    let cluster = Cluster::connect("drift").await;
    let operator = cluster.operator("one", None);
    cluster.apply(&Cluster::fixture("agg")).await;
    cluster.until_ready("vllm-agg", "the graph is ready", |ready| ready["status"] == "True").await;
    cluster.meddle(DEPLOYMENT, "vllm-agg-frontend", json!({"spec": {"replicas": 3, "revisionHistoryLimit": 4}})).await;
    cluster
        .until("the replicas are put back, the field of others is left", || async {
            let spec = cluster.get(DEPLOYMENT, "vllm-agg-frontend").await.unwrap()["spec"].clone();
            if spec["replicas"] == 1 && spec["revisionHistoryLimit"] == 4 { Ok(()) } else { Err(spec) }
        })
        .await;
    let events = Kind { group: "events.k8s.io", version: "v1", kind: "Event", plural: "events" };
    cluster
        .until("an event tells of it", || async {
            let all = cluster.list(events).await;
            let found = all.iter().find(|event| event["reason"] == "DriftRestored");
            found
                .map(|event| assert!(event["note"].as_str().unwrap().contains("spec.replicas"), "{event:#}"))
                .ok_or(json!(all.len()))
        })
        .await;
    cluster.api(SERVICE).delete("vllm-agg-frontend", &kube::api::DeleteParams::default()).await.unwrap();
    cluster
        .until("the Service is made again", || async {
            cluster.get(SERVICE, "vllm-agg-frontend").await.ok_or(json!(null))
        })
        .await;
    cluster.delete_graphs().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_is_wrong_is_refused_with_the_path_and_what_runs_is_left_alone() {
    let cluster = Cluster::connect("refused").await;
    let operator = cluster.operator("one", None);
    let mut graph = Cluster::fixture("agg");
    cluster.apply(&graph).await;
    cluster.until_ready("vllm-agg", "the graph is ready", |ready| ready["status"] == "True").await;
    let before = cluster.names(DEPLOYMENT).await;
    let worker = &mut graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0];
    worker["resources"]["limits"]["nvidia.com/gpu"] = json!("many");
    cluster.apply(&graph).await;
    let reason = "failed_to_reconcile_the_resources";
    let ready = cluster.until_ready("vllm-agg", "the graph is refused", |ready| ready["reason"] == reason).await;
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("spec.components[1]") && message.contains("many"), "{message}");
    let object = cluster.get(GRAPH, "vllm-agg").await.unwrap();
    assert_eq!(
        (&object["status"]["state"], &condition(&object, "Ready")["status"]),
        (&json!("failed"), &json!("False"))
    );
    assert_eq!(cluster.names(DEPLOYMENT).await, before);
    cluster.delete_graphs().await;
    operator.stop().await;
}
