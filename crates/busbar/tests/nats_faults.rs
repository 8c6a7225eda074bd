//! The whole system with its events over a real NATS server, while that server is killed, wiped, restarted and stopped:
//! no request notices, and when it is quiet the router's index is the truth again.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;
#[path = "../../runtime/tests/nats_server/mod.rs"]
mod nats_server;
mod stock;

use machine::{CAP, Machine, free_port, get, until};
use nats_server::NatsServer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use stock::{Planes, logged, logs, our_frontend, serves, shared};

/// Clients that ask all the time.
const CLIENTS: usize = 4;

fn mock_worker(machine: &mut Machine, planes: &Planes, name: &str) -> u32 {
    let mut command: Command = machine.busbar();
    command.args(["worker", "--engine", "mock", "--served-model-name", "tiny", "--speedup-ratio", "20"]);
    shared(machine, planes, &mut command);
    logged(machine, &mut command, name);
    machine.spawn(command)
}

/// Clients with prompts that share beginnings, so that blocks come, are found again, and go.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS).map(|client| {
            let (url, stop, answered) = (url.to_owned(), stop.clone(), answered.clone());
            std::thread::spawn(move || ask_on(&url, client, &stop, &answered))
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// Waits until more requests were answered from now on.
    fn goes_on(&self, what: &str, more: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        until(what, || (self.answered.load(Ordering::Relaxed) >= before + more).then_some(()));
    }

    /// What failed, and how many requests were answered.
    fn end(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (failed, self.answered.load(Ordering::Relaxed))
    }
}

fn ask_on(url: &str, client: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let mut failed = Vec::new();
    machine::block_on(async {
        let http = reqwest::Client::builder().timeout(CAP).build().unwrap();
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let shared = format!("Conversation {} of client {client}. ", turn / 4).repeat(12);
            let text = format!("{shared}Turn {turn}.");
            let body = json!({"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 8});
            let request = http.post(format!("{url}/v1/chat/completions")).header("content-type", "application/json");
            let outcome = match request.body(body.to_string()).send().await {
                Ok(response) => {
                    let status = response.status();
                    let text = response.text().await.unwrap_or_default();
                    let whole = serde_json::from_str::<Value>(&text)
                        .is_ok_and(|answer| answer["usage"]["completion_tokens"] == 8);
                    if status.is_success() && whole { Ok(()) } else { Err(format!("{status} {text}")) }
                }
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Ok(()) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => failed.push(error),
            }
        }
    });
    failed
}

/// Blocks in a frontend's index, by worker.
fn index(url: &str) -> BTreeMap<String, u64> {
    let metrics = get(&format!("{url}/metrics")).1;
    let series = metrics.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix("busbar_router_index_blocks{")?.rsplit_once("} ")?;
        let worker = labels.split("worker_id=\"").nth(1)?.split('"').next()?;
        Some((worker.to_owned(), value.parse::<f64>().ok()? as u64))
    });
    series.collect()
}

fn metric(url: &str, name: &str) -> f64 {
    let metrics = get(&format!("{url}/metrics")).1;
    let line = metrics.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
}

/// What the server goes through while requests run; each step waits until the frontend has felt it and requests were
/// answered in it.
fn faults(server: &mut NatsServer, load: &Load, url: &str) {
    let connections = |least: f64| {
        until("the frontend connects again", || {
            let there = metric(url, "busbar_nats_connected") == 1.0;
            (there && metric(url, "busbar_nats_connections_total") >= least).then_some(())
        });
    };
    let away = || until("the frontend has lost it", || (metric(url, "busbar_nats_connected") == 0.0).then_some(()));
    load.goes_on("requests before any fault", 20);
    server.kill();
    away();
    load.goes_on("requests while it is away", 40);
    server.run();
    connections(2.0);
    load.goes_on("requests once it is back", 40);
    server.kill();
    away();
    server.wipe();
    server.run();
    connections(3.0);
    load.goes_on("requests once it is back with nothing", 40);
    server.stop();
    away();
    load.goes_on("requests while it stands still", 200);
    server.go_on();
    connections(4.0);
    load.goes_on("requests once it goes on", 40);
}

#[test]
fn no_request_notices_what_happens_to_nats_and_after_quiet_the_index_is_the_truth() {
    let Some(mut server) = NatsServer::start("") else { return };
    let (mut machine, planes) = (Machine::new(), Planes::over_nats(server.url(), false));
    for name in ["worker-a", "worker-b"] {
        mock_worker(&mut machine, &planes, name);
    }
    let url = our_frontend(&mut machine, &planes);
    serves(&machine, &url, "tiny", 2);
    let load = Load::start(&url);
    faults(&mut server, &load, &url);
    let (failed, answered) = load.end();
    assert!(failed.is_empty(), "{} of {answered}: {failed:?}\n{}", failed.len(), logs(&machine));

    // A frontend that comes now asks the workers for all they have: that is the truth.
    let fresh = our_frontend(&mut machine, &planes);
    serves(&machine, &fresh, "tiny", 2);
    let shown = || format!("old {:?}\nnew {:?}\n{}", index(&url), index(&fresh), logs(&machine));
    let agree = until("both indexes agree", || {
        let (old, new) = (index(&url), index(&fresh));
        (old == new && new.len() == 2 && new.values().all(|&blocks| blocks > 0)).then_some(new)
    });
    // And it stays so: what the last requests stored is in both.
    assert_eq!(index(&url), agree, "{}", shown());
}

#[test]
fn requests_over_nats_wait_for_a_server_that_restarts_and_none_fails() {
    let Some(mut server) = NatsServer::start("") else { return };
    let (mut machine, planes) = (Machine::new(), Planes::over_nats(server.url(), true));
    for name in ["worker-a", "worker-b"] {
        mock_worker(&mut machine, &planes, name);
    }
    let url = our_frontend(&mut machine, &planes);
    serves(&machine, &url, "tiny", 2);
    let load = Load::start(&url);
    for _ in 0..3 {
        load.goes_on("requests", 20);
        server.kill();
        until("the loss is noticed", || (metric(&url, "busbar_nats_connected") == 0.0).then_some(()));
        server.run();
    }
    load.goes_on("requests at the end", 40);
    let (failed, answered) = load.end();
    assert!(failed.is_empty(), "{} of {answered}: {failed:?}\n{}", failed.len(), logs(&machine));
}

/// A frontend and a worker with these settings of NATS; the URL of the former.
fn system(machine: &mut Machine, env: &[(&str, &str)]) -> String {
    let planes = Planes::default();
    let mut worker: Command = machine.busbar();
    worker.args(["worker", "--engine", "mock", "--served-model-name", "tiny", "--speedup-ratio", "20"]);
    shared(machine, &planes, &mut worker);
    worker.env("DYN_EVENT_PLANE", "nats").envs(env.iter().copied());
    logged(machine, &mut worker, "worker");
    machine.spawn(worker);
    let port = free_port();
    let mut frontend = machine.busbar();
    frontend.args(["frontend", "--router-mode", "kv", "--http-port", &port.to_string()]);
    shared(machine, &planes, &mut frontend);
    frontend.env("DYN_EVENT_PLANE", "nats").envs(env.iter().copied());
    logged(machine, &mut frontend, "frontend");
    machine.spawn(frontend);
    format!("http://127.0.0.1:{port}")
}

/// Both processes say `what` and `remedy`, and requests are served all the same.
fn told_and_served(env: &[(&str, &str)], what: &str, remedy: &str) {
    let mut machine = Machine::new();
    let url = system(&mut machine, env);
    for log in ["worker.log", "frontend.log"] {
        until(&format!("{log} says {what:?}"), || {
            let text = std::fs::read_to_string(machine.home().join(log)).ok()?;
            text.lines().any(|line| line.contains(what) && line.contains(remedy)).then_some(())
        });
    }
    serves(&machine, &url, "tiny", 1);
    assert!(!logs(&machine).contains("sesame"), "a secret stands in a log");
}

#[test]
fn a_server_that_is_not_there_and_wrong_credentials_are_told_with_the_remedy_and_hold_nothing_up() {
    let Some(server) = NatsServer::start("authorization { user: bob, password: right }") else { return };
    let url = server.url();
    let wrong = [("NATS_SERVER", &url[..]), ("NATS_AUTH_USERNAME", "bob"), ("NATS_AUTH_PASSWORD", "sesame")];
    told_and_served(&wrong, "does not let us in", "NATS_AUTH_PASSWORD");
    let nobody = format!("nats://127.0.0.1:{}", free_port());
    told_and_served(&[("NATS_SERVER", &nobody)], "no NATS server answers", "--nats-server (NATS_SERVER)");
}

#[test]
fn settings_that_can_never_work_end_the_process_with_the_remedy() {
    let machine = Machine::new();
    for (args, cause, remedy) in [
        (&["--nats-server", "http://h:1"][..], "http", "nats://HOST:PORT"),
        (&["--nats-auth-nkey", "SUNOSEED"], "seed", "NATS_AUTH_NKEY"),
        (&["--nats-auth-credentials-file", "/no/such.creds"], "/no/such.creds", "NATS_AUTH_CREDENTIALS_FILE"),
        (&["--nats-tls-ca-cert-path", "/no/ca.pem"], "/no/ca.pem", "NATS_TLS_CA_CERT_PATH"),
    ] {
        for verb in [&["worker", "--engine", "mock"][..], &["frontend", "--http-port", "0"]] {
            let planes = ["--event-plane", "nats"];
            let ended = machine.run(&[verb, &planes, args].concat());
            assert_eq!(ended.code, Some(2), "{verb:?} {args:?}\n{}", ended.err);
            assert!(ended.err.contains(cause) && ended.err.contains(remedy), "{verb:?} {args:?}\n{}", ended.err);
        }
    }
}

#[test]
fn a_manifest_brings_its_event_plane_to_every_process() {
    let Some(server) = NatsServer::start("authorization { token: sesame }") else { return };
    let machine = Machine::new();
    let settings = [("DYN_EVENT_PLANE", "nats"), ("NATS_SERVER", &server.url()), ("NATS_AUTH_TOKEN", "sesame")];
    let settings = settings.map(|(name, value)| format!("    - name: {name}\n      value: {value}\n")).concat();
    let graph = include_str!("../../../examples/agg_router.yaml");
    let graph = graph.replace("spec:\n  services:", &format!("spec:\n  envs:\n{settings}  services:"));
    let file = machine.file("graph.yaml", &graph);
    let base = machine.up(&["--engine", "mock", file.to_str().unwrap()]);
    until("the frontend is connected", || (metric(&base, "busbar_nats_connected") == 1.0).then_some(()));
    let sessions = until("three clients of the server", || {
        let clients = get(&format!("http://127.0.0.1:{}/connz", server.monitor_port)).1;
        let clients: Value = serde_json::from_str(&clients).ok()?;
        let names: Vec<String> =
            clients["connections"].as_array()?.iter().map(|c| c["name"].as_str().unwrap_or("").to_owned()).collect();
        (names.len() >= 3).then_some(names)
    });
    assert!(
        sessions.iter().any(|name| name == "busbar frontend") && sessions.iter().any(|name| name == "busbar worker")
    );
}
