//! Our worker behind the frontend of stock `ai-dynamo`: the same records, requests, events and errors as between our
//! own, read by somebody who was never told of us.
//!
//! Runs when `BUSBAR_TEST_DYNAMO_PYTHON` names a Python that has `ai-dynamo`; it fails when that one is broken.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[path = "../../runtime/tests/ports/mod.rs"]
mod ports;
#[allow(dead_code, reason = "the other test uses the rest")]
mod scripted;

use futures::StreamExt;
use runtime::discovery::Discovery;
use scripted::{BLOCK, CAP, Scripted, on_loopback};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokio::process::{Child, Command};
use worker::Worker;
use worker::card::ServedModel;

const PYTHON: &str = "BUSBAR_TEST_DYNAMO_PYTHON";

/// Starting Python and its modules on a busy machine.
const START_CAP: Duration = Duration::from_secs(180);

/// A model folder with a real tokenizer: one token a byte.
fn byte_model(folder: &Path) {
    // Byte-level vocabularies write a byte that is no printable character as one after U+00FF.
    let mut unprintable = 256u32..;
    let written = |byte: u32| match byte {
        33..=126 | 161..=172 | 174..=255 => byte,
        _ => unprintable.next().unwrap(),
    };
    let written: Vec<u32> = (0..256).map(written).collect();
    let vocabulary: [(String, u32); 256] =
        std::array::from_fn(|byte| (char::from_u32(written[byte]).unwrap().to_string(), byte as u32));
    let bpe = BPE::builder().vocab_and_merges(vocabulary, vec![]).build().unwrap();
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.save(folder.join("tokenizer.json"), false).unwrap();
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    for (name, value) in [
        (
            "config.json",
            json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 256,
            "max_position_embeddings": 4096, "eos_token_id": 0, "bos_token_id": 0, "hidden_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}),
        ),
        ("generation_config.json", json!({"eos_token_id": [0], "bos_token_id": 0})),
        ("tokenizer_config.json", json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})),
    ] {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }
}

struct Stock {
    _frontend: Child,
    base: String,
    http: reqwest::Client,
}

impl Stock {
    fn start(python: &str, store: &Path) -> Self {
        let port = ports::free_port();
        let frontend = Command::new(python)
            .args(["-m", "dynamo.frontend", "--discovery-backend", "file", "--router-mode", "kv"])
            .args(["--http-host", "127.0.0.1", "--http-port", &port.to_string(), "--migration-limit", "3"])
            .env("DYN_FILE_KV", store)
            .env("HF_HUB_OFFLINE", "1")
            .env("DYN_TCP_RESPONSE_STREAM_HOST", "127.0.0.1")
            .env("DYN_EVENT_PLANE_HOST", "127.0.0.1")
            .env("HOME", store)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{PYTHON}={python} does not start: {error}"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _frontend: frontend, base: format!("http://127.0.0.1:{port}"), http }
    }

    /// Waits until a small request is answered, which needs the model, its files and a worker.
    async fn wait_served(&self) {
        let served = async {
            loop {
                let answer = self.post(&json!({"prompt": [9, 9], "max_tokens": 1})).await;
                if answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(START_CAP, served).await.expect("the stock frontend serves our model");
    }

    async fn post(&self, fields: &Value) -> Result<reqwest::Response, reqwest::Error> {
        let mut body = json!({"model": "ours"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.http.post(format!("{}/v1/completions", self.base)).json(&body).timeout(CAP).send().await
    }

    async fn complete(&self, fields: Value) -> (u16, Value) {
        let answer = self.post(&fields).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

/// A worker in the store, with an engine that caches and may make `steps` tokens.
async fn worker(store: &Discovery, folder: &Path, steps: usize) -> (Arc<Scripted>, Worker) {
    let (engine, started) = Scripted::start(steps);
    engine.caches.store(true, Ordering::SeqCst);
    let model = ServedModel::new("ours", folder);
    let worker = Worker::start(on_loopback(), started, model, store.member()).await.unwrap();
    (engine, worker)
}

fn cached_tokens(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_frontend_serves_our_worker() {
    let Ok(python) = std::env::var(PYTHON) else {
        println!("not run: set {PYTHON} to a Python that has ai-dynamo");
        return;
    };
    let (store, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    byte_model(folder.path());
    let discovery = Discovery::file(store.path().to_owned()).await.unwrap();
    let (one, first) = worker(&discovery, folder.path(), 10_000).await;
    let stock = Stock::start(&python, store.path());
    stock.wait_served().await;

    unary_and_refusals(&stock).await;
    cache_is_seen(&stock).await;
    cancel_reaches_the_engine(&stock, &one).await;

    // A second worker comes and takes over what the first one leaves behind.
    let (two, _second) = worker(&discovery, folder.path(), 10_000).await;
    a_lost_worker_is_not_a_lost_answer(&stock, [&one, &two], first).await;
}

async fn unary_and_refusals(stock: &Stock) {
    let (status, answer) = stock.complete(json!({"prompt": [50, 51, 52], "max_tokens": 5})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 3, "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 5, "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["text"], "defgh", "{answer}");
    let (status, answer) = stock.complete(json!({"prompt": [50, 51, 52], "max_tokens": 2, "n": 2})).await;
    assert_eq!((status, answer["choices"].as_array().unwrap().len()), (200, 2), "{answer}");
    let (status, answer) = stock.complete(json!({"prompt": [scripted::INVALID, 1], "max_tokens": 2})).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.to_string().contains("open bracket"), "{answer}");
    let (status, answer) = stock.complete(json!({"prompt": [scripted::OVERLOADED, 1], "max_tokens": 2})).await;
    assert!(status == 529 || status == 503, "{status} {answer}");
    // A worker that was full is set aside for some seconds.
    stock.wait_served().await;
}

async fn cache_is_seen(stock: &Stock) {
    let prompt: Vec<u32> = (60..60 + 10 * BLOCK as u32).collect();
    let (_, cold) = stock.complete(json!({"prompt": prompt, "max_tokens": 1})).await;
    let (_, warm) = stock.complete(json!({"prompt": prompt, "max_tokens": 1})).await;
    assert_eq!((cached_tokens(&cold), cached_tokens(&warm)), (0, 10 * BLOCK as u64), "{warm}");
}

async fn cancel_reaches_the_engine(stock: &Stock, engine: &Scripted) {
    engine.steps.forget_permits(usize::MAX);
    engine.steps.add_permits(2);
    let answer = stock.post(&json!({"prompt": [50, 50], "max_tokens": 500, "stream": true})).await.unwrap();
    let mut stream = answer.bytes_stream();
    stream.next().await.unwrap().unwrap();
    engine.wait_running(1).await;
    drop(stream);
    engine.wait_running(0).await;
    engine.steps.add_permits(10_000);
}

/// Streams with both engines at a stand, takes the worker away that has the stream, and lets the other one go on.
async fn a_lost_worker_is_not_a_lost_answer(stock: &Stock, engines: [&Arc<Scripted>; 2], first: Worker) {
    let [one, two] = engines;
    for engine in engines {
        engine.steps.forget_permits(usize::MAX);
    }
    one.steps.add_permits(3);
    // The prompt is cached at the first worker, so that is where the router sends it.
    let prompt: Vec<u32> = (60..60 + 10 * BLOCK as u32).collect();
    let fields = json!({"prompt": prompt, "max_tokens": 8, "stream": true, "stream_options": {"include_usage": true}});
    let answer = stock.post(&fields).await.unwrap();
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    while said(&text) != "def" {
        text.push_str(&String::from_utf8_lossy(&stream.next().await.expect("the stream goes on").unwrap()));
    }
    assert_eq!((*one.running.borrow(), *two.running.borrow()), (1, 0), "the router follows the cache");
    drop(first);
    two.steps.add_permits(100);
    while let Some(part) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&part.unwrap()));
    }
    // The scripted engine begins anew at its first letter: three tokens here, the other five of eight there.
    assert_eq!(said(&text), "defdefgh", "{text}");
    let usage = chunks(&text).filter_map(|chunk| chunk.pointer("/usage/completion_tokens")?.as_u64());
    assert_eq!(usage.last(), Some(8), "no token is lost or doubled:\n{text}");
    assert!(text.trim_end().ends_with("[DONE]") && !text.contains("error"), "{text}");
}

/// The chunks that have come whole.
fn chunks(text: &str) -> impl Iterator<Item = Value> {
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

/// The text of all chunks together.
fn said(text: &str) -> String {
    chunks(text).filter_map(|chunk| Some(chunk.pointer("/choices/0/text")?.as_str()?.to_owned())).collect()
}
