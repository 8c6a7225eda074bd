//! A small server that says what vLLM 0.32.0 was recorded to say: HTTP pages, KV events on a PUB and a ROUTER socket,
//! and completions of our script.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// First tokens of a prompt that make the server misbehave; any other makes it answer with `max_tokens` tokens from 101
/// on.
pub(crate) const REFUSED: u64 = 2;
pub(crate) const CUT: u64 = 3;
pub(crate) const ENDLESS: u64 = 4;
/// One token, and then nothing ever.
pub(crate) const HANGS: u64 = 5;
/// The engine dies in mid-stream, and the API server says so.
pub(crate) const DIES: u64 = 6;
/// The first token comes after this many seconds, which stand in the second token of the prompt.
pub(crate) const SLOW: u64 = 7;

/// What a server is like. The default is 0.32 as it was recorded, without a past.
#[derive(Clone)]
pub(crate) struct Script {
    /// Name of the recording that is published.
    pub(crate) recording: &'static str,
    /// Messages that were published before anybody came: only the replay socket tells them.
    pub(crate) past: usize,
    /// The PUB socket skips this message, and the replay socket tells nothing to the first who asks, so that it is
    /// missed.
    pub(crate) lost: Option<usize>,
    /// There is a replay socket.
    pub(crate) replays: bool,
    /// `/inference/v1/generate` is served.
    pub(crate) generates: bool,
    /// What `/version` says.
    pub(crate) version: &'static str,
    /// The key without which the APIs below `/v1` answer 401.
    pub(crate) key: Option<&'static str>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            recording: "qwen3-tiny-sha256_cbor",
            past: 0,
            lost: None,
            replays: true,
            generates: true,
            version: "0.32.0",
            key: None,
        }
    }
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) url: String,
    /// Sequences whose HTTP stream is open.
    pub(crate) open: watch::Receiver<u32>,
    /// Steps of the engine; the counters in `/metrics` follow it.
    pub(crate) steps: Arc<AtomicU64>,
    /// `/metrics` is not answered while this holds.
    pub(crate) mute: Arc<AtomicBool>,
    /// `/health` answers 503 while this holds, as when the engine has died.
    pub(crate) dead: Arc<AtomicBool>,
    /// The bodies of all sequences of the generate API.
    pub(crate) sequences: Arc<Mutex<Vec<Value>>>,
    /// The last body of a sequence, with the path that it came to.
    pub(crate) asked: watch::Receiver<(String, Value)>,
}

/// The frames of a recording: per message a count, then length and bytes of each frame.
pub(crate) fn recording(name: &str) -> Vec<Vec<Bytes>> {
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

/// A socket of this type, greeted by each who dials; `answer` gives what is sent for a command or message.
async fn socket<F>(listener: TcpListener, socket_type: &'static str, answer: F)
where
    F: Fn(Incoming) -> Vec<Vec<Bytes>> + Clone + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve_peer(stream, socket_type, answer.clone()));
    }
}

async fn serve_peer(mut stream: TcpStream, socket_type: &str, answer: impl Fn(Incoming) -> Vec<Vec<Bytes>>) {
    let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
    Command::Ready(socket_type.into()).encode_into(&mut hello);
    stream.write_all(&hello).await.unwrap();
    let (mut buffer, mut reader) = (BytesMut::new(), Reader::default());
    while Greeting::decode(&mut buffer).unwrap().is_none() {
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
    }
    loop {
        match reader.next(&mut buffer).unwrap() {
            Some(incoming) => {
                for frames in answer(incoming) {
                    if stream.write_all(&encode_message(&frames)).await.is_err() {
                        return;
                    }
                }
            }
            // The peer stays or goes; nothing more is to be sent.
            None if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 => return,
            None => {}
        }
    }
}

/// Publishes the messages from `past` on, without the lost one, to each who subscribes to their topic.
fn publish(script: &Script, messages: &[Vec<Bytes>]) -> impl Fn(Incoming) -> Vec<Vec<Bytes>> + Clone + use<> {
    let (past, lost) = (script.past, script.lost);
    let live: Vec<Vec<Bytes>> = messages
        .iter()
        .enumerate()
        .filter(|(at, _)| *at >= past && Some(*at) != lost)
        .map(|(_, frames)| frames.clone())
        .collect();
    move |incoming| match incoming {
        Incoming::Command(Command::Subscribe(topic)) => {
            live.iter().filter(|frames| frames[0].starts_with(&topic)).cloned().collect()
        }
        _ => Vec::new(),
    }
}

/// Tells all messages again from a number on, as vLLM's ROUTER does.
fn replay(script: &Script, messages: &[Vec<Bytes>]) -> impl Fn(Incoming) -> Vec<Vec<Bytes>> + Clone + use<> {
    let messages = messages.to_vec();
    let empty = Arc::new(AtomicBool::new(script.lost.is_some()));
    let number = |frame: &Bytes| u64::from_be_bytes(frame[..].try_into().unwrap());
    move |incoming| match incoming {
        Incoming::Message(frames) => {
            assert!(frames.len() == 2 && frames[0].is_empty(), "vLLM wants an empty frame and a number: {frames:?}");
            let first = number(&frames[1]);
            let nothing = empty.swap(false, Ordering::Relaxed);
            let told = messages.iter().filter(|message| !nothing && number(&message[1]) >= first);
            let enveloped = |message: &Vec<Bytes>| [&[Bytes::new()][..], message].concat();
            let end = vec![Bytes::new(), Bytes::new(), Bytes::from_static(&[0xff; 8]), Bytes::new()];
            told.map(enveloped).chain([end]).collect()
        }
        Incoming::Command(_) => Vec::new(),
    }
}

#[derive(Clone)]
struct Shared {
    script: Script,
    sources: Value,
    open: watch::Sender<u32>,
    steps: Arc<AtomicU64>,
    mute: Arc<AtomicBool>,
    dead: Arc<AtomicBool>,
    sequences: Arc<Mutex<Vec<Value>>>,
    asked: watch::Sender<(String, Value)>,
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

async fn completions(State(server): State<Shared>, Json(body): Json<Value>) -> Response {
    assert_eq!((&body["stream"], &body["return_token_ids"]), (&json!(true), &json!(true)));
    server.asked.send_replace(("/v1/completions".into(), body.clone()));
    sequence(&server, &body["prompt"], &body["max_tokens"])
}

async fn generate(State(server): State<Shared>, Json(body): Json<Value>) -> Response {
    assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    server.asked.send_replace(("/inference/v1/generate".into(), body.clone()));
    server.sequences.lock().push(body.clone());
    sequence(&server, &body["token_ids"], &body["sampling_params"]["max_tokens"])
}

/// One sequence; the two APIs stream it in the same form.
fn sequence(server: &Shared, prompt: &Value, max_tokens: &Value) -> Response {
    let prompt = prompt.as_array().unwrap();
    let first = prompt[0].as_u64().unwrap();
    if first == REFUSED {
        let error = json!({"error": {"message": "structured_outputs: bad regex", "code": 400}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let count = max_tokens.as_u64().unwrap() as u32;
    server.open.send_modify(|open| *open += 1);
    let open = Open(server.open.clone());
    if first == ENDLESS {
        let stream = futures::stream::unfold(open, |open| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((data(&chunk(7, &Value::Null)), open))
        });
        return Body::from_stream(stream).into_response();
    }
    if first == HANGS {
        let once = futures::stream::iter([data(&chunk(101, &Value::Null))]);
        let never = futures::stream::pending().map(move |()| {
            let _ = &open;
            data(&Value::Null)
        });
        return Body::from_stream(once.chain(never)).into_response();
    }
    let mut parts: Vec<_> = (1..count).map(|n| data(&chunk(100 + n, &Value::Null))).collect();
    match first {
        CUT => parts.push(Err(std::io::Error::other("cut"))),
        DIES => parts.push(data(&json!({"error": {"message": "EngineCore encountered an issue", "code": 500}}))),
        _ => {
            parts.push(data(&chunk(100 + count, &json!("length"))));
            let usage = json!({"prompt_tokens": prompt.len(), "completion_tokens": count,
                "total_tokens": prompt.len() as u32 + count, "prompt_tokens_details": {"cached_tokens": 1}});
            parts.push(data(&json!({"choices": [], "usage": usage})));
            parts.push(Ok(Bytes::from_static(b"data: [DONE]\n\n")));
        }
    }
    let wait = if first == SLOW { prompt[1].as_u64().unwrap() } else { 0 };
    let stream = futures::stream::once(tokio::time::sleep(Duration::from_secs(wait)))
        .flat_map(move |()| futures::stream::iter(std::mem::take(&mut parts)))
        .map(move |part| {
            let _ = &open;
            part
        });
    Body::from_stream(stream).into_response()
}

async fn health(State(server): State<Shared>) -> StatusCode {
    if server.dead.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

/// The recorded page, its step counter ours.
async fn metrics(State(server): State<Shared>) -> String {
    if server.mute.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let recorded = include_str!("../data/vllm/metrics.txt");
    let lines = recorded.lines().map(|line| match line.strip_prefix("vllm:iteration_tokens_total_count") {
        Some(rest) => {
            let labels = rest.rsplit_once(' ').unwrap().0;
            format!("vllm:iteration_tokens_total_count{labels} {}", server.steps.load(Ordering::Relaxed))
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// As vLLM does with `--api-key`: only the APIs ask for it.
async fn ask_for_key(State(server): State<Shared>, request: Request, next: Next) -> Response {
    let asks = request.uri().path().starts_with("/v1") || request.uri().path().starts_with("/inference");
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let wanted = server.script.key.map(|key| format!("Bearer {key}"));
    if asks && wanted.is_some() && wanted.as_deref() != given {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "Unauthorized"}))).into_response();
    }
    next.run(request).await
}

/// Starts a server.
pub(crate) async fn serve(script: Script) -> Running {
    let messages = recording(script.recording);
    let topic = String::from_utf8(messages[0][0].to_vec()).unwrap();
    let events = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replays = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // As vLLM says it: any address, this port.
    let at = |listener: &TcpListener| format!("tcp://*:{}", listener.local_addr().unwrap().port());
    let replay_endpoint = script.replays.then(|| at(&replays));
    let sources = json!({"0": {"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": at(&events),
        "replay_endpoint": replay_endpoint, "topic": topic}});
    tokio::spawn(socket(events, "PUB", publish(&script, &messages)));
    tokio::spawn(socket(replays, "ROUTER", replay(&script, &messages)));
    let models = json!({"object": "list", "data": [
        {"id": "my-lora", "parent": "tiny-qwen3", "max_model_len": null},
        {"id": "tiny-qwen3", "root": "models/tiny-qwen3", "parent": null, "max_model_len": 2048}]});
    let version = script.version;
    let shared = Shared {
        script,
        sources,
        open: watch::Sender::new(0),
        steps: Arc::new(AtomicU64::new(90)),
        mute: Arc::new(AtomicBool::new(false)),
        dead: Arc::new(AtomicBool::new(false)),
        sequences: Arc::default(),
        asked: watch::Sender::new((String::new(), Value::Null)),
    };
    let (open, asked) = (shared.open.subscribe(), shared.asked.subscribe());
    let sequences = shared.sequences.clone();
    let (steps, mute, dead) = (shared.steps.clone(), shared.mute.clone(), shared.dead.clone());
    let rendered = json!([{"token_ids": [0], "sampling_params": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 1}}]);
    let mut router = Router::new()
        .route("/health", get(health))
        .route("/version", get(async move || Json(json!({"version": version}))))
        .route("/v1/models", get(async move || Json(models.clone())))
        .route("/metrics", get(metrics))
        .route("/kv_event_sources", get(async |State(server): State<Shared>| Json(server.sources)))
        .route("/v1/completions", post(completions));
    if shared.script.generates {
        router = router
            .route("/inference/v1/generate", post(generate))
            .route("/v1/completions/render", post(async move || Json(rendered.clone())));
    } else if version == Script::default().version {
        // As 0.32.0 does without `--enable-scale-out`: the route is there and refuses.
        router = router.route("/inference/v1/generate", post(async || StatusCode::FORBIDDEN));
    }
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", http.local_addr().unwrap());
    let router = router.layer(from_fn_with_state(shared.clone(), ask_for_key)).with_state(shared);
    tokio::spawn(async move { axum::serve(http, router).await });
    Running { url, open, steps, mute, dead, sequences, asked }
}
