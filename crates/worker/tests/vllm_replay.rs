//! The vLLM guest against a small server that replays what vLLM 0.32.0 was recorded to say. The same guest against the
//! real one: `crates/busbar/tests/vllm_real.rs`.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod vllm_server;

use protocol::kv::KvChange;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vllm_server::{CUT, DIES, ENDLESS, HANGS, REFUSED, Running, SLOW, Script, serve};
use worker::engine::vllm::{ApiKey, AttachConfig, VllmError, attach};
use worker::engine::{EngineError, StartedEngine};

/// Longest that a condition is waited for; only a broken build waits this long.
const CAP: Duration = Duration::from_secs(30);

async fn capped<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.expect("in time")
}

async fn guest_of(script: Script) -> (StartedEngine, Running) {
    let server = serve(script).await;
    (capped(attach(AttachConfig::new(&server.url))).await.unwrap(), server)
}

async fn guest() -> (StartedEngine, Running) {
    guest_of(Script::default()).await
}

fn request(first: u64, max_tokens: u32) -> PreprocessedRequest {
    let mut request = PreprocessedRequest { token_ids: vec![first as u32, 5, 6], ..PreprocessedRequest::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}

async fn all(receiver: &mut mpsc::Receiver<EngineOutput>) -> Vec<EngineOutput> {
    let mut outputs = Vec::new();
    while let Some(output) = receiver.recv().await {
        outputs.push(output);
    }
    outputs
}

async fn answer(started: &StartedEngine, request: PreprocessedRequest) -> Vec<EngineOutput> {
    capped(all(&mut started.engine.generate(request).unwrap())).await
}

fn has_no_end(outputs: &[EngineOutput]) -> bool {
    outputs.iter().all(|output| output.finish_reason.is_none())
}

/// Reads changes until `count` came; gives the blocks that are stored then, and how often all were cleared.
async fn changes(started: &mut StartedEngine, count: usize) -> (BTreeSet<u64>, usize) {
    let (mut held, mut cleared) = (BTreeSet::new(), 0);
    for at in 0..count {
        let change = capped(started.kv_changes.recv()).await.unwrap_or_else(|| panic!("change {at} of {count}"));
        match change {
            KvChange::Stored(stored) => held.extend(stored.blocks.iter().map(|block| block.block_hash.0)),
            KvChange::Removed(removed) => removed.block_hashes.iter().for_each(|hash| {
                assert!(held.remove(&hash.0), "{hash:?} was not stored");
            }),
            KvChange::Cleared => {
                held.clear();
                cleared += 1;
            }
        }
    }
    (held, cleared)
}

#[tokio::test]
async fn the_guest_says_what_the_server_is() {
    let (started, _server) = guest().await;
    let profile = started.engine.profile();
    assert_eq!((profile.engine, profile.context_length, profile.block_size), ("vllm", 2048, 32));
    assert_eq!((profile.total_kv_blocks, profile.max_num_seqs), (80, 256));
    let load = async {
        while started.engine.load().prompt_tokens_total != 4312 {
            tokio::task::yield_now().await;
        }
    };
    capped(load).await;
}

#[tokio::test]
async fn before_it_is_taken_it_has_compiled_what_sampling_and_alternatives_need() {
    let (_started, server) = guest().await;
    let asked = server.sequences.lock().clone();
    let sampled = asked.iter().filter(|body| {
        let sampling = &body["sampling_params"];
        sampling["temperature"].as_f64().is_some_and(|t| t > 0.0) && sampling["logprobs"] == 1
    });
    assert_eq!(sampled.count(), 3, "one alone and two at once: {asked:?}");
}

#[tokio::test]
async fn its_kv_events_are_our_changes_whatever_the_topic() {
    for (recording, count, clears) in [("qwen3-tiny-sha256_cbor", 9, 1), ("qwen3-tiny-sha256-evict-lora", 59, 1)] {
        for replays in [true, false] {
            let (mut started, _server) = guest_of(Script { recording, replays, ..Script::default() }).await;
            let (held, cleared) = changes(&mut started, count).await;
            assert_eq!(
                (held.len(), cleared),
                (2, clears),
                "{recording}: what the last message stored after clearing all"
            );
        }
    }
}

#[tokio::test]
async fn what_happened_before_we_came_is_asked_for() {
    let (mut started, _server) = guest_of(Script { past: 5, ..Script::default() }).await;
    assert_eq!(changes(&mut started, 9).await.0.len(), 2);
    let (mut started, _server) = guest_of(Script { past: 8, ..Script::default() }).await;
    assert_eq!(changes(&mut started, 9).await.0.len(), 2, "all of it was before us");
}

#[tokio::test]
async fn a_lost_message_is_asked_for_and_without_a_replay_socket_the_cache_counts_as_empty() {
    let (mut whole, _server) = guest_of(Script { lost: Some(3), ..Script::default() }).await;
    assert_eq!(changes(&mut whole, 9).await, (changes(&mut guest().await.0, 9).await.0, 1));
    let (mut holed, _server) = guest_of(Script { lost: Some(1), replays: false, ..Script::default() }).await;
    let first = capped(holed.kv_changes.recv()).await.unwrap();
    assert!(matches!(first, KvChange::Stored(_)));
    assert_eq!(capped(holed.kv_changes.recv()).await.unwrap(), KvChange::Cleared);
}

#[tokio::test]
async fn tokens_go_in_and_come_out_with_usage_over_either_api() {
    let disabled = (false, "0.32.0", "/v1/completions");
    let older = (false, "0.11.0", "/v1/completions");
    for (generates, version, path) in [(true, "0.32.0", "/inference/v1/generate"), disabled, older] {
        let (started, server) = guest_of(Script { generates, version, ..Script::default() }).await;
        let outputs = answer(&started, request(9, 4)).await;
        let tokens: Vec<u32> = outputs.iter().flat_map(|output| output.token_ids.clone()).collect();
        assert_eq!(tokens, [101, 102, 103, 104]);
        assert_eq!(outputs[0].completion_usage.unwrap().prompt_tokens, 3);
        let last = outputs.last().unwrap();
        assert_eq!(last.finish_reason, Some(FinishReason::Length));
        assert_eq!(last.completion_usage, Some(CompletionUsage::new(3, 4, 1)));
        let (asked_at, body) = server.asked.borrow().clone();
        assert_eq!(asked_at, path);
        // The generate API knows nothing of the model's generation config; the completions API fills it in itself.
        let temperature = body.pointer("/sampling_params/temperature").and_then(serde_json::Value::as_f64);
        assert_eq!(temperature, generates.then_some(0.6), "{body}");
    }
}

#[tokio::test]
async fn a_dropped_receiver_closes_the_stream_to_vllm() {
    let (started, mut server) = guest().await;
    let mut receiver = started.engine.generate(request(ENDLESS, 4)).unwrap();
    capped(receiver.recv()).await.unwrap();
    assert_eq!(*server.open.borrow_and_update(), 1);
    drop(receiver);
    capped(server.open.wait_for(|&open| open == 0)).await.unwrap();
    let counted = async {
        while started.engine.load().cancelled_total != 1 {
            tokio::task::yield_now().await;
        }
    };
    capped(counted).await;
    assert_eq!(started.engine.load().active_prefill_tokens, 0);
}

#[tokio::test]
async fn a_refusal_ends_with_its_text_and_what_the_server_breaks_off_without_an_end() {
    let (started, _server) = guest().await;
    let refused = answer(&started, request(REFUSED, 4)).await;
    let reason = refused[0].finish_reason.clone();
    assert_eq!(reason, Some(FinishReason::Error("structured_outputs: bad regex".into())));
    for breaks in [CUT, DIES] {
        let outputs = answer(&started, request(breaks, 4)).await;
        assert!(has_no_end(&outputs), "{outputs:?}");
    }
    let mut long = request(9, 4);
    long.token_ids = vec![9; 2048];
    let refused = started.engine.generate(long).unwrap_err();
    assert_eq!(refused, EngineError::PromptTooLong { prompt_tokens: 2048, context_length: 2048 });
}

#[tokio::test]
async fn a_stopped_guest_takes_nothing_more_and_closes_its_changes() {
    let (mut started, _server) = guest().await;
    let mut receiver = started.engine.generate(request(ENDLESS, 4)).unwrap();
    capped(receiver.recv()).await.unwrap();
    started.engine.stop();
    assert!(matches!(started.engine.generate(request(9, 1)), Err(EngineError::Unavailable(_))));
    assert!(has_no_end(&capped(all(&mut receiver)).await));
    while capped(started.kv_changes.recv()).await.is_some() {}
}

/// Starts a sequence and gives how long its stream lasted, its outputs, and whether the engine is gone then.
async fn lasts(started: &mut StartedEngine, request: PreprocessedRequest) -> (Duration, Vec<EngineOutput>, bool) {
    let begun = Instant::now();
    let outputs = all(&mut started.engine.generate(request).unwrap()).await;
    let lasted = begun.elapsed();
    let gone = matches!(started.engine.generate(self::request(9, 1)), Err(EngineError::Unavailable(_)));
    (lasted, outputs, gone)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_healthy_and_makes_no_token_hangs_after_five_seconds() {
    let (mut started, _server) = guest().await;
    let (lasted, outputs, gone) = lasts(&mut started, request(HANGS, 9)).await;
    assert!(gone && has_no_end(&outputs) && outputs[0].token_ids == [101], "{outputs:?}");
    assert!((Duration::from_secs(5)..Duration::from_secs(6)).contains(&lasted), "{lasted:?}");
    // The changes close, which is what makes the worker leave discovery.
    while started.kv_changes.recv().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_engine_steps_does_not_hang_and_an_idle_one_neither() {
    let (started, server) = guest().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut receiver = started.engine.generate(request(HANGS, 9)).unwrap();
    receiver.recv().await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.steps.fetch_add(1, Ordering::Relaxed);
    }
    assert!(receiver.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty), "its stream is open");
    let begun = Instant::now();
    assert!(has_no_end(&all(&mut receiver).await));
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_takes_longer_than_it_may_is_a_hang() {
    // The recorded server computed 4056 prompt tokens in 1.75 s: 2000 of them may take 2.6 s, so five count. That one
    // which stays below is no hang is held by the tables of the watch: over a real socket, paused time jumps.
    let slow = |seconds: u32, tokens: usize| {
        let mut request = request(SLOW, 2);
        request.token_ids = [vec![SLOW as u32, seconds], vec![1; tokens]].concat();
        request
    };
    let (mut started, _server) = guest().await;
    let (lasted, outputs, gone) = lasts(&mut started, slow(60, 2000)).await;
    assert!(gone && has_no_end(&outputs) && lasted < Duration::from_secs(6), "{lasted:?} {outputs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_off_is_asked_at_once_whether_it_still_serves() {
    let (mut started, server) = guest().await;
    let (_, outputs, gone) = lasts(&mut started, request(DIES, 4)).await;
    assert!(has_no_end(&outputs) && !gone, "its engine died for this sequence only: {outputs:?}");
    server.dead.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert!(has_no_end(&answer(&started, request(DIES, 4)).await));
    capped(async { while started.kv_changes.recv().await.is_some() {} }).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_too_busy_to_answer_its_metrics_is_there_while_tokens_come_and_a_mute_idle_one_is_gone() {
    let (mut started, server) = guest().await;
    server.mute.store(true, Ordering::Relaxed);
    let mut receiver = started.engine.generate(request(ENDLESS, 4)).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(40) {
        receiver.recv().await.expect("its stream is open");
    }
    drop(receiver);
    let idle = Instant::now();
    capped(async { while started.kv_changes.recv().await.is_some() {} }).await;
    assert!((Duration::from_secs(15)..Duration::from_secs(21)).contains(&idle.elapsed()), "{:?}", idle.elapsed());
    assert!(matches!(started.engine.generate(request(9, 1)), Err(EngineError::Unavailable(_))));
}

#[tokio::test]
async fn a_key_is_told_where_it_is_wanted_and_its_absence_is_named() {
    let server = serve(Script { key: Some("secret"), ..Script::default() }).await;
    let error = capped(attach(AttachConfig::new(&server.url))).await.err().unwrap();
    assert!(matches!(&error, VllmError::Refused { .. }) && error.is_permanent(), "{error}");
    assert!(error.remedy().contains("VLLM_API_KEY"), "{}", error.remedy());
    let config = AttachConfig { api_key: Some(ApiKey("secret".into())), ..AttachConfig::new(&server.url) };
    let started = capped(attach(config)).await.unwrap();
    assert_eq!(answer(&started, request(9, 2)).await.last().unwrap().finish_reason, Some(FinishReason::Length));
}

#[tokio::test]
async fn what_is_no_vllm_is_told_so_and_an_endless_answer_is_not_read_to_its_end() {
    async fn error_of(page: axum::routing::MethodRouter) -> VllmError {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", http.local_addr().unwrap());
        let router = axum::Router::new().route("/{*any}", page);
        tokio::spawn(async move { axum::serve(http, router).await });
        capped(attach(AttachConfig::new(url))).await.err().unwrap()
    }
    let page = error_of(axum::routing::get(async || "<html>It works!</html>")).await;
    assert!(page.to_string().contains("is no vLLM: no JSON"), "{page}");
    let endless = axum::routing::get(async || {
        axum::body::Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16])))
    });
    // Only the headers of `/health` count.
    let endless = error_of(endless).await;
    assert!(endless.to_string().contains("longer than"), "{endless}");
}

#[tokio::test]
async fn a_server_that_is_not_there_too_old_or_serves_another_model_is_named() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config =
        AttachConfig { ready_within: Duration::from_millis(300), ..AttachConfig::new(format!("http://{nobody}")) };
    let error = attach(config).await.err().unwrap();
    assert!(matches!(&error, VllmError::NotReady { why, .. } if why.contains("refused")), "{error}");

    let old = serve(Script { version: "0.9.2", ..Script::default() }).await;
    let error = capped(attach(AttachConfig::new(&old.url))).await.err().unwrap();
    assert!(matches!(&error, VllmError::TooOld { version, .. } if version == "0.9.2"), "{error}");
    assert!(error.remedy().contains("upgrade"), "{}", error.remedy());

    let other = serve(Script::default()).await;
    let wanted = vec!["Qwen/Qwen3-0.6B".to_owned()];
    let error = capped(attach(AttachConfig { wanted, ..AttachConfig::new(&other.url) })).await.err().unwrap();
    assert!(
        error.to_string().contains("serves `tiny-qwen3`, `models/tiny-qwen3`, and not `Qwen/Qwen3-0.6B`"),
        "{error}"
    );
    let wanted = vec!["/somewhere/tiny-qwen3".to_owned()];
    assert!(capped(attach(AttachConfig { wanted, ..AttachConfig::new(&other.url) })).await.is_ok());
}
