//! The stage of a scenario: frontends and mock workers as processes of their own, found through one discovery folder.

use crate::crowd::{Crowd, chats};
use crate::machine::{Machine, Streamed, free_port, get, kill, until};
use crate::proxy::{Link, Network};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Scenarios run one at a time: each has some 40 streams and several processes, and a machine that is too busy for all
/// of them at once would measure itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// 23 ms a token, so that streams last seconds and a fault finds them in their middle.
pub(crate) const PACED: &[&str] = &["--speedup-ratio", "0.25"];

/// Where links listen; the processes themselves are bound to 127.0.0.1.
const WORKERS_LINK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const FRONTENDS_LINK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Processes that end with the value.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    /// Set for every process that is started from now on.
    pub(crate) env: Vec<(String, String)>,
    started: usize,
    network: OnceLock<Network>,
    // Last, so that the next scenario begins when the processes of this one are gone.
    _alone: Option<MutexGuard<'static, ()>>,
}

/// A worker that is announced.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// As `nvext.worker_id` says it.
    pub(crate) instance: u64,
    /// Base URL of its system port.
    pub(crate) system: String,
}

/// A frontend that listens.
#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) url: String,
    pub(crate) port: u16,
}

/// The links in front of one worker.
pub(crate) struct WorkerLinks {
    /// Requests, and questions about its cache.
    pub(crate) requests: Link,
    /// Its event sockets.
    pub(crate) events: Vec<Link>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _alone: Some(alone), ..Self::aside() }
    }

    /// A stage beside that of a running scenario.
    fn aside() -> Self {
        let machine = Machine::new();
        let folder = machine.home().join("discovery").display().to_string();
        let mut env = vec![("DYN_FILE_KV".to_owned(), folder), ("DYN_DISCOVERY_BACKEND".to_owned(), "file".to_owned())];
        for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
            env.push((host.to_owned(), "127.0.0.1".to_owned()));
        }
        Self { machine, env, started: 0, network: OnceLock::new(), _alone: None }
    }

    /// Starts a process of the binary; its log is `NAME.log` in the home folder.
    pub(crate) fn process(&mut self, name: &str, args: &[&str]) -> u32 {
        let mut command = self.machine.busbar();
        command.args(args);
        self.spawn(name, command)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> u32 {
        let log = std::fs::File::create(self.log(name)).unwrap();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.machine.spawn(command)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.machine.home().join(format!("{name}.log"))
    }

    fn next_name(&mut self, kind: &str) -> String {
        self.started += 1;
        format!("{kind}-{}", self.started)
    }

    /// Starts `count` mock workers with these flags and waits until all are announced.
    pub(crate) fn workers(&mut self, count: usize, flags: &[&str]) -> Vec<Worker> {
        let begun: Vec<_> = (0..count).map(|_| self.begin_worker(flags)).collect();
        begun.into_iter().map(|(name, pid, port)| self.announced(name, pid, port)).collect()
    }

    pub(crate) fn worker(&mut self, flags: &[&str]) -> Worker {
        self.workers(1, flags).remove(0)
    }

    fn begin_worker(&mut self, flags: &[&str]) -> (String, u32, u16) {
        let (name, port) = (self.next_name("worker"), free_port());
        let engine = if flags.contains(&"--engine") { &[][..] } else { &["--engine", "mock"][..] };
        let system = port.to_string();
        let own = ["worker", "--system-host", "127.0.0.1", "--system-port", &system];
        let pid = self.process(&name, &[&own[..], engine, flags].concat());
        (name, pid, port)
    }

    fn announced(&self, name: String, pid: u32, port: u16) -> Worker {
        let log = self.log(&name);
        let instance = until(&format!("{name} to be announced"), || {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(alive(pid), "{name} ended:\n{text}");
            let line = text.lines().find(|line| line.contains("worker serves"))?;
            let id = line.split("instance=").nth(1)?.split_whitespace().next()?;
            u64::from_str_radix(id, 16).ok()
        });
        Worker { name, pid, instance, system: format!("http://127.0.0.1:{port}") }
    }

    /// Starts a frontend with KV routing and waits until it listens.
    pub(crate) fn frontend(&mut self, flags: &[&str]) -> Frontend {
        self.frontend_at(0, flags)
    }

    /// On a given port; 0 is any.
    pub(crate) fn frontend_at(&mut self, port: u16, flags: &[&str]) -> Frontend {
        let (name, asked) = (self.next_name("frontend"), port.to_string());
        let own = ["frontend", "--http-port", &asked, "--router-mode", "kv"];
        let pid = self.process(&name, &[&own[..], flags].concat());
        let log = self.log(&name);
        let port = until(&format!("{name} to listen"), || {
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(alive(pid), "{name} ended:\n{text}");
            let line = text.lines().find(|line| line.contains("serving address="))?;
            line.split("address=127.0.0.1:").nth(1)?.split_whitespace().next()?.parse().ok()
        });
        Frontend { name, pid, url: format!("http://127.0.0.1:{port}"), port }
    }

    /// Waits until `frontend` has exactly so many workers in routing.
    pub(crate) fn serves(&self, frontend: &Frontend, workers: usize) {
        let mut last = None;
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.until(&format!("{} to serve {workers} workers", frontend.name), || {
                last = states(frontend);
                let ready = last.as_ref()?.values().filter(|state| in_routing(state)).count();
                (ready == workers && get(&format!("{}/v1/models", frontend.url)).1.contains("\"id\"")).then_some(())
            });
        }));
        if let Err(panic) = waited {
            eprintln!("workers as {} shows them: {last:x?}", frontend.name);
            std::panic::resume_unwind(panic);
        }
    }

    /// Waits on a condition; what does not come true fails the test with every log.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(what, look)));
        waited.unwrap_or_else(|_| panic!("never came true: {what}\n{}", self.logs()))
    }

    /// Asks until `worker` is given requests again. One that was held up may be taken for slow, and then gets few at
    /// first.
    pub(crate) fn is_used_again(&self, frontend: &Frontend, worker: &Worker) {
        self.until(&format!("{} to be used again", worker.name), || {
            let answers = Crowd::start(&[frontend], &chats(24)).finish_whole(self);
            answers.iter().any(|answer| answer.workers.contains(&worker.instance)).then_some(())
        });
    }

    /// Starts `count` paced workers, each behind links of its own.
    pub(crate) fn linked_workers(
        &mut self,
        count: usize,
        flags: &[&str],
        dialled_by: &[u32],
    ) -> Vec<(Worker, WorkerLinks)> {
        let advertised = WORKERS_LINK.to_string();
        let flags = [flags, &["--advertise-host", &advertised][..]].concat();
        let start = |_| {
            let before = self.announced_ports();
            let worker = self.worker(&flags);
            let new = self.announced_ports();
            let ports = |bucket: &str| -> Vec<u16> {
                let old = before.get(bucket);
                new[bucket].iter().filter(|port| old.is_none_or(|old| !old.contains(port))).copied().collect()
            };
            let requests = ports("instances");
            assert_eq!(requests.len(), 1, "one request port a worker: {new:?}");
            let link = |port: u16| {
                let (from, to) = (SocketAddr::from((WORKERS_LINK, port)), SocketAddr::from(([127, 0, 0, 1], port)));
                self.network().link(from, to, dialled_by)
            };
            let events = ports("event_channels").into_iter().map(link).collect();
            (worker, WorkerLinks { requests: link(requests[0]), events })
        };
        (0..count).map(start).collect()
    }

    /// Ports that are announced at the workers' link, by bucket of the discovery folder.
    fn announced_ports(&self) -> BTreeMap<String, BTreeSet<u16>> {
        let (marker, mut found) = (format!("{WORKERS_LINK}:"), BTreeMap::<String, BTreeSet<u16>>::new());
        for bucket in ["instances", "event_channels"] {
            let folder = self.machine.home().join("discovery/v1").join(bucket);
            for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                let digits =
                    |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u16>().ok();
                found.entry(bucket.to_owned()).or_default().extend(text.split(&marker).skip(1).filter_map(digits));
            }
        }
        found
    }

    /// Starts a frontend whose workers call home through a link; `workers` are the processes to tell apart there.
    pub(crate) fn linked_frontend(&mut self, workers: &[u32], flags: &[&str]) -> (Frontend, Link) {
        let (port, advertised) = (free_port(), FRONTENDS_LINK.to_string());
        let from = SocketAddr::from((FRONTENDS_LINK, port));
        let home = self.network().link(from, SocketAddr::from(([127, 0, 0, 1], port)), workers);
        let response_port = port.to_string();
        let own = ["--response-port", &response_port, "--advertise-host", &advertised];
        (self.frontend(&[&own[..], flags].concat()), home)
    }

    fn network(&self) -> &Network {
        self.network.get_or_init(Network::new)
    }

    /// The end of every log, for the message of a failure.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.machine.home()).unwrap().flatten().map(|file| file.path());
        let mut logs: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        logs.sort();
        logs.iter().map(|path| format!("--- {}\n{}", path.display(), tail(path))).collect()
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].iter().map(|line| format!("{line}\n")).collect()
}

/// Whether a process of ours still runs; a killed one is a zombie until the stage ends.
pub(crate) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

/// SIGKILL, and the process is gone when this returns.
pub(crate) fn kill_9(pid: u32) {
    kill(pid, "-9");
    until("a killed process to be gone", || (!alive(pid)).then_some(()));
}

impl Worker {
    /// Sum of the series of `/metrics` that begin so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        sum(&get(&format!("{}/metrics", self.system)).1, series)
    }

    /// Sequences that its engine works on.
    pub(crate) fn running(&self) -> f64 {
        self.metric("busbar_engine_running_sequences")
    }
}

impl Frontend {
    /// Sum of the series of `/metrics` that begin so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        sum(&get(&format!("{}/metrics", self.url)).1, series)
    }

    /// Streams that went on elsewhere: before their first token (`new_request`) or after it (`ongoing_request`).
    pub(crate) fn migrations(&self, kind: &str) -> f64 {
        let text = get(&format!("{}/metrics", self.url)).1;
        let of_kind = text.lines().filter(|line| line.contains(&format!("migration_type=\"{kind}\"")));
        sum(&of_kind.collect::<Vec<_>>().join("\n"), "dynamo_frontend_model_migration_total")
    }

    /// Cached blocks that the router knows, by worker.
    pub(crate) fn index_blocks(&self) -> BTreeMap<String, f64> {
        let text = get(&format!("{}/metrics", self.url)).1;
        let of = |line: &str| {
            let rest = line.strip_prefix("busbar_router_index_blocks{")?;
            let worker = rest.split("worker_id=\"").nth(1)?.split('"').next()?;
            Some((worker.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?))
        };
        text.lines().filter_map(of).collect()
    }
}

fn sum(metrics: &str, series: &str) -> f64 {
    let of = |line: &&str| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ' ']));
    metrics.lines().filter(of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Whether a worker in this state is given requests. A busy machine can make any worker slow for a moment, which is no
/// fault: it is given fewer.
pub(crate) fn in_routing(state: &str) -> bool {
    matches!(state, "ready" | "slow")
}

/// The state of each worker as the status page shows it, by instance.
pub(crate) fn states(frontend: &Frontend) -> Option<BTreeMap<u64, String>> {
    let snapshot: Value = serde_json::from_str(&get(&format!("{}/status/snapshot", frontend.url)).1).ok()?;
    let state = |worker: &Value| {
        let id = u64::from_str_radix(worker["worker_id"].as_str()?, 16).ok()?;
        Some((id, worker["state"].as_str()?.to_owned()))
    };
    snapshot["workers"].as_array()?.iter().map(state).collect()
}

/// What each of `bodies` is answered when nothing fails: by a worker that takes no time. The mock engine's tokens are a
/// function of the tokens before them, so this is what every disturbed answer must be.
pub(crate) fn undisturbed(bodies: &[Value]) -> Vec<Streamed> {
    static KNOWN: OnceLock<Mutex<HashMap<String, Streamed>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let new: Vec<Value> = bodies.iter().filter(|body| !known.contains_key(&body.to_string())).cloned().collect();
    if !new.is_empty() {
        let mut stage = Stage::aside();
        stage.worker(&["--speedup-ratio", "0"]);
        let frontend = stage.frontend(&[]);
        stage.serves(&frontend, 1);
        for (at, answer) in Crowd::unchecked(&[&frontend], &new).finish() {
            assert!(
                answer.done && answer.errors.is_empty(),
                "the undisturbed run failed: {answer:?}\n{}",
                stage.logs()
            );
            known.insert(new[at].to_string(), answer);
        }
    }
    bodies.iter().map(|body| known[&body.to_string()].clone()).collect()
}
