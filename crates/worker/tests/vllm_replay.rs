//! The vLLM guest against a small server that replays what vLLM 0.32.0 was recorded to say: HTTP pages, KV events on
//! a PUB socket, and completions of our script.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use protocol::kv::KvChange;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use worker::engine::vllm::{AttachConfig, VllmError, attach};
use worker::engine::{EngineError, StartedEngine};

/// Longest that a condition is waited for; only a broken build waits this long.
const CAP: Duration = Duration::from_secs(30);

/// First tokens of a prompt that make the server misbehave.
const REFUSED: u64 = 2;
const CUT: u64 = 3;
const ENDLESS: u64 = 4;

async fn capped<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.expect("in time")
}

/// The frames of a recording: per message a count, then length and bytes of each frame.
fn recording(name: &str) -> Vec<Vec<Bytes>> {
    let path = format!("{}/tests/data/vllm/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    let mut rest = Bytes::from(std::fs::read(path).unwrap());
    let number = |rest: &mut Bytes| u32::from_be_bytes(rest.split_to(4)[..].try_into().unwrap()) as usize;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let count = number(&mut rest);
        let frame = |_| {
            let length = number(&mut rest);
            rest.split_to(length)
        };
        messages.push((0..count).map(frame).collect());
    }
    messages
}

/// A PUB socket that sends all of a recording to each subscriber of its topic.
async fn publish(listener: TcpListener, messages: Vec<Vec<Bytes>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        serve_subscriber(stream, &messages).await;
    }
}

async fn serve_subscriber(mut stream: TcpStream, messages: &[Vec<Bytes>]) {
    let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
    Command::Ready("PUB".into()).encode_into(&mut hello);
    stream.write_all(&hello).await.unwrap();
    let (mut buffer, mut reader) = (BytesMut::new(), Reader::default());
    while Greeting::decode(&mut buffer).unwrap().is_none() {
        stream.read_buf(&mut buffer).await.unwrap();
    }
    loop {
        match reader.next(&mut buffer).unwrap() {
            Some(Incoming::Command(Command::Subscribe(topic))) => {
                for frames in messages.iter().filter(|frames| frames[0].starts_with(&topic)) {
                    stream.write_all(&encode_message(frames)).await.unwrap();
                }
            }
            Some(_) => {}
            // The subscriber stays or goes; nothing more is to be sent.
            None if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 => return,
            None => {}
        }
    }
}

#[derive(Clone)]
struct Server {
    event_endpoint: String,
    topic: String,
    /// Sequences whose HTTP stream is open.
    open: watch::Sender<u32>,
}

/// Counts an open stream until it is dropped.
struct Open(watch::Sender<u32>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

fn data(value: &Value) -> Result<Bytes, std::io::Error> {
    Ok(Bytes::from(format!("data: {value}\n\n")))
}

fn chunk(token: u32, end: &Value) -> Value {
    json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "x", "logprobs": null,
        "finish_reason": end, "stop_reason": null, "token_ids": [token]}], "usage": null})
}

async fn completions(State(server): State<Server>, Json(body): Json<Value>) -> Response {
    assert_eq!((&body["stream"], &body["return_token_ids"]), (&json!(true), &json!(true)));
    let prompt = body["prompt"].as_array().unwrap();
    let first = prompt[0].as_u64().unwrap();
    if first == REFUSED {
        let error = json!({"error": {"message": "structured_outputs: bad regex", "code": 400}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let count = body["max_tokens"].as_u64().unwrap() as u32;
    server.open.send_modify(|open| *open += 1);
    let open = Open(server.open.clone());
    if first == ENDLESS {
        let stream = futures::stream::unfold(open, |open| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((data(&chunk(7, &Value::Null)), open))
        });
        return Body::from_stream(stream).into_response();
    }
    let mut parts: Vec<_> = (1..count).map(|n| data(&chunk(100 + n, &Value::Null))).collect();
    if first == CUT {
        parts.push(Err(std::io::Error::other("cut")));
    } else {
        parts.push(data(&chunk(100 + count, &json!("length"))));
        let usage = json!({"prompt_tokens": prompt.len(), "completion_tokens": count,
            "total_tokens": prompt.len() as u32 + count, "prompt_tokens_details": {"cached_tokens": 1}});
        parts.push(data(&json!({"choices": [], "usage": usage})));
        parts.push(Ok(Bytes::from_static(b"data: [DONE]\n\n")));
    }
    let stream = futures::stream::iter(parts).map(move |part| {
        let _ = &open;
        part
    });
    Body::from_stream(stream).into_response()
}

async fn sources(State(server): State<Server>) -> Json<Value> {
    Json(json!({"0": {"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": server.event_endpoint,
        "replay_endpoint": null, "topic": server.topic}}))
}

/// Starts a server that replays a recording; gives its URL and its count of open streams.
async fn serve(name: &str) -> (String, watch::Receiver<u32>) {
    let messages = recording(name);
    let topic = String::from_utf8(messages[0][0].to_vec()).unwrap();
    let events = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // As vLLM says it: any address, this port.
    let event_endpoint = format!("tcp://*:{}", events.local_addr().unwrap().port());
    tokio::spawn(publish(events, messages));
    let models = json!({"object": "list", "data": [
        {"id": "my-lora", "parent": "tiny-qwen3", "max_model_len": null},
        {"id": "tiny-qwen3", "parent": null, "max_model_len": 2048}]});
    let server = Server { event_endpoint, topic, open: watch::Sender::new(0) };
    let open = server.open.subscribe();
    let router = Router::new()
        .route("/health", get(async || ""))
        .route("/version", get(async || Json(json!({"version": "0.32.0"}))))
        .route("/v1/models", get(async move || Json(models.clone())))
        .route("/metrics", get(async || include_str!("data/vllm/metrics.txt")))
        .route("/kv_event_sources", get(sources))
        .route("/v1/completions", post(completions))
        .with_state(server);
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", http.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(http, router).await });
    (url, open)
}

async fn guest(name: &str) -> (StartedEngine, watch::Receiver<u32>) {
    let (url, open) = serve(name).await;
    (capped(attach(AttachConfig::new(url))).await.unwrap(), open)
}

fn request(first: u64, max_tokens: u32) -> PreprocessedRequest {
    let mut request = PreprocessedRequest { token_ids: vec![first as u32, 5, 6], ..PreprocessedRequest::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}

async fn all(receiver: &mut mpsc::Receiver<EngineOutput>) -> Vec<EngineOutput> {
    let mut outputs = Vec::new();
    while let Some(output) = capped(receiver.recv()).await {
        outputs.push(output);
    }
    outputs
}

#[tokio::test]
async fn the_guest_says_what_the_server_is() {
    let (started, _) = guest("qwen3-tiny-sha256_cbor").await;
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
async fn its_kv_events_are_our_changes_whatever_the_topic() {
    for (name, changes) in [("qwen3-tiny-sha256_cbor", 9), ("qwen3-tiny-sha256-evict-lora", 59)] {
        let (mut started, _) = guest(name).await;
        let mut held = BTreeSet::new();
        for at in 0..changes {
            let change = capped(started.kv_changes.recv()).await.unwrap_or_else(|| panic!("{name}: change {at}"));
            match change {
                KvChange::Stored(stored) => held.extend(stored.blocks.iter().map(|block| block.block_hash.0)),
                KvChange::Removed(removed) => removed.block_hashes.iter().for_each(|hash| {
                    assert!(held.remove(&hash.0), "{name}: {hash:?}");
                }),
                KvChange::Cleared => held.clear(),
            }
        }
        assert_eq!(held.len(), 2, "{name}: what the last message stored after clearing all");
    }
}

#[tokio::test]
async fn tokens_go_in_and_come_out_with_usage() {
    let (started, _) = guest("qwen3-tiny-sha256_cbor").await;
    let outputs = all(&mut started.engine.generate(request(9, 4)).unwrap()).await;
    let tokens: Vec<u32> = outputs.iter().flat_map(|output| output.token_ids.clone()).collect();
    assert_eq!(tokens, [101, 102, 103, 104]);
    assert_eq!(outputs[0].completion_usage.unwrap().prompt_tokens, 3);
    let last = outputs.last().unwrap();
    assert_eq!(last.finish_reason, Some(FinishReason::Length));
    assert_eq!(last.completion_usage, Some(CompletionUsage::new(3, 4, 1)));
}

#[tokio::test]
async fn a_dropped_receiver_closes_the_stream_to_vllm() {
    let (started, mut open) = guest("qwen3-tiny-sha256_cbor").await;
    let mut receiver = started.engine.generate(request(ENDLESS, 4)).unwrap();
    capped(receiver.recv()).await.unwrap();
    assert_eq!(*open.borrow_and_update(), 1);
    drop(receiver);
    capped(open.wait_for(|&open| open == 0)).await.unwrap();
    let counted = async {
        while started.engine.load().cancelled_total != 1 {
            tokio::task::yield_now().await;
        }
    };
    capped(counted).await;
    assert_eq!(started.engine.load().active_prefill_tokens, 0);
}

#[tokio::test]
async fn a_refusal_ends_with_its_text_and_a_cut_stream_without_an_end() {
    let (started, _) = guest("qwen3-tiny-sha256_cbor").await;
    let refused = all(&mut started.engine.generate(request(REFUSED, 4)).unwrap()).await;
    let reason = refused[0].finish_reason.clone();
    assert_eq!(reason, Some(FinishReason::Error("structured_outputs: bad regex".into())));
    let cut = all(&mut started.engine.generate(request(CUT, 4)).unwrap()).await;
    assert!(cut.iter().all(|output| output.finish_reason.is_none()), "{cut:?}");
    let mut long = request(9, 4);
    long.token_ids = vec![9; 2048];
    let refused = started.engine.generate(long).unwrap_err();
    assert_eq!(refused, EngineError::PromptTooLong { prompt_tokens: 2048, context_length: 2048 });
}

#[tokio::test]
async fn a_stopped_guest_takes_nothing_more_and_closes_its_changes() {
    let (mut started, _) = guest("qwen3-tiny-sha256_cbor").await;
    let mut receiver = started.engine.generate(request(ENDLESS, 4)).unwrap();
    capped(receiver.recv()).await.unwrap();
    started.engine.stop();
    assert!(matches!(started.engine.generate(request(9, 1)), Err(EngineError::Unavailable(_))));
    assert!(all(&mut receiver).await.iter().all(|output| output.finish_reason.is_none()));
    while capped(started.kv_changes.recv()).await.is_some() {}
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config =
        AttachConfig { ready_within: Duration::from_millis(300), ..AttachConfig::new(format!("http://{nobody}")) };
    assert!(matches!(attach(config).await, Err(VllmError::NotReady { .. })));
}
