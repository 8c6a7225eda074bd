//! Stock `ai-dynamo` beside our own processes on one machine, and what must hold between them whichever way their
//! requests and events go.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use crate::machine::{self, Machine, free_port, get, kill, post, stream, until};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Which way requests and events go, for both sides alike.
#[derive(Clone, Debug, Default)]
pub struct Planes {
    /// Arguments that every process understands, ours and stock ones.
    pub arguments: Vec<String>,
    /// The server that they need.
    pub nats: Option<String>,
}

impl Planes {
    /// Events, or events and requests, through this server.
    pub fn over_nats(url: String, requests: bool) -> Self {
        let requests = if requests { "nats" } else { "tcp" };
        let arguments = ["--event-plane", "nats", "--request-plane", requests].map(str::to_owned).to_vec();
        Self { arguments, nats: Some(url) }
    }
}

/// Environment of both sides: one discovery folder, loopback.
pub fn shared(machine: &Machine, planes: &Planes, command: &mut Command) {
    let folder = machine.home().join("discovery");
    command.args(&planes.arguments);
    if let Some(url) = &planes.nats {
        command.env("NATS_SERVER", url);
    }
    command.env("DYN_FILE_KV", folder).env("DYN_DISCOVERY_BACKEND", "file").env("DYN_LOG", "info");
    for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
        command.env(host, "127.0.0.1");
    }
}

pub fn logged(machine: &Machine, command: &mut Command, name: &str) {
    let log = std::fs::File::create(machine.home().join(format!("{name}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
}

pub fn stock_mocker(machine: &mut Machine, planes: &Planes, python: &str, model: &str, name: &str) -> u32 {
    let mut command = machine.command(python);
    command.args(["-m", "dynamo.mocker", "--model-path", model, "--model-name", "tiny", "--num-workers", "1"]);
    command.args(["--block-size", "16", "--speedup-ratio", "1", "--discovery-backend", "file"]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, name);
    machine.spawn(command)
}

pub fn our_frontend(machine: &mut Machine, planes: &Planes) -> String {
    let port = free_port();
    let mut command = machine.busbar();
    command.args(["frontend", "--router-mode", "kv", "--http-port", &port.to_string()]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, "our-frontend");
    machine.spawn(command);
    format!("http://127.0.0.1:{port}")
}

pub fn our_worker(machine: &mut Machine, planes: &Planes, gguf: &str, name: &str) -> u32 {
    let mut command = machine.busbar();
    command.args(["worker", "--engine", "embedded", "--model", gguf, "--served-model-name", "smol", "--threads", "1"]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, name);
    machine.spawn(command)
}

pub fn stock_frontend(machine: &mut Machine, planes: &Planes, python: &str) -> String {
    let port = free_port();
    let mut command = machine.command(python);
    command.args(["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
    command.args(["--router-mode", "kv", "--discovery-backend", "file", "--migration-limit", "3"]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, "stock-frontend");
    machine.spawn(command);
    format!("http://127.0.0.1:{port}")
}

pub fn logs(machine: &Machine) -> String {
    let read = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let tail: Vec<_> = text.lines().rev().take(25).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        format!("--- {}\n{}\n", entry.file_name().display(), tail.join("\n"))
    };
    let entries = std::fs::read_dir(machine.home()).unwrap().flatten();
    entries.filter(|e| e.path().extension().is_some_and(|e| e == "log")).map(read).collect()
}

pub fn chat(model: &str, text: &str, max_tokens: u32) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 0})
}

pub fn serves(machine: &Machine, url: &str, model: &str, workers: usize) {
    until(&format!("{model} behind {url} with {workers} workers"), || {
        let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).ok()?;
        let instances = health["instances"].as_array()?.iter().filter(|i| i["endpoint"] == "generate").count();
        let listed = get(&format!("{url}/v1/models")).1.contains(&format!("\"{model}\""));
        let answers = || post(&format!("{url}/v1/chat/completions"), &chat(model, "hi", 1)).0 == 200;
        (instances >= workers && listed && answers()).then_some(())
    });
    let _ = machine;
}

/// What must hold in both directions, in the words of HTTP alone.
pub fn conversation(machine: &Machine, url: &str, model: &str) {
    let unary = post(&format!("{url}/v1/chat/completions"), &chat(model, "Tell me of rivers.", 12));
    assert_eq!(unary.0, 200, "{}\n{}", unary.1, logs(machine));
    assert_eq!(unary.1["usage"]["completion_tokens"], 12, "{}", unary.1);

    let mut body = chat(model, "Tell me of rivers.", 12);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = stream(url, &body, |_| {});
    assert!(streamed.done && streamed.errors.is_empty() && !streamed.text.is_empty(), "{}", logs(machine));
    assert_eq!(streamed.usage.unwrap()["completion_tokens"], 12);

    // The router learns of the cached blocks by events, a moment after the answer.
    let long = "A long beginning that several questions share, word after word. ".repeat(16);
    let cached = || {
        let answer = post(&format!("{url}/v1/chat/completions"), &chat(model, &long, 2)).1;
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
    };
    cached();
    until("cached tokens on a repeated prompt", || (cached() > 100).then_some(()));
    for _ in 0..4 {
        assert!(cached() > 100, "KV routing sent a cached prompt to the other worker\n{}", logs(machine));
    }
}

/// Kills the worker of a running stream, and the answer goes on at the other one.
pub fn loss_of_a_worker(machine: &Machine, url: &str, model: &str, pids: &[u32], tokens: u32) {
    let mut body = chat(model, "Count from one to a hundred.", tokens);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body["nvext"] = json!({"extra_fields": ["worker_id"]});
    let busiest = || {
        let ticks = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .map_or(0, |(_, rest)| rest.split_whitespace().nth(11).unwrap_or("0").parse::<u64>().unwrap())
        };
        pids.iter().map(|pid| (ticks(pid), *pid)).collect::<Vec<_>>()
    };
    let (mut at_start, mut killed) = (Vec::new(), None);
    let got = stream(url, &body, |so_far| {
        if so_far.deltas == 1 && at_start.is_empty() {
            at_start = busiest();
        }
        if so_far.deltas >= 40 && killed.is_none() {
            // The worker that has used the most CPU since the first token is the one that answers.
            let now = busiest();
            let used = now.iter().zip(&at_start).map(|((now, pid), (then, _))| (now - then, *pid)).max().unwrap();
            kill(used.1, "-9");
            killed = Some(used.1);
        }
    });
    assert!(killed.is_some(), "no worker was killed");
    assert!(got.done && got.errors.is_empty(), "{:?}\n{}", got.errors, logs(machine));
    assert_eq!(got.usage.unwrap()["completion_tokens"], tokens, "a token was lost or doubled");
    let after = post(&format!("{url}/v1/chat/completions"), &chat(model, "still there?", 4));
    assert_eq!(after.0, 200, "{}\n{}", after.1, logs(machine));
}

/// A client that leaves in mid-stream stops the worker: nothing is in flight at the frontend soon after.
pub fn cancel(machine: &Machine, url: &str, model: &str) {
    machine::block_on(async {
        let mut body = chat(model, "Go on and on.", 900);
        body["stream"] = json!(true);
        body["ignore_eos"] = json!(true);
        let request = reqwest::Client::new()
            .post(format!("{url}/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(body.to_string());
        let mut response = request.send().await.unwrap();
        response.chunk().await.unwrap().expect("the stream began");
    });
    until("the cancelled request to be gone", || {
        let metrics = get(&format!("{url}/metrics")).1;
        let line = metrics.lines().find(|l| l.starts_with("dynamo_frontend_inflight_requests{"))?.to_owned();
        line.ends_with(" 0").then_some(())
    });
    let _ = machine;
}
