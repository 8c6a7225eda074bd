//! Two frontends before the same stock mockers, ours and a stock one with `--router-replica-sync`: each counts what the
//! other has booked.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Machine, block_on, free_port, get, part, post, until};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

const MODEL: &str = "tiny";

/// One discovery folder and loopback for every process.
fn started(machine: &mut Machine, mut command: Command, name: &str) {
    command.env("DYN_FILE_KV", machine.home().join("discovery")).env("DYN_DISCOVERY_BACKEND", "file");
    for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
        command.env(host, "127.0.0.1");
    }
    let log = std::fs::File::create(machine.home().join(format!("{name}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
    machine.spawn(command);
}

fn stock_mockers(machine: &mut Machine, python: &str, model: &str) {
    let mut command = machine.command(python);
    command.args(["-m", "dynamo.mocker", "--model-path", model, "--model-name", MODEL, "--num-workers", "2"]);
    command.args(["--block-size", "16", "--speedup-ratio", "1", "--discovery-backend", "file"]);
    started(machine, command, "mockers");
}

fn stock_frontend(machine: &mut Machine, python: &str) -> String {
    let port = free_port();
    let mut command = machine.command(python);
    command.args(["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
    command.args(["--router-mode", "kv", "--discovery-backend", "file", "--router-replica-sync"]);
    started(machine, command, "stock-frontend");
    format!("http://127.0.0.1:{port}")
}

fn our_frontend(machine: &mut Machine, name: &str) -> String {
    let port = free_port();
    let mut command = machine.busbar();
    command.args(["frontend", "--router-mode", "kv", "--http-port", &port.to_string()]);
    started(machine, command, name);
    format!("http://127.0.0.1:{port}")
}

fn chat(text: &str, max_tokens: u32) -> Value {
    json!({
        "model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": true, "nvext": {"extra_fields": ["worker_id"]},
    })
}

fn serves(url: &str) {
    until(&format!("{MODEL} behind {url}"), || {
        let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).ok()?;
        let instances = health["instances"].as_array()?.iter().filter(|i| i["endpoint"] == "generate").count();
        let answers = || post(&format!("{url}/v1/chat/completions"), &chat("hi", 1)).0 == 200;
        (instances >= 2 && answers()).then_some(())
    });
}

/// Where a short request for a prompt that nobody has seen goes.
fn worker_of_a_new_prompt(url: &str, number: usize) -> u64 {
    let words = format!("{number} and something that was never asked before, word after word. ").repeat(3);
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat(&words, 1));
    assert_eq!(status, 200, "{answer}");
    answer["nvext"]["worker_id"]["decode_worker_id"].as_u64().unwrap_or_else(|| panic!("no worker in {answer}"))
}

/// A stream that runs until it is dropped, with the worker that it runs on.
struct LongStream {
    worker: u64,
    _stop: tokio::sync::oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl LongStream {
    /// A prompt long enough that its blocks outweigh everything else that runs.
    fn start(url: &str, number: usize) -> Self {
        let mut body = chat(&format!("{number} is the number of a long story. ").repeat(60), 4_000);
        body["stream"] = json!(true);
        let (url, (stop, mut stopped)) = (format!("{url}/v1/chat/completions"), tokio::sync::oneshot::channel());
        let (found, worker) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || block_on(stream_until_stopped(&url, &body, &mut stopped, &found)));
        let worker = worker.recv_timeout(machine::CAP).expect("the stream tells its worker");
        Self { worker, _stop: stop, _thread: thread }
    }
}

async fn stream_until_stopped(
    url: &str,
    body: &Value,
    stopped: &mut tokio::sync::oneshot::Receiver<()>,
    found: &mpsc::SyncSender<u64>,
) {
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body.to_string());
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    loop {
        let chunk = tokio::select! {
            chunk = response.chunk() => chunk.unwrap(),
            _ = &mut *stopped => return,
        };
        let Some(chunk) = chunk else { return };
        text += &String::from_utf8_lossy(&chunk);
        for event in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(event).unwrap_or_default();
            if let Some(worker) = event["nvext"]["worker_id"]["decode_worker_id"].as_u64() {
                // Told once is enough.
                let _ = found.try_send(worker);
            }
        }
        text = text.rsplit_once('\n').map_or(text.clone(), |(_, rest)| rest.to_owned());
    }
}

fn bookings_of_others(url: &str) -> Option<u64> {
    let series = format!("busbar_router_remote_bookings{{model=\"{MODEL}\"}} ");
    get(&format!("{url}/metrics")).1.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

/// While a long stream of `from` runs, every new prompt at `to` goes to the other worker.
fn is_seen(from: &str, to: &str, number: usize) {
    let long = LongStream::start(from, number);
    let mut asked = number * 1_000;
    let mut goes_elsewhere = || {
        asked += 1;
        worker_of_a_new_prompt(to, asked) != long.worker
    };
    // Three in a row: by chance alone, one in eight.
    until("new prompts avoid the busy worker", || (0..3).all(|_| goes_elsewhere()).then_some(()));
    for _ in 0..8 {
        assert!(goes_elsewhere(), "a new prompt went to the worker that the other frontend keeps busy");
    }
}

#[test]
fn our_frontend_and_a_stock_one_count_each_others_requests() {
    let (Some(python), Some(model)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_MODEL_DIR")) else {
        return;
    };
    let mut machine = Machine::new();
    stock_mockers(&mut machine, &python, &model);
    let (ours, stock) = (our_frontend(&mut machine, "our-frontend"), stock_frontend(&mut machine, &python));
    serves(&ours);
    serves(&stock);

    let long = LongStream::start(&stock, 1);
    until("the stock frontend's request to count here", || (bookings_of_others(&ours)? == 1).then_some(()));
    drop(long);
    until("its end to count here", || (bookings_of_others(&ours)? == 0).then_some(()));

    is_seen(&stock, &ours, 2);
    is_seen(&ours, &stock, 3);
}

#[test]
fn two_of_our_frontends_count_each_others_requests_without_a_flag() {
    let (Some(python), Some(model)) = (part("BUSBAR_TEST_DYNAMO_PYTHON"), part("BUSBAR_TEST_MODEL_DIR")) else {
        return;
    };
    let mut machine = Machine::new();
    stock_mockers(&mut machine, &python, &model);
    let (one, other) = (our_frontend(&mut machine, "one"), our_frontend(&mut machine, "other"));
    serves(&one);
    serves(&other);
    is_seen(&one, &other, 1);
    is_seen(&other, &one, 2);
    until("everything to have ended", || (bookings_of_others(&one)? + bookings_of_others(&other)? == 0).then_some(()));
}
