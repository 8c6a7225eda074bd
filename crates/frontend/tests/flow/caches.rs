//! What workers tell of their caches, and what the router makes of it.

use crate::scripted_worker::{BLOCK_SIZE, ScriptedWorker, WorkerPlan};
use crate::stage::{Stage, ask, until};
use serde_json::{Value, json};

fn plan(instance: u64) -> WorkerPlan {
    WorkerPlan { instance, kv_events: true, ..WorkerPlan::default() }
}

async fn index_blocks(stage: &Stage, worker: &ScriptedWorker) -> Option<f64> {
    stage.metric(&format!("busbar_router_index_blocks{{model=\"m\",worker_id=\"{}\"", worker.instance)).await
}

/// The tokens of a prompt, learnt by asking once.
async fn prompt_of(stage: &Stage, worker: &ScriptedWorker, content: &str) -> Vec<u32> {
    let pinned = json!({ "nvext": { "backend_instance_id": worker.instance.0 } });
    assert_eq!(stage.chat(&ask(content, &pinned)).await.status(), 200);
    worker.requests().pop().unwrap().token_ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_goes_to_the_worker_that_told_it_has_it_cached() {
    let stage = Stage::kv().await;
    let (cold, warm) = (stage.worker(plan(1)).await, stage.worker(plan(2)).await);
    let tokens = prompt_of(&stage, &cold, "a question about something").await;
    until("both are followed", || async { (cold.subscribers() > 0 && warm.subscribers() > 0).then_some(()) }).await;
    warm.cache(&tokens, false).await;
    let blocks = (tokens.len() / BLOCK_SIZE) as f64;
    until("the index knows", || async { (index_blocks(&stage, &warm).await == Some(blocks)).then_some(()) }).await;
    let (cold_before, warm_before) = (cold.requests().len(), warm.requests().len());
    for _ in 0..5 {
        assert_eq!(stage.chat(&ask("a question about something", &json!({}))).await.status(), 200);
    }
    assert_eq!((cold.requests().len() - cold_before, warm.requests().len() - warm_before), (0, 5));

    let snapshot = stage.snapshot().await;
    let route = &snapshot["routes"][0];
    assert_eq!((route["worker_id"].as_str(), route["mode"].as_str()), (Some("2"), Some("kv")));
    assert!(route["cached_tokens"].as_u64().unwrap() > 0);
    assert_eq!(route["why"].as_array().unwrap().len(), 2, "both candidates are explained");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_before_the_frontend_came_is_asked_for() {
    let stage = Stage::kv().await;
    let worker = stage.worker(WorkerPlan { cached: (100..140).collect(), ..plan(1) }).await;
    until("the dump is in the index", || async { (index_blocks(&stage, &worker).await == Some(10.0)).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_events_is_asked_for_and_filled() {
    let stage = Stage::kv().await;
    let worker = stage.worker(plan(1)).await;
    until("the worker is followed", || async { (worker.subscribers() > 0).then_some(()) }).await;
    until("the dump was asked for", || async { (!worker.seen.queries.lock().unwrap().is_empty()).then_some(()) }).await;
    worker.cache(&(100..108).collect::<Vec<u32>>(), false).await;
    until("the first is in", || async { (index_blocks(&stage, &worker).await == Some(2.0)).then_some(()) }).await;
    worker.cache(&(200..208).collect::<Vec<u32>>(), true).await;
    worker.cache(&(300..308).collect::<Vec<u32>>(), true).await;
    worker.cache(&(400..408).collect::<Vec<u32>>(), false).await;
    until("nothing is missing", || async { (index_blocks(&stage, &worker).await == Some(8.0)).then_some(()) }).await;
    let asked: Vec<_> = worker.seen.queries.lock().unwrap().iter().map(|query| query.start_event_id).collect();
    assert!(asked.contains(&Some(2)), "the hole begins at event 2: {asked:?}");
    let gaps = "busbar_router_index_gaps_total{model=\"m\",worker_id=\"1\"";
    assert_eq!(stage.metric(gaps).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_lost_at_the_end_of_a_burst_is_found_once_it_is_quiet() {
    let stage = Stage::kv().await;
    let worker = stage.worker(plan(1)).await;
    until("the worker is followed", || async { (worker.subscribers() > 0).then_some(()) }).await;
    until("the dump was asked for", || async { (!worker.seen.queries.lock().unwrap().is_empty()).then_some(()) }).await;
    worker.cache(&(100..108).collect::<Vec<u32>>(), false).await;
    worker.cache(&(200..208).collect::<Vec<u32>>(), true).await;
    until("the lost one is in", || async { (index_blocks(&stage, &worker).await == Some(4.0)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_takes_its_blocks_along() {
    let stage = Stage::kv().await;
    let (mut going, staying) = (stage.worker(plan(1)).await, stage.worker(plan(2)).await);
    until("it is followed", || async { (going.subscribers() > 0).then_some(()) }).await;
    going.cache(&(100..108).collect::<Vec<u32>>(), false).await;
    until("its blocks are in", || async { (index_blocks(&stage, &going).await == Some(2.0)).then_some(()) }).await;
    going.leave().await;
    until("its series are gone", || async { index_blocks(&stage, &going).await.is_none().then_some(()) }).await;
    assert_eq!(index_blocks(&stage, &staying).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_events_is_served_all_the_same() {
    let stage = Stage::kv().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    assert_eq!(stage.chat(&ask("x", &json!({}))).await.status(), 200);
    assert_eq!(worker.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_salt_keeps_a_prompt_away_from_the_plain_cache() {
    let stage = Stage::kv().await;
    let worker = stage.worker(plan(1)).await;
    let tokens = prompt_of(&stage, &worker, "a question about something").await;
    until("it is followed", || async { (worker.subscribers() > 0).then_some(()) }).await;
    worker.cache(&tokens, false).await;
    until("the index knows", || async { index_blocks(&stage, &worker).await.filter(|&blocks| blocks > 0.0) }).await;
    let cached = async |more: Value| {
        assert_eq!(stage.chat(&ask("a question about something", &more)).await.status(), 200);
        stage.snapshot().await["routes"][0]["cached_tokens"].as_u64().unwrap()
    };
    assert!(cached(json!({})).await > 0);
    assert_eq!(cached(json!({ "nvext": { "cache_salt": "tenant-7" } })).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_report_reaches_the_gauge() {
    let stage = Stage::kv().await;
    let worker = stage.worker(plan(1)).await;
    let used = "busbar_frontend_worker_kv_used_blocks{model=\"m\",worker_id=\"1\"";
    until("the report is in", || async {
        worker.tell_load(77).await;
        (stage.metric(used).await == Some(77.0)).then_some(())
    })
    .await;
    let total = "busbar_frontend_worker_kv_total_blocks{model=\"m\",worker_id=\"1\"";
    assert_eq!(stage.metric(total).await, Some(1000.0));
}
