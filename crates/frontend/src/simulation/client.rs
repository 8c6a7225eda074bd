//! One client: a request over a connection in memory, and what came back.

use super::plan::Request;
use axum::body::Body;
use hyper_util::rt::TokioIo;
use runtime::world::World;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::task::AbortHandle;

/// Most bytes of an answer; 48 tokens, each in a chunk of its own, are far below.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How a request ended, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every choice in order, and the usage: prompt and completion tokens.
    Complete { texts: Vec<String>, usage: (u64, u64), worker: String },
    /// An OpenAI error object, as the whole answer or in a stream.
    Failed { status: u16, message: String },
    /// The client did not wait for it.
    Left,
    /// What no client should see.
    Broken(String),
}

/// Asks, and leaves early if the request says so.
pub(super) async fn ask(world: &World, frontend: SocketAddr, request: &Request) -> Outcome {
    let exchange = exchange(world, frontend, request);
    let outcome = match request.leaves_after {
        None => exchange.await,
        Some(after) => tokio::time::timeout(after, exchange).await.unwrap_or(Ok(Outcome::Left)),
    };
    outcome.unwrap_or_else(Outcome::Broken)
}

async fn exchange(world: &World, frontend: SocketAddr, request: &Request) -> Result<Outcome, String> {
    let stream = world.dial(&frontend.to_string()).await.map_err(|e| format!("connect: {e}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let _connection = Connection(tokio::spawn(connection).abort_handle());
    let path = if request.is_chat { "/v1/chat/completions" } else { "/v1/completions" };
    let sent = hyper::Request::post(path)
        .header("host", "frontend")
        .header("content-type", "application/json")
        .body(Body::from(body_of(request).to_string()));
    let answer = sender.send_request(sent.map_err(|e| e.to_string())?).await.map_err(|e| format!("send: {e}"))?;
    let status = answer.status().as_u16();
    let bytes = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await;
    let bytes = bytes.map_err(|e| format!("the answer broke off: {e}"))?;
    let text = String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())?;
    if status == 200 && request.is_streamed { streamed(request, &text) } else { whole(request, status, &text) }
}

/// Closes the connection when its request is over or given up.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn body_of(request: &Request) -> Value {
    let mut body = json!({
        "model": worker::model::BYTE_MODEL, "max_tokens": request.max_tokens, "stream": request.is_streamed,
        "n": request.n, "nvext": { "extra_fields": ["worker_id"] },
    });
    if request.is_streamed {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if let Some(seed) = request.seed {
        body["seed"] = json!(seed);
    }
    if let Some(worker) = request.pinned {
        body["nvext"]["backend_instance_id"] = json!(worker);
    }
    if request.is_chat {
        body["messages"] = json!([{ "role": "user", "content": request.prompt }]);
    } else {
        body["prompt"] = json!(request.prompt);
    }
    body
}

fn whole(request: &Request, status: u16, text: &str) -> Result<Outcome, String> {
    let answer: Value = serde_json::from_str(text).map_err(|e| format!("{status}, no JSON ({e}): {text}"))?;
    if status != 200 {
        return failed(status, &answer);
    }
    let mut collected = Collected::new(request);
    collected.take(&answer, if request.is_chat { "message" } else { "text" })?;
    collected.end()
}

fn streamed(request: &Request, text: &str) -> Result<Outcome, String> {
    let mut collected = Collected::new(request);
    let mut events: Vec<&str> = text.split("\n\n").collect();
    if events.pop() != Some("") || events.pop() != Some("data: [DONE]") {
        return Err(format!("the stream ends without [DONE]: {text}"));
    }
    for event in events {
        let data = event.strip_prefix("data: ").ok_or_else(|| format!("an event without data: {event}"))?;
        let chunk: Value = serde_json::from_str(data).map_err(|e| format!("a chunk is no JSON ({e}): {data}"))?;
        if chunk.get("error").is_some() {
            return failed(200, &chunk);
        }
        collected.take(&chunk, if request.is_chat { "delta" } else { "text" })?;
    }
    collected.end()
}

fn failed(status: u16, answer: &Value) -> Result<Outcome, String> {
    let message = answer["error"]["message"].as_str().ok_or_else(|| format!("{status} without an error: {answer}"))?;
    Ok(Outcome::Failed { status, message: message.to_owned() })
}

/// Chunks put together; a whole answer is one chunk.
struct Collected {
    texts: Vec<String>,
    finished: Vec<u32>,
    usages: Vec<(u64, u64)>,
    worker: String,
}

impl Collected {
    fn new(request: &Request) -> Self {
        let choices = request.n as usize;
        Self {
            texts: vec![String::new(); choices],
            finished: vec![0; choices],
            usages: Vec::new(),
            worker: String::new(),
        }
    }

    fn take(&mut self, chunk: &Value, key: &str) -> Result<(), String> {
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or(u64::MAX) as usize;
            let text = if key == "text" { &choice["text"] } else { &choice[key]["content"] };
            let slot = self.texts.get_mut(index).ok_or_else(|| format!("choice {index} was not asked for"))?;
            if self.finished[index] > 0 && text.as_str().is_some_and(|text| !text.is_empty()) {
                return Err(format!("text after the end: {chunk}"));
            }
            slot.push_str(text.as_str().unwrap_or_default());
            self.finished[index] += u32::from(choice["finish_reason"].is_string());
        }
        if let Some(usage) = chunk["usage"].as_object() {
            let count = |key: &str| usage[key].as_u64().unwrap_or(u64::MAX);
            self.usages.push((count("prompt_tokens"), count("completion_tokens")));
        }
        if let Some(worker) = chunk["nvext"]["worker_id"]["decode_worker_id"].as_u64() {
            self.worker = format!("{worker:x}");
        }
        Ok(())
    }

    fn end(self) -> Result<Outcome, String> {
        let Self { texts, finished, usages, worker } = self;
        if finished.iter().any(|&count| count != 1) {
            return Err(format!("the choices ended {finished:?} times"));
        }
        match usages[..] {
            [usage] => Ok(Outcome::Complete { texts, usage, worker }),
            _ => Err(format!("usage was told {} times", usages.len())),
        }
    }
}
