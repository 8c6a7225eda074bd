//! Workers that fail, clients that leave, and time that runs out.

use crate::scripted_worker::{ScriptedWorker, WorkerPlan, expected_text};
use crate::stage::{Stage, ask, error_of, events, text_of, until};
use futures::StreamExt;
use runtime::request_plane::ErrorClass;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The prompt that whoever answered first was sent.
fn first_prompt(workers: &[&ScriptedWorker]) -> Vec<u32> {
    let prompts = workers.iter().flat_map(|worker| worker.requests()).map(|request| request.token_ids);
    prompts.min_by_key(Vec::len).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_goes_on_elsewhere_and_the_client_sees_the_undisturbed_text() {
    let stage = Stage::new().await;
    let a = stage.worker(WorkerPlan { instance: 1, cut_after: Some(5), ..WorkerPlan::default() }).await;
    let b = stage.worker(WorkerPlan { instance: 2, cut_after: Some(5), ..WorkerPlan::default() }).await;
    let more = json!({ "stream": true, "min_tokens": 9, "stream_options": { "include_usage": true } });
    let events = events(stage.chat(&ask("hello", &more)).await).await;
    let prompt = first_prompt(&[&a, &b]);
    assert_eq!(text_of(&events, 0), expected_text(&prompt, 16), "no token lost, none doubled");

    let mut requests = [a.requests(), b.requests()].concat();
    requests.sort_by_key(|request| request.token_ids.len());
    let lengths: Vec<usize> = requests.iter().map(|request| request.token_ids.len() - prompt.len()).collect();
    assert_eq!(lengths, [0, 5, 10], "each worker cut its first stream after 5 tokens");
    let limits = |at: usize| (requests[at].stop_conditions.max_tokens, requests[at].stop_conditions.min_tokens);
    assert_eq!((limits(0), limits(1), limits(2)), ((Some(16), Some(9)), (Some(11), Some(4)), (Some(6), Some(0))));

    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["usage"]["prompt_tokens"], prompt.len(), "the prompt counts once");
    assert_eq!(usage["usage"]["completion_tokens"], 16, "every token counts");
    let migrations = "dynamo_frontend_model_migration_total{model=\"m\",migration_type=\"ongoing_request\"}";
    assert_eq!(stage.metric(migrations).await, Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_worker_is_asked_again_after_a_broken_stream_and_is_not_set_aside() {
    let stage = Stage::new().await;
    let a = stage.worker(WorkerPlan { instance: 1, cut_after: Some(3), ..WorkerPlan::default() }).await;
    let body: Value = stage.chat(&ask("hello", &json!({}))).await.json().await.unwrap();
    let prompt = first_prompt(&[&a]);
    assert_eq!(body["choices"][0]["message"]["content"], expected_text(&prompt, 16));
    assert_eq!(stage.chat(&ask("again", &json!({}))).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_no_request_and_is_chosen_no_more() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let plan = |instance| WorkerPlan { instance, gate: Some(gate.clone()), ..WorkerPlan::default() };
    let mut workers = vec![stage.worker(plan(1)).await, stage.worker(plan(2)).await];
    let url = stage.url("/v1/chat/completions");
    let streams: Vec<_> = (0..8)
        .map(|at| {
            let request = stage.http.post(&url).json(&ask(&format!("question {at}"), &json!({ "stream": true })));
            tokio::spawn(async move { events(request.send().await.unwrap()).await })
        })
        .collect();
    until("all streams run", || async { (workers[0].running() + workers[1].running() == 8).then_some(()) }).await;
    gate.add_permits(16);
    let mut killed = workers.remove(0);
    killed.kill();
    gate.add_permits(1000);
    let survivor = &workers[0];
    for stream in streams {
        let events = stream.await.unwrap();
        assert_eq!(events.last().unwrap(), "[DONE]");
        let text = text_of(&events, 0);
        let known = [killed.requests(), survivor.requests()].concat();
        assert!(
            known.iter().any(|request| expected_text(&request.token_ids, 16) == text),
            "an undisturbed text: {text}"
        );
    }
    let before = killed.requests().len();
    for _ in 0..6 {
        assert_eq!(stage.chat(&ask("later", &json!({}))).await.status(), 200);
    }
    assert_eq!(killed.requests().len(), before);
    let snapshot = stage.snapshot().await;
    let states: Vec<_> = snapshot["workers"].as_array().unwrap().iter().map(|w| w["state"].clone()).collect();
    assert_eq!(states, ["lost", "ready"], "its record is still there, and the page says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_migration_a_broken_stream_ends_with_an_error_event() {
    let stage = Stage::with(|config| config.migration_limit = Some(0)).await;
    let _worker = stage.worker(WorkerPlan { instance: 1, cut_after: Some(3), ..WorkerPlan::default() }).await;
    let events = events(stage.chat(&ask("hello", &json!({ "stream": true }))).await).await;
    let error: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(error["error"]["type"], "service_unavailable");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_the_longest_sequence_does_not_migrate() {
    let stage = Stage::with(|config| config.migration_max_seq_len = Some(4)).await;
    let _worker = stage.worker(WorkerPlan { instance: 1, cut_after: Some(3), ..WorkerPlan::default() }).await;
    let (status, _) = error_of(stage.chat(&ask("hello", &json!({}))).await).await;
    assert_eq!(status, 503);
    let series = "dynamo_frontend_model_migration_max_seq_len_exceeded_total";
    assert_eq!(stage.metric(series).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_refuses_becomes_the_status_that_says_so() {
    let check = async |class: ErrorClass, expected: u16, message: &str| {
        let stage = Stage::with(|config| config.migration_limit = Some(1)).await;
        let worker = stage.worker(WorkerPlan { instance: 1, refuse: Some(class), ..WorkerPlan::default() }).await;
        for stream in [false, true] {
            let response = stage.chat(&ask("hello", &json!({ "stream": stream }))).await;
            let retry_after = response.headers().contains_key("retry-after");
            let (status, error) = error_of(response).await;
            assert_eq!(status, expected, "{class:?}");
            assert!(error["message"].as_str().unwrap().contains(message), "{error}");
            assert_eq!(retry_after, matches!(status, 429 | 503 | 529), "{class:?}");
        }
        worker.requests().len()
    };
    assert_eq!(check(ErrorClass::InvalidRequest, 400, "the public words").await, 2, "not tried again");
    assert_eq!(check(ErrorClass::WorkerOverloaded, 529, "overloaded").await, 4, "tried again once each");
    check(ErrorClass::RateLimited, 429, "the public words").await;
    check(ErrorClass::NotImplemented, 501, "the public words").await;
    check(ErrorClass::WorkerUnavailable, 503, "temporarily unavailable").await;
    check(ErrorClass::DeadlineExceeded, 504, "did not answer in time").await;
    check(ErrorClass::Internal, 500, "the public words").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_error_is_a_500_or_an_error_event_and_its_words_stay_inside() {
    let stage = Stage::new().await;
    let _worker = stage.worker(WorkerPlan { instance: 1, engine_error_after: Some(2), ..WorkerPlan::default() }).await;
    let (status, error) = error_of(stage.chat(&ask("hello", &json!({}))).await).await;
    assert_eq!((status, error["code"].as_str()), (500, Some("engine_error")));
    let events = events(stage.chat(&ask("hello", &json!({ "stream": true }))).await).await;
    assert!(events[events.len() - 2].contains("engine_error"));
    assert!(!events.concat().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_at_its_deadline_with_504_and_frees_the_worker() {
    let stage = Stage::with(|config| config.limits.request_timeout = Duration::from_millis(300)).await;
    let worker = stage.worker(WorkerPlan { instance: 1, silent: true, ..WorkerPlan::default() }).await;
    let (status, error) = error_of(stage.chat(&ask("hello", &json!({}))).await).await;
    assert_eq!((status, error["code"].as_str()), (504, Some("deadline_exceeded")));
    until("the worker was cancelled", || async { (worker.running() == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_out_of_time_ends_with_an_error_event() {
    let stage = Stage::with(|config| config.limits.request_timeout = Duration::from_millis(500)).await;
    let gate = Arc::new(Semaphore::new(3));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate), ..WorkerPlan::default() }).await;
    let events = events(stage.chat(&ask("hello", &json!({ "stream": true }))).await).await;
    assert_eq!(text_of(&events[..events.len() - 2], 0), expected_text(&worker.requests()[0].token_ids, 3));
    assert!(events[events.len() - 2].contains("deadline_exceeded"), "{events:?}");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_falls_silent_is_left_for_another() {
    let stage = Stage::with(|config| config.limits.token_timeout = Duration::from_millis(300)).await;
    let gate = Arc::new(Semaphore::new(4));
    let silent = stage.worker(WorkerPlan { instance: 1, gate: Some(gate), ..WorkerPlan::default() }).await;
    let pinned = json!({ "nvext": { "backend_instance_id": 1 } });
    let well = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    let body: Value = stage.chat(&ask("hello", &pinned)).await.json().await.unwrap();
    let prompt = &silent.requests()[0].token_ids;
    assert_eq!(body["choices"][0]["message"]["content"], expected_text(prompt, 16));
    assert_eq!(well.requests()[0].token_ids.len(), prompt.len() + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_engine_and_frees_the_booking() {
    let stage = Stage::kv().await;
    let gate = Arc::new(Semaphore::new(2));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate), ..WorkerPlan::default() }).await;
    let mut stream = stage.chat(&ask("hello", &json!({ "stream": true }))).await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    let active = "dynamo_frontend_worker_active_decode_blocks{worker_id=\"1\"";
    assert!(stage.metric(active).await.unwrap() > 0.0);
    drop(stream);
    until("the engine has stopped", || async { (worker.running() == 0).then_some(()) }).await;
    assert_eq!(worker.seen.cancelled.load(Ordering::SeqCst), 1);
    until("the booking is free", || async { (stage.metric(active).await == Some(0.0)).then_some(()) }).await;
    let cancelled = "dynamo_frontend_model_cancellation_total{model=\"m\",endpoint=\"chat_completions\"";
    assert_eq!(stage.metric(cancelled).await, Some(1.0));
    assert_eq!(stage.metric("dynamo_frontend_inflight_requests{model=\"m\"}").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_client_that_leaves_stops_the_engine_too() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(2));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate), ..WorkerPlan::default() }).await;
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("hello", &json!({}))).send();
    let asking = tokio::spawn(request);
    until("the engine runs", || async { (worker.running() == 1).then_some(()) }).await;
    asking.abort();
    until("the engine has stopped", || async { (worker.running() == 0).then_some(()) }).await;
}
