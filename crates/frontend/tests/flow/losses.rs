//! What the loss of workers costs: nothing for requests that can go on, an error for those that must not.

use crate::scripted_worker::{ScriptedWorker, WorkerPlan, expected_text};
use crate::stage::{Stage, ask, error_of, events, text_of, until};
use runtime::request_plane::ErrorClass;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_one_of_two_workers_loses_none_of_sixty_streams() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let plan = |instance| WorkerPlan { instance, gate: Some(gate.clone()), ..WorkerPlan::default() };
    let mut killed = stage.worker(plan(1)).await;
    let survivor = stage.worker(plan(2)).await;
    let url = stage.url("/v1/chat/completions");
    let streams: Vec<_> = (0..60)
        .map(|at| {
            let request = stage.http.post(&url).json(&ask(&format!("question {at}"), &json!({ "stream": true })));
            tokio::spawn(async move { events(request.send().await.unwrap()).await })
        })
        .collect();
    until("all streams run", || async { (killed.running() + survivor.running() == 60).then_some(()) }).await;
    assert_eq!(killed.running(), 30, "more than the account for retries would pay for");
    gate.add_permits(100);
    killed.kill();
    gate.add_permits(2_000);
    let known = [killed.requests(), survivor.requests()].concat();
    for stream in streams {
        let events = stream.await.unwrap();
        assert_eq!(events.last().unwrap(), "[DONE]");
        let text = text_of(&events, 0);
        assert!(
            known.iter().any(|request| expected_text(&request.token_ids, 16) == text),
            "an undisturbed text: {text}"
        );
    }
    assert_eq!(stage.metric("busbar_frontend_retries_refused_total{model=\"m\"}").await, Some(0.0));
    let refused = stage.metric("busbar_frontend_poison_refused_total{model=\"m\"}").await;
    assert_eq!(refused, Some(0.0), "one dead worker makes nobody guilty");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_requests_that_are_refused_are_bounded() {
    // The budget fills from the first worker on.
    let began = std::time::Instant::now();
    let stage = Stage::with(|config| config.migration_limit = Some(3)).await;
    let refuse = Some(ErrorClass::WorkerUnavailable);
    let mut workers = Vec::new();
    for instance in 1..=4 {
        workers.push(stage.worker(WorkerPlan { instance, refuse, ..WorkerPlan::default() }).await);
    }
    for at in 0..100 {
        assert_eq!(stage.chat(&ask(&format!("question {at}"), &json!({}))).await.status(), 503);
    }
    let tries: usize = workers.iter().map(|worker| worker.requests().len()).sum();
    // A fifth of the requests, ten to begin with, and one a second.
    let most = 100 + 20 + 10 + 1 + began.elapsed().as_secs() as usize;
    assert!((125..=most).contains(&tries), "{tries} of {most}");
    let refused = stage.metric("busbar_frontend_retries_refused_total{model=\"m\"}").await.unwrap();
    assert!(refused > 50.0, "{refused}");
}

/// Waits until `worker` runs one request, and kills it.
async fn dies_on_it(worker: &mut ScriptedWorker) {
    until("it runs there", || async { (worker.running() == 1).then_some(()) }).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_which_two_workers_died_is_refused_and_the_third_never_sees_it() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let plan = |instance| WorkerPlan { instance, gate: Some(gate.clone()), ..WorkerPlan::default() };
    let mut first = stage.worker(plan(1)).await;
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("poison", &json!({}))).send();
    let asked = tokio::spawn(request);
    until("it runs", || async { (first.running() == 1).then_some(()) }).await;
    let mut second = stage.worker(plan(2)).await;
    dies_on_it(&mut first).await;
    until("it runs again", || async { (second.running() == 1).then_some(()) }).await;
    let third = stage.worker(WorkerPlan { instance: 3, ..WorkerPlan::default() }).await;
    dies_on_it(&mut second).await;
    let (status, error) = error_of(asked.await.unwrap().unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (422, Some("poison")), "{error}");
    for stream in [false, true] {
        let again = ask("poison", &json!({ "stream": stream, "seed": 7 }));
        let (status, error) = error_of(stage.chat(&again).await).await;
        assert_eq!((status, error["code"].as_str()), (422, Some("poison")), "whoever sends it: {error}");
    }
    assert_eq!(third.requests().len(), 0);
    assert_eq!(stage.chat(&ask("harmless", &json!({}))).await.status(), 200);
    assert_eq!(stage.metric("busbar_frontend_poison_refused_total{model=\"m\"}").await, Some(3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_progress_between_two_kills_is_no_poison() {
    let stage = Stage::new().await;
    let gates: Vec<Arc<Semaphore>> = (0..3).map(|_| Arc::new(Semaphore::new(4))).collect();
    let plan =
        |at: usize| WorkerPlan { instance: 1 + at as u64, gate: Some(gates[at].clone()), ..WorkerPlan::default() };
    let mut first = stage.worker(plan(0)).await;
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("hello", &json!({ "stream": true })));
    let stream = tokio::spawn(async move { events(request.send().await.unwrap()).await });
    let made = |at: usize| {
        let gate = gates[at].clone();
        async move { until("four tokens", || async { (gate.available_permits() == 0).then_some(()) }).await }
    };
    made(0).await;
    let mut second = stage.worker(plan(1)).await;
    first.kill();
    made(1).await;
    gates[2].add_permits(100);
    let _third = stage.worker(plan(2)).await;
    second.kill();
    let events = stream.await.unwrap();
    assert_eq!(text_of(&events, 0), expected_text(&first.requests()[0].token_ids, 16));
    assert_eq!(stage.metric("busbar_frontend_poison_refused_total{model=\"m\"}").await, Some(0.0));
}

fn guided(more: &Value) -> Value {
    let mut body = ask("hello", &json!({ "guided_regex": "[a-z]+" }));
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constrained_answer_goes_on_only_where_its_grammar_can_be_advanced() {
    let able = |card: &mut protocol::card::ModelCard| {
        card.runtime_config.other.insert("runtime_data".into(), json!({ "busbar_resumes_guided": true }));
    };
    // Nobody can: an error that says so, and not an answer that breaks its grammar.
    let stage = Stage::new().await;
    let _cut = stage.worker(WorkerPlan { instance: 1, cut_after: Some(5), ..WorkerPlan::default() }).await;
    let cannot = stage.worker(WorkerPlan { instance: 2, cut_after: Some(5), ..WorkerPlan::default() }).await;
    let (status, error) = error_of(stage.chat(&guided(&json!({}))).await).await;
    assert_eq!((status, error["code"].as_str()), (503, Some("not_resumable")), "{error}");
    assert!(cannot.requests().len() <= 1);
    // One can, and hears how much of its prompt is answer.
    let stage = Stage::new().await;
    let plan = WorkerPlan { instance: 1, cut_after: Some(5), ..WorkerPlan::default() };
    let cut = stage.worker(plan).await;
    let pinned = guided(&json!({ "nvext": { "backend_instance_id": 1 } }));
    let _cannot = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    let can = stage.worker(WorkerPlan { instance: 3, card: Some(able), ..WorkerPlan::default() }).await;
    let body: Value = stage.chat(&pinned).await.json().await.unwrap();
    let prompt = &cut.requests()[0].token_ids;
    assert_eq!(body["choices"][0]["message"]["content"], expected_text(prompt, 16), "{body}");
    assert_eq!(can.requests()[0].resumed_tokens(), 5);
    assert!(can.requests()[0].sampling_options.guided_decoding.is_some());
}
