//! A worker in one process: requests over the real request plane, events over the real event plane, discovery in
//! memory, and an engine that does what the test says.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod scripted;

use protocol::discovery::{EndpointRecord, EventTransport, Record};
use protocol::events::{
    ACTIVE_SEQUENCES_EVENTS, ActiveSequenceChange, ActiveSequencesMessage, KV_EVENTS, KvMetrics, RecoveryAnswer,
    RecoveryQuery,
};
use protocol::kv::{BlockHash, KvChange, RemovedBlocks, WorkerKvEvent};
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use runtime::discovery::Change;
use runtime::event_plane::Subscriber;
use runtime::request_plane::{ErrorClass, RequestClient, RequestError, ResponseStream};
use runtime::system_server::SystemServerConfig;
use scripted::{CAP, Scripted, Stage, on_loopback, request};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use worker::{WorkerConfig, WorkerError};

/// The endpoint that answers requests, and the one that answers recovery queries.
fn endpoints(records: &[Record]) -> (EndpointRecord, EndpointRecord) {
    let mut endpoints = records.iter().filter_map(|record| match record {
        Record::Endpoint(endpoint) => Some(endpoint.clone()),
        _ => None,
    });
    (endpoints.next().unwrap(), endpoints.next().unwrap())
}

fn channel(records: &[Record], topic: &str) -> String {
    let of_topic = |record: &Record| match record {
        Record::EventChannel(channel) if channel.topic == topic => Some(channel.transport.clone()),
        _ => None,
    };
    match records.iter().find_map(of_topic) {
        Some(EventTransport::Zmq { endpoint }) => endpoint,
        other => panic!("{topic}: {other:?}"),
    }
}

async fn subscribe(records: &[Record], topic: &str) -> Subscriber {
    let mut subscriber = Subscriber::connect(&channel(records, topic), topic).await.unwrap();
    capped(subscriber.subscribed()).await;
    subscriber
}

async fn capped<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.expect("in time")
}

async fn next(stream: &mut ResponseStream) -> Option<Result<EngineOutput, RequestError>> {
    let item = capped(stream.next::<EngineOutput>()).await?;
    Some(item.map(|item| item.data.expect("an item with data")))
}

/// All outputs up to the end.
async fn all(stream: &mut ResponseStream) -> Result<Vec<EngineOutput>, RequestError> {
    let mut outputs = Vec::new();
    while let Some(output) = next(stream).await {
        outputs.push(output?);
    }
    Ok(outputs)
}

fn tokens(outputs: &[EngineOutput]) -> Vec<u32> {
    outputs.iter().flat_map(|output| output.token_ids.iter().copied()).collect()
}

/// Waits until the request plane was told of a subscription, that is, until a message comes through.
async fn send(stage: &Stage, first: u32, max_tokens: u32) -> Result<ResponseStream, RequestError> {
    let target = endpoints(&stage.worker.records()).0;
    capped(stage.client.send(&target, "5a1e0001", &request(first, max_tokens))).await
}

#[tokio::test]
async fn a_stream_brings_every_token_in_order_with_usage_first_and_last() {
    let stage = Stage::new(1000).await;
    let outputs = all(&mut send(&stage, 50, 300).await.unwrap()).await.unwrap();
    assert_eq!(tokens(&outputs), (100..400).collect::<Vec<_>>());
    let last = outputs.last().unwrap();
    assert_eq!(outputs[0].completion_usage.unwrap().prompt_tokens_details.unwrap().cached_tokens, Some(2));
    assert_eq!(last.finish_reason, Some(FinishReason::Length));
    assert_eq!(last.completion_usage, Some(CompletionUsage::new(3, 300, 2)));
    assert!(outputs.iter().all(|output| output.index.is_none()));
}

#[tokio::test]
async fn each_step_is_an_item_while_the_reader_keeps_up() {
    let stage = Stage::new(0).await;
    let mut stream = send(&stage, 50, 3).await.unwrap();
    for step in 0..3 {
        stage.engine.steps.add_permits(1);
        assert_eq!(next(&mut stream).await.unwrap().unwrap().token_ids, [100 + step]);
    }
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_caller_that_leaves_stops_its_sequence() {
    let stage = Stage::new(2).await;
    let mut stream = send(&stage, 50, 1000).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    stage.engine.wait_running(1).await;
    drop(stream);
    stage.engine.wait_running(0).await;
}

#[tokio::test]
async fn every_refusal_of_the_engine_has_its_class_and_the_worker_goes_on() {
    let stage = Stage::new(10).await;
    for (first, class, public) in [
        (scripted::INVALID, ErrorClass::InvalidRequest, Some("guided_decoding.regex: open bracket")),
        (
            scripted::TOO_LONG,
            ErrorClass::InvalidRequest,
            Some("the prompt has 9 tokens, but the context of this model is 8 tokens"),
        ),
        (scripted::OVERLOADED, ErrorClass::WorkerOverloaded, None),
        (scripted::UNAVAILABLE, ErrorClass::EngineShutdown, None),
        (scripted::PANIC, ErrorClass::Internal, None),
    ] {
        let error = send(&stage, first, 4).await.err().unwrap();
        assert_eq!((error.class, error.public.as_deref()), (class, public), "{error}");
    }
    assert_eq!(tokens(&all(&mut send(&stage, 50, 2).await.unwrap()).await.unwrap()), [100, 101]);
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_answered() {
    let stage = Stage::new(1).await;
    let target = endpoints(&stage.worker.records()).0;
    let error = capped(stage.client.send(&target, "bad", &json!({"token_ids": "none"}))).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::InvalidRequest);
    assert!(error.public.unwrap().contains("does not decode"));
}

#[tokio::test]
async fn a_stream_without_an_end_is_an_error_that_another_worker_may_heal() {
    let stage = Stage::new(10).await;
    let mut stream = send(&stage, scripted::NO_END, 5).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().token_ids, [100]);
    let error = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::StreamIncomplete);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn two_answers_share_a_stream_and_a_usage() {
    let stage = Stage::new(100).await;
    let target = endpoints(&stage.worker.records()).0;
    let mut two = request(50, 3);
    (two.sampling_options.n, two.sampling_options.seed) = (Some(2), Some(40));
    let mut stream = capped(stage.client.send(&target, "two", &two)).await.unwrap();
    let outputs = all(&mut stream).await.unwrap();
    for index in [0, 1] {
        let of: Vec<EngineOutput> = outputs.iter().filter(|o| o.index == Some(index)).cloned().collect();
        assert_eq!(tokens(&of), [100, 101, 102], "answer {index}");
    }
    assert_eq!(*stage.engine.seeds.lock(), [Some(40), Some(41)]);
    assert_eq!(outputs.last().unwrap().completion_usage, Some(CompletionUsage::new(3, 6, 2)));
}

/// A router's view, kept as a router keeps it.
#[derive(Default)]
struct View {
    blocks: BTreeSet<u64>,
    cursor: u64,
}

impl View {
    fn apply(&mut self, event: &WorkerKvEvent) {
        match &event.event.data {
            KvChange::Stored(stored) => {
                let known = stored.parent_hash.is_none_or(|parent| self.blocks.contains(&parent.0));
                assert!(known, "{:?} hangs on a block that is not there", stored.parent_hash);
                self.blocks.extend(stored.blocks.iter().map(|block| block.block_hash.0));
            }
            KvChange::Removed(removed) => removed.block_hashes.iter().for_each(|hash| {
                assert!(self.blocks.remove(&hash.0));
            }),
            KvChange::Cleared => self.blocks.clear(),
        }
    }
}

fn query(stage: &Stage, start: Option<u64>) -> RecoveryQuery {
    RecoveryQuery {
        worker_id: stage.worker.instance_id(),
        dp_rank: 0,
        start_event_id: start,
        end_event_id: None,
        supports_tree_dump_failed: true,
        kind: "recovery".into(),
    }
}

async fn ask(client: &RequestClient, target: &EndpointRecord, query: &RecoveryQuery) -> RecoveryAnswer {
    let mut stream = capped(client.send(target, "recovery", query)).await.unwrap();
    let answer = capped(stream.next_raw::<RecoveryAnswer>()).await.unwrap().unwrap();
    assert!(capped(stream.next_raw::<RecoveryAnswer>()).await.is_none());
    answer
}

#[tokio::test]
async fn events_and_recovery_agree_with_the_engine() {
    let stage = Stage::new(0).await;
    let records = stage.worker.records();
    let mut events = subscribe(&records, KV_EVENTS).await;
    for prompt in 0..40u32 {
        let tokens: Vec<u32> = (0..12).map(|at| if at < 4 { 7 } else { prompt * 100 + at }).collect();
        stage.engine.change(Scripted::stored_prompt(&tokens)).await;
        if prompt % 3 == 2 {
            let KvChange::Stored(stored) = Scripted::stored_prompt(&tokens) else { unreachable!() };
            let leaf = stored.blocks[2].block_hash;
            stage.engine.change(KvChange::Removed(RemovedBlocks { block_hashes: vec![leaf] })).await;
        }
    }
    let count = 40 + 13;
    let mut live = View::default();
    while live.cursor < count {
        let batch: Vec<WorkerKvEvent> = capped(events.next()).await.unwrap().decode().unwrap();
        for event in &batch {
            assert_eq!((event.event.event_id, event.worker_id), (live.cursor + 1, stage.worker.instance_id()));
            live.cursor += 1;
            live.apply(event);
        }
    }
    let expected = stage.engine.stored.lock().clone();
    assert_eq!(live.blocks, expected);

    let target = endpoints(&records).1;
    let RecoveryAnswer::TreeDump { events, last_event_id, .. } =
        ask(&stage.client, &target, &query(&stage, None)).await
    else {
        panic!("a dump")
    };
    let mut dumped = View::default();
    events.iter().for_each(|event| dumped.apply(event));
    assert_eq!((dumped.blocks, last_event_id), (expected, count));

    let RecoveryAnswer::Events { events, last_event_id } = ask(&stage.client, &target, &query(&stage, Some(50))).await
    else {
        panic!("events")
    };
    assert_eq!(events.iter().map(|e| e.event.event_id).collect::<Vec<_>>(), [50, 51, 52, 53]);
    assert_eq!(last_event_id, count);
    assert!(matches!(ask(&stage.client, &target, &query(&stage, Some(60))).await, RecoveryAnswer::TooNew { .. }));
}

#[tokio::test]
async fn the_first_output_tells_the_routers_that_the_prompt_is_done() {
    let stage = Stage::new(0).await;
    let mut notices = subscribe(&stage.worker.records(), ACTIVE_SEQUENCES_EVENTS).await;
    let mut stream = send(&stage, 50, 2).await.unwrap();
    stage.engine.steps.add_permits(2);
    let notice: ActiveSequencesMessage = capped(notices.next()).await.unwrap().decode().unwrap();
    let [event] = &notice.events[..] else { panic!("{notice:?}") };
    assert_eq!((event.request_id.as_str(), event.router_id), ("5a1e0001", stage.worker.instance_id().0));
    assert_eq!(event.data, ActiveSequenceChange::MarkPrefillCompleted);
    all(&mut stream).await.unwrap();
}

#[tokio::test]
async fn the_load_is_published_when_it_changes_and_ends_with_its_last_state() {
    let stage = Stage::new(0).await;
    let mut load = subscribe(&stage.worker.records(), protocol::events::KV_METRICS).await;
    let block = |n: u64| {
        let KvChange::Stored(mut stored) = Scripted::stored_prompt(&[1, 2, 3, 4]) else { unreachable!() };
        stored.blocks[0].block_hash = BlockHash(n);
        KvChange::Stored(stored)
    };
    for n in 1..=30 {
        stage.engine.change(block(n)).await;
    }
    loop {
        let metrics: KvMetrics = capped(load.next()).await.unwrap().decode().unwrap();
        if metrics.kv_used_blocks == Some(30) {
            break;
        }
    }
}

/// The buckets of the next `count` changes of discovery.
async fn changes(watch: &mut runtime::discovery::Watch, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(match capped(watch.next()).await.unwrap() {
            Change::Put { key, .. } => format!("+{}", key.bucket),
            Change::Delete { key } => format!("-{}", key.bucket),
        });
    }
    names
}

#[tokio::test]
async fn a_leaving_worker_withdraws_refuses_what_is_new_and_ends_what_runs() {
    let Stage { engine, worker, discovery, client, _folder } = Stage::new(1).await;
    let target = endpoints(&worker.records()).0;
    let mut watch = discovery.watch();
    changes(&mut watch, 7).await;
    let mut stream = capped(client.send(&target, "runs", &request(50, 3))).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().token_ids, [100]);
    let shutdown = CancellationToken::new();
    let leaving = tokio::spawn(worker.run_until(shutdown.clone()));
    shutdown.cancel();
    let gone = changes(&mut watch, 7).await;
    assert!(gone.iter().all(|change| change.starts_with('-')), "{gone:?}");
    let refused = loop {
        // The last record and the closed door are two steps.
        match capped(client.send(&target, "new", &request(scripted::INVALID, 3))).await.err().unwrap() {
            error if error.class == ErrorClass::InvalidRequest => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert!(refused.is_retryable(), "{refused}");
    assert_eq!(engine.stops.load(Ordering::SeqCst), 0, "the engine runs while a stream does");
    engine.steps.add_permits(10);
    assert_eq!(tokens(&all(&mut stream).await.unwrap()), [101, 102]);
    // The connection is the caller's to close; the worker would wait some seconds for it.
    drop(stream);
    capped(leaving).await.unwrap().unwrap();
    assert_eq!(engine.stops.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_that_outlives_the_drain_goes_on_elsewhere() {
    let config = WorkerConfig { drain_timeout: Duration::from_millis(50), ..on_loopback() };
    let Stage { engine, worker, client, _folder, .. } = Stage::with(1, config).await;
    let target = endpoints(&worker.records()).0;
    let mut stream = capped(client.send(&target, "long", &request(50, 3))).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let leaving = tokio::spawn(worker.run_until(shutdown));
    let error = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::EngineShutdown);
    assert!(error.is_retryable());
    capped(leaving).await.unwrap().unwrap();
    engine.wait_running(0).await;
}

#[tokio::test]
async fn an_engine_that_dies_takes_its_worker_out_of_discovery() {
    let Stage { engine, worker, discovery, _folder, .. } = Stage::new(0).await;
    let leaving = tokio::spawn(worker.run_until(CancellationToken::new()));
    engine.die();
    let error = capped(leaving).await.unwrap().unwrap_err();
    assert!(matches!(error, WorkerError::EngineStopped), "{error}");
    assert!(discovery.snapshot().is_empty());
}

#[tokio::test]
async fn the_system_server_tells_health_metrics_and_the_models_files() {
    let config =
        WorkerConfig { system: Some(SystemServerConfig { host: "127.0.0.1".into(), port: 0 }), ..on_loopback() };
    let stage = Stage::with(10, config).await;
    all(&mut send(&stage, 50, 2).await.unwrap()).await.unwrap();
    let base = format!("http://{}", stage.worker.system_address().unwrap());
    let get = async |url: String| capped(reqwest::get(url)).await.unwrap();
    assert_eq!(get(format!("{base}/health")).await.status(), 200);
    let metrics = get(format!("{base}/metrics")).await.text().await.unwrap();
    let worker_id = format!(r#"worker_id="{}""#, stage.worker.instance_id());
    let counted = |line: &&str| {
        line.starts_with("dynamo_component_requests_total{") && line.contains(r#"dynamo_endpoint="generate""#)
    };
    let line = metrics.lines().find(counted).unwrap();
    assert!(line.contains(&worker_id) && line.ends_with(" 1"), "{line}");
    for file in stage.worker.card().files() {
        assert!(file.path.starts_with(&base), "{}", file.path);
        let bytes = get(file.path.clone()).await.bytes().await.unwrap();
        assert_eq!(file.checksum, format!("blake3:{}", blake3::hash(&bytes).to_hex()));
        assert_eq!(file.size, Some(bytes.len() as u64));
    }
}

#[tokio::test]
async fn what_waits_and_every_byte_of_the_answers_is_in_the_metrics() {
    let mut config =
        WorkerConfig { system: Some(SystemServerConfig { host: "127.0.0.1".into(), port: 0 }), ..on_loopback() };
    config.request_server.requests_running_max = 1;
    let stage = Stage::with(0, config).await;
    let url = format!("http://{}/metrics", stage.worker.system_address().unwrap());
    let value = async |name: &str| -> f64 {
        let text = capped(reqwest::get(&url)).await.unwrap().text().await.unwrap();
        let of_generate =
            |line: &&str| !line.contains("dynamo_endpoint=") || line.contains(r#"dynamo_endpoint="generate""#);
        let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let line = text.lines().filter(named).find(of_generate).unwrap_or_else(|| panic!("{name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let reaches = async |name: &str, expected: f64| while value(name).await != expected {};

    let mut first = send(&stage, 50, 40).await.unwrap();
    capped(reaches("dynamo_work_handler_pool_active_tasks", 1.0)).await;
    assert_eq!(value("dynamo_work_handler_queue_depth").await, 0.0);
    assert_eq!(value("dynamo_work_handler_pool_capacity").await, 1.0);
    let prologue = value("dynamo_component_response_bytes_total").await;
    assert!(prologue > 24.0, "{prologue} bytes");
    let second = async {
        let mut second = send(&stage, 50, 40).await.unwrap();
        all(&mut second).await.unwrap().len()
    };
    let release = async {
        capped(reaches("dynamo_work_handler_queue_depth", 1.0)).await;
        assert_eq!(value("dynamo_work_handler_permit_wait_seconds_count").await, 0.0);
        stage.engine.steps.add_permits(1_000);
        all(&mut first).await.unwrap();
        drop(first);
    };
    tokio::join!(second, release);
    capped(reaches("dynamo_work_handler_queue_depth", 0.0)).await;
    assert_eq!(value("dynamo_work_handler_permit_wait_seconds_count").await, 1.0);
    let bytes = value("dynamo_component_response_bytes_total").await;
    // 80 tokens, each a number of three digits at least once on the wire, in two streams with frames and ends.
    assert!(bytes > 2.0 * prologue + 80.0 * 2.0, "{bytes} bytes");
}

#[tokio::test]
async fn a_model_folder_that_is_none_stops_the_engine_and_announces_nothing() {
    let (engine, started) = Scripted::start(0);
    let empty = tempfile::tempdir().unwrap();
    let discovery = runtime::discovery::Discovery::memory();
    let model = worker::card::ServedModel::new("m", empty.path());
    let error = worker::Worker::start(on_loopback(), started, model, discovery.clone()).await.err().unwrap();
    assert!(matches!(error, WorkerError::Card(_)), "{error}");
    assert_eq!(engine.stops.load(Ordering::SeqCst), 1);
    assert!(discovery.snapshot().is_empty());
}
