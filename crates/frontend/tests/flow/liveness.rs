//! Who lives: lost, hanging and stalled workers are found without a request, and no request waits for one.

use crate::port::Port;
use crate::scripted_worker::{ScriptedWorker, WorkerPlan, expected_text};
use crate::stage::{Stage, ask, events, text_of, until};
use frontend::RouterMode;
use runtime::request_plane::{RequestServer, RequestServerConfig};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Waits until the page says `state` of worker `instance`.
async fn until_state(stage: &Stage, instance: u64, state: &str) {
    let id = format!("{instance:x}");
    stage
        .until(&format!("worker {id} is {state}"), || async {
            let snapshot = stage.snapshot().await;
            let workers = snapshot["workers"].as_array().unwrap();
            workers.iter().any(|w| w["worker_id"] == id.as_str() && w["state"] == state).then_some(())
        })
        .await;
}

/// A server on the port of one that was killed; its listener closes a moment after the kill.
async fn server_at(address: &str) -> RequestServer {
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    until("the port is free", || async {
        let config = RequestServerConfig { host: "127.0.0.1".into(), port, ..RequestServerConfig::default() };
        RequestServer::bind(config).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_router_mode_a_killed_worker_is_out_before_the_next_request_and_its_return_is_seen() {
    for mode in
        [RouterMode::RoundRobin, RouterMode::Random, RouterMode::PowerOfTwo, RouterMode::LeastLoaded, RouterMode::Kv]
    {
        let stage = Stage::with(|config| config.router.mode = mode).await;
        let mut killed = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
        let well = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
        let address = killed.server_address();
        killed.kill();
        until_state(&stage, 1, "lost").await;
        for at in 0..6 {
            assert_eq!(stage.chat(&ask(&format!("question {at}"), &json!({}))).await.status(), 200, "{mode:?}");
        }
        assert_eq!((killed.requests().len(), well.requests().len()), (0, 6), "{mode:?}");
        let migrations = stage.metric("dynamo_frontend_model_migration_total").await;
        assert_eq!(migrations, None, "{mode:?}: nobody had to find out by failing");

        // The same instance on the same port: a container that was restarted in its pod.
        let server = server_at(&address).await;
        let plan = WorkerPlan { instance: 1, ..WorkerPlan::default() };
        let _back = ScriptedWorker::with(server, &stage.discovery, plan).await;
        until_state(&stage, 1, "ready").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_on_the_same_port_serves_under_its_own_name_and_the_old_one_stays_lost() {
    let stage = Stage::new().await;
    let mut old = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let address = old.server_address();
    old.kill();
    let server = server_at(&address).await;
    let plan = WorkerPlan { instance: 2, ..WorkerPlan::default() };
    let new = ScriptedWorker::with(server, &stage.discovery, plan).await;
    until_state(&stage, 2, "ready").await;
    until_state(&stage, 1, "lost").await;
    // Its port is tried each second, and accepts.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..8 {
        assert_eq!(stage.chat(&ask("hello", &json!({}))).await.status(), 200);
    }
    assert_eq!((old.requests().len(), new.requests().len()), (0, 8));
    let states: Vec<Value> =
        stage.snapshot().await["workers"].as_array().unwrap().iter().map(|w| w["state"].clone()).collect();
    assert_eq!(
        states,
        ["lost", "ready"],
        "it was reached on that port all the time, and was not taken for the old one"
    );
}

/// A worker behind a port that can be frozen.
async fn behind_a_port(stage: &Stage, plan: WorkerPlan) -> (ScriptedWorker, Port) {
    let config = RequestServerConfig { host: "127.0.0.1".into(), ..RequestServerConfig::default() };
    let server = RequestServer::bind(config).await.unwrap();
    let port = Port::to(server.address()).await;
    let plan = WorkerPlan { address: Some(port.address.clone()), ..plan };
    let id = plan.instance;
    let worker = ScriptedWorker::with(server, &stage.discovery, plan).await;
    until_state(stage, id, "ready").await;
    (worker, port)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_is_out_within_five_seconds_and_its_streams_go_on_elsewhere() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(3));
    let plan = WorkerPlan { instance: 1, gate: Some(gate.clone()), ..WorkerPlan::default() };
    let (hung, port) = behind_a_port(&stage, plan).await;
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("hello", &json!({ "stream": true })));
    let stream = tokio::spawn(async move { events(request.send().await.unwrap()).await });
    until("three tokens are made", || async { (gate.available_permits() == 0).then_some(()) }).await;
    let well = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;

    let frozen_at = Instant::now();
    port.freeze(true);
    until("the stream goes on elsewhere", || async { (well.requests().len() == 1).then_some(()) }).await;
    let after = frozen_at.elapsed();
    assert!(after < Duration::from_secs(5), "{after:?}");
    assert!(after > Duration::from_secs(2), "no sooner than four pings were missed on either side: {after:?}");
    let events = stream.await.unwrap();
    let prompt = &hung.requests()[0].token_ids;
    assert_eq!(text_of(&events, 0), expected_text(prompt, 16), "no token lost, none doubled");
    until_state(&stage, 1, "hung").await;
    assert_eq!(stage.chat(&ask("again", &json!({}))).await.status(), 200);
    assert_eq!(hung.requests().len(), 1);
    until("the orphan is cancelled", || async { (hung.running() == 0).then_some(()) }).await;

    port.freeze(false);
    until_state(&stage, 1, "ready").await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_beats_through_a_long_prefill_is_waited_for() {
    let stage = Stage::with(|config| {
        config.limits.token_timeout = Duration::from_secs(7_200);
        config.limits.request_timeout = Duration::from_secs(7_200);
    })
    .await;
    // 500k tokens at 140 a second.
    let slow = stage.worker(WorkerPlan { instance: 1, beats: Some(3_571), ..WorkerPlan::default() }).await;
    let began = Instant::now();
    let pinned = ask("hello", &json!({ "nvext": { "backend_instance_id": 1 } }));
    let request = reqwest::Client::builder().no_proxy().build().unwrap().post(stage.url("/v1/chat/completions"));
    let answer = tokio::spawn(request.json(&pinned).send());
    until("it runs", || async { (slow.running() == 1).then_some(()) }).await;
    let other = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    let body: Value = answer.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], expected_text(&slow.requests()[0].token_ids, 16));
    assert!(began.elapsed() > Duration::from_secs(3_500), "{:?}", began.elapsed());
    assert_eq!((slow.requests().len(), other.requests().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stops_to_beat_while_its_worker_answers_pings_is_left_within_seven_seconds() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let plan = WorkerPlan { instance: 1, beats: Some(20), gate: Some(gate), ..WorkerPlan::default() };
    let stalled = stage.worker(plan).await;
    let began = Instant::now();
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("hello", &json!({ "stream": true })));
    let stream = tokio::spawn(async move { events(request.send().await.unwrap()).await });
    until("it runs", || async { (stalled.running() == 1).then_some(()) }).await;
    let well = stage.worker(WorkerPlan { instance: 2, ..WorkerPlan::default() }).await;
    until("the stream goes on elsewhere", || async { (well.requests().len() == 1).then_some(()) }).await;
    let after_the_last_beat = began.elapsed().saturating_sub(Duration::from_secs(20));
    assert!(after_the_last_beat < Duration::from_secs(8), "{after_the_last_beat:?}");
    assert!(after_the_last_beat > Duration::from_secs(4), "{after_the_last_beat:?}");
    assert_eq!(text_of(&stream.await.unwrap(), 0), expected_text(&stalled.requests()[0].token_ids, 16));
    until_state(&stage, 1, "set aside").await;
    until("the orphan is cancelled", || async { (stalled.running() == 0).then_some(()) }).await;
}
