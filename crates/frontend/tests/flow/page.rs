//! The status page: its files, and that every figure it plots is the one that `/metrics` tells.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask, events};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn every_plotted_value_is_the_one_that_metrics_tells() {
    let stage = Stage::kv().await;
    let _worker = stage.worker(WorkerPlan { instance: 1, kv_events: true, ..WorkerPlan::default() }).await;
    for at in 0..3 {
        events(stage.chat(&ask(&format!("question {at}"), &json!({ "stream": true }))).await).await;
    }
    let (before, snapshot, after) = (stage.metrics().await, stage.snapshot().await, stage.metrics().await);
    assert_eq!(before, after, "nothing runs, so nothing moves");
    let plotted = snapshot["metrics"].as_object().unwrap();
    for family in [
        "dynamo_frontend_output_tokens_total{model=\"m\"}",
        "dynamo_frontend_time_to_first_token_seconds_count{model=\"m\"}",
        "dynamo_frontend_inter_token_latency_seconds_count{model=\"m\"}",
        "dynamo_frontend_active_requests{model=\"m\"}",
        "busbar_frontend_worker_kv_total_blocks{model=\"m\",worker_id=\"1\",dp_rank=\"0\"}",
    ] {
        assert!(plotted.contains_key(family), "{family} is not in the snapshot");
    }
    assert_eq!(plotted["dynamo_frontend_output_tokens_total{model=\"m\"}"], 48.0);
    for (series, value) in plotted {
        let line = after.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
        let told: f64 = line.and_then(|line| line.rsplit_once(' ')).expect("a series of /metrics").1.parse().unwrap();
        assert_eq!(value.as_f64(), Some(told), "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_whole_and_fetches_nothing_from_elsewhere() {
    let stage = Stage::new().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/status/page.css", "text/css"),
        ("/status/page.js", "text/javascript"),
        ("/status/icon.svg", "image/svg+xml"),
    ] {
        let response = stage.http.get(stage.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind), "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = response.text().await.unwrap();
        assert!(!text.is_empty(), "{path} is empty");
        let elsewhere = text.replace("http://www.w3.org/", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{path} names another site");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_is_not_for_a_name_that_was_rebound_to_this_machine() {
    let stage = Stage::new().await;
    let request = stage.http.get(stage.url("/status/snapshot")).header("host", "evil.example");
    assert_eq!(request.send().await.unwrap().status(), 403);
}
