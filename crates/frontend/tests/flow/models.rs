//! Models that come, go, and disagree.

use crate::scripted_worker::{ScriptedWorker, WorkerPlan};
use crate::stage::{Stage, ask, error_of, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_appears_with_its_worker_and_is_404_when_the_last_one_left() {
    let stage = Stage::with(|config| config.limits.worker_wait_max = Duration::from_millis(50)).await;
    assert_eq!(error_of(stage.chat(&ask("x", &json!({}))).await).await.0, 404);
    let mut worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let list: Value = stage.http.get(stage.url("/v1/models")).send().await.unwrap().json().await.unwrap();
    assert_eq!(list["data"][0]["id"], "m");
    assert_eq!(list["data"][0]["context_window"], 1024);
    assert_eq!(stage.metric("dynamo_frontend_model_ready{model=\"m\"}").await, Some(1.0));
    worker.leave().await;
    until("the model is gone", || async {
        (error_of(stage.chat(&ask("x", &json!({}))).await).await.0 == 404).then_some(())
    })
    .await;
    assert_eq!(stage.metric("dynamo_frontend_model_ready{model=\"m\"}").await, Some(0.0));
    assert_eq!(stage.metric("busbar_router_placements_total{model=\"m\"").await, None, "its series are forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_model_without_a_worker_is_503_and_not_404() {
    let stage = Stage::with(|config| config.limits.worker_wait_max = Duration::from_millis(50)).await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let key = runtime::discovery::RecordKey { bucket: "instances".into(), name: "dynamo/backend/generate/1".into() };
    worker.discovery.withdraw(&key).await.unwrap();
    until("it is 503", || async { (error_of(stage.chat(&ask("x", &json!({}))).await).await.0 == 503).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_id_may_contain_slashes() {
    let stage = Stage::new().await;
    let card = Some((|card: &mut protocol::card::ModelCard| card.display_name = "org/sub/m".into()) as fn(&mut _));
    let _worker = stage.worker(WorkerPlan { instance: 1, card, ..WorkerPlan::default() }).await;
    let model: Value = stage.http.get(stage.url("/v1/models/org/sub/m")).send().await.unwrap().json().await.unwrap();
    assert_eq!(model["id"], "org/sub/m");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_another_name_of_the_same_model() {
    let stage = Stage::new().await;
    let card = Some((|card: &mut protocol::card::ModelCard| card.aliases = vec!["other".into()]) as fn(&mut _));
    let _worker = stage.worker(WorkerPlan { instance: 1, card, ..WorkerPlan::default() }).await;
    assert_eq!(stage.chat(&ask("x", &json!({ "model": "other" }))).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_card_is_left_out_and_the_page_says_why() {
    let stage = Stage::new().await;
    let first = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let card = Some((|card: &mut protocol::card::ModelCard| card.kv_cache_block_size = 32) as fn(&mut _));
    let other =
        ScriptedWorker::start(&stage.discovery, WorkerPlan { instance: 2, card, ..WorkerPlan::default() }).await;
    let left_out = until("it is left out", || async { stage.snapshot().await["left_out"].get(0).cloned() }).await;
    assert_eq!(left_out["worker_id"], "2");
    assert!(left_out["reason"].as_str().unwrap().contains("kv_cache_block_size"), "{left_out}");
    for _ in 0..4 {
        assert_eq!(stage.chat(&ask("x", &json!({}))).await.status(), 200);
    }
    assert_eq!((first.requests().len(), other.requests().len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_files_are_not_what_the_card_says_is_not_served_and_says_so() {
    let stage = Stage::with(|config| config.limits.worker_wait_max = Duration::from_millis(50)).await;
    let card = Some(
        (|card: &mut protocol::card::ModelCard| {
            let Some(protocol::card::TokenizerKind::HfTokenizerJson(file)) = &mut card.tokenizer else { return };
            file.checksum = format!("blake3:{}", "0".repeat(64));
        }) as fn(&mut _),
    );
    let _worker =
        ScriptedWorker::start(&stage.discovery, WorkerPlan { instance: 1, card, ..WorkerPlan::default() }).await;
    let why = until("the reason is told", || async {
        let (status, error) = error_of(stage.chat(&ask("x", &json!({}))).await).await;
        let message = error["message"].as_str().unwrap().to_owned();
        (status == 503 && message.contains("checksum")).then_some(message)
    })
    .await;
    assert!(why.contains("tokenizer.json"), "{why}");
}

/// Not a bar but a record: `cargo test -- --nocapture` shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_of_a_model_takes_requests_too() {
    let stage = Stage::new().await;
    let start = Instant::now();
    let a = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    println!("from the first record to a served model: {:?}", start.elapsed());
    let b = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    for _ in 0..4 {
        assert_eq!(stage.chat(&ask("x", &json!({}))).await.status(), 200);
    }
    assert_eq!((a.requests().len(), b.requests().len()), (2, 2), "round-robin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_the_only_worker_restarts_waits_for_it_and_is_answered() {
    let stage = Stage::with(|config| config.limits.worker_wait_max = Duration::from_secs(30)).await;
    let mut worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    worker.leave().await;
    until("the model has no worker", || async {
        (stage.metric("dynamo_frontend_model_ready{model=\"m\"}").await == Some(0.0)).then_some(())
    })
    .await;
    let url = stage.url("/v1/chat/completions");
    let waiting = tokio::spawn(stage.http.post(&url).json(&ask("x", &json!({}))).send());
    let pending = "dynamo_frontend_router_queue_pending_requests{model=\"m\"";
    until("the request waits", || async { (stage.metric(pending).await == Some(1.0)).then_some(()) }).await;
    let _back = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert_eq!(stage.metric(pending).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_worker_ends_with_503_and_when_to_come_back() {
    let stage = Stage::with(|config| config.limits.worker_wait_max = Duration::from_millis(200)).await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let key = runtime::discovery::RecordKey { bucket: "instances".into(), name: "dynamo/backend/generate/1".into() };
    worker.discovery.withdraw(&key).await.unwrap();
    until("the model has no worker", || async {
        (stage.metric("dynamo_frontend_model_ready{model=\"m\"}").await == Some(0.0)).then_some(())
    })
    .await;
    let refused = stage.chat(&ask("x", &json!({}))).await;
    assert!(refused.headers().contains_key("retry-after"));
    let (status, error) = error_of(refused).await;
    assert_eq!((status, error["code"].as_str()), (503, Some("model_not_ready")));
    let waited = "dynamo_frontend_router_admission_rejected_total{model=\"m\",worker_type=\"decode\",\
                  policy_class=\"default\",reason=\"due_time_passed\"}";
    assert_eq!(stage.metric(waited).await, Some(1.0));
}
