//! Both ways with stock `ai-dynamo` over one etcd: its mocker behind our frontend, our mock workers behind its frontend.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

#[path = "../../runtime/tests/etcd_server/mod.rs"]
mod etcd_server;
mod machine;

use etcd_server::EtcdServer;
use machine::{Machine, free_port, get, kill, part, post, stream, until};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// A machine with one etcd, and where the stock processes and the model are. `None` when a part is not there.
struct Stage {
    machine: Machine,
    etcd: EtcdServer,
    python: String,
    model: String,
}

impl Stage {
    fn new() -> Option<Self> {
        let (program, python, model) =
            (etcd_server::program()?, part("BUSBAR_TEST_DYNAMO_PYTHON")?, part("BUSBAR_TEST_MODEL_DIR")?);
        Some(Self { machine: Machine::new(), etcd: EtcdServer::one(&program), python, model })
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> u32 {
        command.args(["--discovery-backend", "etcd", "--event-plane", "zmq"]);
        command.env("ETCD_ENDPOINTS", self.etcd.endpoints()).env("ETCD_LEASE_TTL", "10").env("DYN_LOG", "info");
        for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
            command.env(host, "127.0.0.1");
        }
        let log = std::fs::File::create(self.machine.home().join(format!("{name}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.machine.spawn(command)
    }

    fn stock_mocker(&mut self, name: &str) -> u32 {
        let mut command = self.machine.command(&self.python);
        command.args(["-m", "dynamo.mocker", "--model-path", &self.model, "--model-name", "tiny"]);
        command.args(["--num-workers", "1", "--block-size", "16", "--speedup-ratio", "1"]);
        self.spawn(command, name)
    }

    fn our_worker(&mut self, name: &str) -> u32 {
        let mut command = self.machine.busbar();
        command.args(["worker", "--engine", "mock", "--model", &self.model, "--served-model-name", "tiny"]);
        command.args(["--block-size", "16"]);
        self.spawn(command, name)
    }

    fn our_frontend(&mut self) -> String {
        let port = free_port();
        let mut command = self.machine.busbar();
        command.args(["frontend", "--router-mode", "kv", "--http-port", &port.to_string()]);
        self.spawn(command, "frontend");
        format!("http://127.0.0.1:{port}")
    }

    fn stock_frontend(&mut self) -> String {
        let port = free_port();
        let mut command = self.machine.command(&self.python);
        command.args(["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
        command.args(["--router-mode", "kv", "--migration-limit", "3"]);
        self.spawn(command, "frontend");
        format!("http://127.0.0.1:{port}")
    }

    fn logs(&self) -> String {
        let tail = |entry: std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            format!("--- {}\n{tail}\n", entry.file_name().display())
        };
        let entries = std::fs::read_dir(self.machine.home()).unwrap().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "log")).map(tail).collect()
    }

    /// Instance ids in etcd, in hex, of workers of the model.
    fn workers(&self) -> Vec<String> {
        let records = self.etcd.records();
        let of_models = records.iter().filter_map(|(key, _)| key.strip_prefix("v1/mdc/dynamo/backend/generate/"));
        of_models.map(str::to_owned).collect()
    }

    fn serves(&self, url: &str, workers: usize) {
        until(&format!("{workers} workers behind {url}\n{}", self.logs()), || {
            let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).ok()?;
            let known = health["instances"].as_array()?.iter().filter(|i| i["endpoint"] == "generate").count();
            let listed = get(&format!("{url}/v1/models")).1.contains("\"tiny\"");
            (known == workers && listed).then_some(())
        });
    }
}

fn chat(text: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0})
}

/// What must hold in both directions.
fn conversation(stage: &Stage, url: &str) {
    let unary = post(&format!("{url}/v1/chat/completions"), &chat("Tell me of rivers."));
    assert_eq!(unary.0, 200, "{}\n{}", unary.1, stage.logs());
    assert_eq!(unary.1["usage"]["completion_tokens"], 24, "{}", unary.1);
    let mut body = chat("Tell me of rivers.");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = stream(url, &body, |_| {});
    assert!(streamed.done && streamed.errors.is_empty(), "{:?}\n{}", streamed.errors, stage.logs());
    assert_eq!(streamed.usage.unwrap()["completion_tokens"], 24);
    // Events are found through etcd too: a repeated prompt is known to be cached.
    let long = "A long beginning that several questions share, word after word. ".repeat(16);
    until(&format!("cached tokens on a repeated prompt\n{}", stage.logs()), || {
        let answer = post(&format!("{url}/v1/chat/completions"), &chat(&long)).1;
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        (cached > 100).then_some(())
    });
}

/// A worker that is told to stop is gone from etcd and the frontend; its records are those that are left.
fn one_leaves(stage: &Stage, url: &str, pid: u32) {
    let before = stage.workers();
    assert_eq!(before.len(), 2, "{before:?}");
    kill(pid, "-TERM");
    until("one worker in etcd", || (stage.workers().len() == 1).then_some(()));
    stage.serves(url, 1);
    let after = post(&format!("{url}/v1/chat/completions"), &chat("still there?"));
    assert_eq!(after.0, 200, "{}\n{}", after.1, stage.logs());
}

#[test]
fn stock_mockers_serve_behind_our_frontend_over_etcd() {
    let Some(mut stage) = Stage::new() else { return };
    let pid = stage.stock_mocker("mocker-a");
    stage.stock_mocker("mocker-b");
    let url = stage.our_frontend();
    stage.serves(&url, 2);
    conversation(&stage, &url);
    one_leaves(&stage, &url, pid);
}

#[test]
fn our_mock_workers_serve_behind_the_stock_frontend_over_etcd() {
    let Some(mut stage) = Stage::new() else { return };
    let pid = stage.our_worker("worker-a");
    stage.our_worker("worker-b");
    let url = stage.stock_frontend();
    stage.serves(&url, 2);
    conversation(&stage, &url);
    let leases = stage.etcd.ctl(&["lease", "list"]).unwrap();
    assert!(stage.workers().iter().all(|id| leases.contains(id.as_str())), "an instance is a lease: {leases}");
    one_leaves(&stage, &url, pid);
}
