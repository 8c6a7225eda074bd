//! The binary over a real etcd: requests while etcd is killed, started again and wiped; start and end of processes;
//! settings that etcd refuses.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

#[path = "../../runtime/tests/etcd_server/mod.rs"]
mod etcd_server;
mod machine;

use etcd_server::{EtcdServer, program};
use machine::{Machine, free_port, get, kill, post, stream, until};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Seconds of a lease: short, so that outages longer than it fit into a test.
const LEASE_TTL: &str = "5";

fn over_etcd(machine: &Machine, endpoints: &str, args: &[&str], name: &str) -> Command {
    let mut command = machine.busbar();
    command.args(args).env("DYN_DISCOVERY_BACKEND", "etcd").env("ETCD_ENDPOINTS", endpoints);
    command.env("ETCD_LEASE_TTL", LEASE_TTL).env("DYN_LOG", "info");
    for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
        command.env(host, "127.0.0.1");
    }
    let log = std::fs::File::create(machine.home().join(format!("{name}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
    command
}

fn log_of(machine: &Machine, name: &str) -> String {
    std::fs::read_to_string(machine.home().join(format!("{name}.log"))).unwrap_or_default()
}

fn worker(machine: &mut Machine, endpoints: &str, name: &str) -> u32 {
    let command = over_etcd(machine, endpoints, &["worker", "--engine", "mock"], name);
    machine.spawn(command)
}

fn frontend(machine: &mut Machine, endpoints: &str) -> String {
    let port = free_port().to_string();
    let command = over_etcd(machine, endpoints, &["frontend", "--http-port", &port], "frontend");
    machine.spawn(command);
    format!("http://127.0.0.1:{port}")
}

fn chat(text: &str) -> Value {
    json!({"model": "mock", "messages": [{"role": "user", "content": text}], "max_tokens": 16,
           "stream": true, "stream_options": {"include_usage": true}})
}

/// Workers that the frontend knows, by its own word.
fn instances(url: &str) -> usize {
    let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).unwrap_or_default();
    health["instances"].as_array().map_or(0, |all| all.iter().filter(|i| i["endpoint"] == "generate").count())
}

fn serves(machine: &Machine, url: &str, workers: usize) {
    until(&format!("{workers} workers behind {url}: {}", log_of(machine, "frontend")), || {
        let listed = get(&format!("{url}/v1/models")).1.contains("\"mock\"");
        (listed && instances(url) == workers).then_some(())
    });
}

/// Clients that ask one request after another until they are told to stop.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(url: &str, count: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (url, stop, answered) = (url.to_owned(), stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let got = stream(&url, &chat(&format!("client {number}, round {round}")), |_| {});
                    let whole = got.done && got.usage.is_some_and(|usage| usage["completion_tokens"] == 16);
                    if !whole || !got.errors.is_empty() {
                        failures.push(format!("{:?}", got.errors));
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                failures
            })
        };
        let threads = (0..count).map(client).collect();
        Self { stop, answered, threads }
    }

    /// Waits until this many more are answered.
    fn answer(&self, more: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        until(&format!("{more} more answers"), || (self.answered.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    /// How many were answered; fails when one was not whole. A client that could not even ask has panicked.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let failures: Vec<_> = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
        assert_eq!(failures, [] as [String; 0]);
        self.answered.load(Ordering::SeqCst)
    }
}

#[test]
fn no_request_fails_while_etcd_is_killed_started_again_and_wiped() {
    let Some(program) = program() else { return };
    let mut etcd = EtcdServer::one(&program);
    let mut machine = Machine::new();
    worker(&mut machine, &etcd.endpoints(), "worker-a");
    worker(&mut machine, &etcd.endpoints(), "worker-b");
    let url = frontend(&mut machine, &etcd.endpoints());
    serves(&machine, &url, 2);
    let names = |etcd: &EtcdServer| etcd.records().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let before = names(&etcd);
    assert_eq!(before.len(), 14, "seven records a worker: {before:?}");
    let clients = Clients::start(&url, 3);
    clients.answer(20);

    // Away, for longer than every lease.
    etcd.kill(0);
    let away = std::time::Instant::now();
    let ttl = std::time::Duration::from_secs(LEASE_TTL.parse().unwrap());
    while away.elapsed() < 3 * ttl {
        clients.answer(10);
        assert_eq!(instances(&url), 2, "{}", log_of(&machine, "frontend"));
    }
    // A worker that comes now waits, and is there when etcd is.
    worker(&mut machine, &etcd.endpoints(), "worker-c");
    until("the new worker to say why it waits", || {
        let log = log_of(&machine, "worker-c");
        (log.contains("does not answer") && log.contains("ETCD_ENDPOINTS")).then_some(())
    });
    etcd.start(0);
    serves(&machine, &url, 3);
    clients.answer(20);

    // Back without its data.
    etcd.kill(0);
    etcd.wipe(0);
    etcd.start(0);
    until("all records are written again", || (names(&etcd).len() == 21).then_some(()));
    assert!(before.iter().all(|key| names(&etcd).contains(key)), "under their old keys");
    let wiped = std::time::Instant::now();
    while wiped.elapsed() < 3 * ttl {
        clients.answer(10);
        assert_eq!(instances(&url), 3, "{}", log_of(&machine, "frontend"));
    }
    let answered = clients.end();
    assert!(answered > 100, "{answered}");
    let metrics = get(&format!("{url}/metrics")).1;
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    assert_eq!(value("busbar_discovery_connected "), Some(1), "{metrics}");
    assert!(value("busbar_discovery_interruptions_total ") >= Some(2), "{metrics}");
}

#[test]
fn a_worker_that_is_told_to_stop_takes_its_records_and_its_lease_with_it() {
    let Some(program) = program() else { return };
    let etcd = EtcdServer::one(&program);
    let mut machine = Machine::new();
    let pid = worker(&mut machine, &etcd.endpoints(), "worker");
    until("the worker's records", || (etcd.records().len() == 7).then_some(()));
    let records = etcd.records();
    let (key, _) = records.iter().find(|(key, _)| key.starts_with("v1/instances/")).unwrap();
    let id = key.rsplit('/').next().unwrap().to_owned();
    assert!(etcd.ctl(&["lease", "list"]).unwrap().contains(&id), "the instance is the lease: {:?}", etcd.records());
    kill(pid, "-TERM");
    until("no records", || etcd.records().is_empty().then_some(()));
    until("no lease", || (!etcd.ctl(&["lease", "list"]).unwrap().contains(&id)).then_some(()));
}

#[test]
fn a_worker_that_waits_for_etcd_can_be_told_to_stop() {
    let mut machine = Machine::new();
    let pid = worker(&mut machine, &format!("http://127.0.0.1:{}", free_port()), "worker");
    until("the worker to wait", || log_of(&machine, "worker").contains("does not answer").then_some(()));
    kill(pid, "-TERM");
    until("its end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie until its parent, this test, asks for it.
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn settings_that_etcd_refuses_end_the_process_with_the_remedy() {
    let Some(program) = program() else { return };
    let etcd = EtcdServer::one(&program);
    for args in [&["user", "add", "root:sesame"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        etcd.ctl(args).unwrap();
    }
    let machine = Machine::new();
    let refused = |settings: &[(&str, &str)], parts: &[&str]| {
        for verb in [&["frontend", "--http-port", "0"][..], &["worker", "--engine", "mock"]] {
            let mut command = machine.busbar();
            command.args(verb).env("DYN_DISCOVERY_BACKEND", "etcd").env("ETCD_ENDPOINTS", etcd.endpoints());
            let ended = machine::ended(&command.envs(settings.iter().copied()).output().unwrap());
            assert_eq!(ended.code, Some(2), "{verb:?}: {}", ended.err);
            parts.iter().for_each(|part| assert!(ended.err.contains(part), "`{part}` is not in: {}", ended.err));
        }
    };
    let wrong = [("ETCD_AUTH_USERNAME", "root"), ("ETCD_AUTH_PASSWORD", "open-says-me")];
    refused(&wrong, &[&etcd.endpoints(), "invalid user ID or password", "remedy: correct ETCD_AUTH_USERNAME"]);
    refused(&[], &["user name is empty", "ETCD_AUTH_PASSWORD"]);
    refused(&[("ETCD_AUTH_USERNAME", "root")], &["ETCD_AUTH_PASSWORD is not"]);
    let two = [("ETCD_ENDPOINTS", "ftp://a"), ("ETCD_AUTH_CLIENT_KEY", "k.pem")];
    refused(&two, &["ftp://a", "ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY only one"]);
}

const GRAPH: &str = "
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata:
  name: over-etcd
spec:
  envs:
    - name: ETCD_ENDPOINTS
      value: ADDRESSES
  services:
    Frontend:
      componentType: frontend
      replicas: 1
      extraPodSpec: {mainContainer: {image: none, command: [python3, -m, dynamo.frontend]}}
      envs: [{name: DYN_DISCOVERY_BACKEND, value: etcd}]
    Worker:
      componentType: worker
      replicas: 2
      extraPodSpec: {mainContainer: {image: none, command: [python3, -m, dynamo.mocker]}}
      envs: [{name: DYN_DISCOVERY_BACKEND, value: WORKERS}]
";

#[test]
fn a_graph_that_asks_for_etcd_is_found_through_etcd() {
    let Some(program) = program() else { return };
    let etcd = EtcdServer::one(&program);
    let machine = Machine::new();
    let graph = |workers: &str| GRAPH.replace("ADDRESSES", &etcd.endpoints()).replace("WORKERS", workers);
    let mixed = machine.file("mixed.yaml", &graph("file"));
    let ended = machine.run(&["up", mixed.to_str().unwrap()]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("is told to use etcd and") && ended.err.contains("ETCD_ENDPOINTS"), "{}", ended.err);

    let file = machine.file("graph.yaml", &graph("etcd"));
    let url = machine.up(&[file.to_str().unwrap()]);
    let workers = etcd.records().into_iter().filter(|(key, _)| key.starts_with("v1/mdc/")).count();
    assert_eq!(workers, 2, "{:?}", etcd.records());
    let body = json!({"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8});
    assert_eq!(post(&format!("{url}/v1/chat/completions"), &body).0, 200);
    assert_eq!(machine.run(&["down"]).code, Some(0));
    assert_eq!(etcd.records(), [], "`down` leaves nothing behind");
}
