//! `vllm serve` as a child of this process: its command line, its start, its end.

use super::child_log::{self, LastLines};
use super::client::{Client, EventSource, event_source};
use super::{AttachConfig, VllmError, keeper};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

/// Time to load: a large model from a network disk, and the compilation of its graphs.
pub const DEFAULT_READY_WITHIN: Duration = Duration::from_secs(1800);

/// Time for a child to end by itself before it is killed. It has no streams any more when it is asked to.
pub(super) const END_WITHIN: Duration = Duration::from_secs(5);

/// Time for the pipes to bring a dead child's last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(500);

/// A server to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnConfig {
    /// `vllm`, or the path of it.
    pub program: PathBuf,
    /// Folder or repository.
    pub model: String,
    /// The name that requests carry; the model itself when absent.
    pub served_name: Option<String>,
    /// vLLM's own flags, passed through as they are.
    pub arguments: Vec<String>,
    /// How long it may load.
    pub ready_within: Duration,
    /// This very program, which runs [`keeper::keep`] when its first argument is [`keeper::KEEP_VERB`]. Without it a
    /// worker that is killed with -9 leaves its vLLM behind.
    pub keeper: Option<PathBuf>,
    /// Several workers share this machine: ports that the arguments fix for the KV events are replaced by free ones.
    pub shares_machine: bool,
}

impl SpawnConfig {
    /// `vllm serve MODEL` from PATH, with the defaults of the rest.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            program: "vllm".into(),
            model: model.into(),
            served_name: None,
            arguments: Vec::new(),
            ready_within: DEFAULT_READY_WITHIN,
            keeper: None,
            shares_machine: false,
        }
    }
}

/// The value of a flag among `--flag value` and `--flag=value`; the last one, as argparse has it.
pub(super) fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().enumerate().rev().find_map(|(at, argument)| match argument.strip_prefix(name)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// Ports for a child.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    events: u16,
    replay: u16,
}

/// Flags of ours that an older vLLM does not know, and does without.
const OPTIONAL_FLAGS: [&str; 2] = ["--enable-scale-out", "--enable-prompt-tokens-details"];

/// The whole command line after the program. What the user gives wins over what we add; `without` are flags of ours
/// that this vLLM was seen to refuse.
fn command_line(config: &SpawnConfig, ports: Ports, without: &[&str]) -> Vec<String> {
    let mut line: Vec<String> = ["serve", &config.model].map(str::to_owned).to_vec();
    let given = |name: &str| flag(&config.arguments, name).is_some() || config.arguments.iter().any(|a| a == name);
    let mut add = |name: &str, value: Option<String>| {
        if !given(name) && !without.contains(&name) {
            line.push(name.to_owned());
            line.extend(value);
        }
    };
    add("--host", Some("127.0.0.1".into()));
    add("--port", Some(ports.http.to_string()));
    OPTIONAL_FLAGS.iter().for_each(|name| add(name, None));
    if let Some(name) = &config.served_name {
        add("--served-model-name", Some(name.clone()));
    }
    line.extend(without_flag(&config.arguments, "--kv-events-config"));
    line.push("--kv-events-config".into());
    line.push(events_config(config, ports).to_string());
    line
}

/// The user's events configuration with what it lacks, or our own. What is no JSON stays what it is: vLLM says so.
fn events_config(config: &SpawnConfig, ports: Ports) -> Value {
    let given = flag(&config.arguments, "--kv-events-config");
    let mut events = match given.map(serde_json::from_str::<Value>) {
        Some(Ok(events)) if events.is_object() => events,
        Some(_) => return Value::from(given.unwrap_or_default()),
        None => json!({"enable_kv_cache_events": true, "publisher": "zmq", "topic": ""}),
    };
    if events["enable_kv_cache_events"] != true {
        return events;
    }
    // `*` makes vLLM bind; with an address it would dial.
    for (key, port) in [("endpoint", ports.events), ("replay_endpoint", ports.replay)] {
        let bound = events[key].as_str().is_some_and(|endpoint| endpoint.starts_with("tcp://*:"));
        if events[key].is_null() || (config.shares_machine && bound) {
            events[key] = json!(format!("tcp://*:{port}"));
        }
    }
    events
}

fn without_flag(arguments: &[String], name: &str) -> Vec<String> {
    let mut kept = Vec::with_capacity(arguments.len());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix(name) {
            Some("") => {
                words.next();
            }
            Some(rest) if rest.starts_with('=') => {}
            _ => kept.push(word.clone()),
        }
    }
    kept
}

/// Where the child will publish its events, for a vLLM that does not say so itself.
fn events_of(line: &[String]) -> Option<EventSource> {
    event_source(&serde_json::from_str(flag(line, "--kv-events-config")?).ok()?, "127.0.0.1")
}

/// How the child is spoken to.
fn attach_config(config: &SpawnConfig, line: &[String], http_port: u16) -> AttachConfig {
    let number = |name: &str| flag(line, name).and_then(|value| value.parse().ok());
    let port = number("--port").unwrap_or(u32::from(http_port));
    let host = match flag(line, "--host") {
        None | Some("0.0.0.0" | "::") => "127.0.0.1",
        Some(host) => host,
    };
    AttachConfig {
        url: format!("http://{host}:{port}"),
        max_num_seqs: number("--max-num-seqs"),
        max_num_batched_tokens: number("--max-num-batched-tokens"),
        ready_within: config.ready_within,
        wanted: Vec::new(),
        events: events_of(line),
    }
}

/// Starts the child and waits until it is healthy.
pub(crate) async fn start(config: &SpawnConfig) -> Result<(Server, AttachConfig), VllmError> {
    let mut without = Vec::new();
    loop {
        let ports = free_ports().map_err(|source| VllmError::start(config, source))?;
        let line = command_line(config, ports, &without);
        let attach = attach_config(config, &line, ports.http);
        let mut server = Server::start(config, &line)?;
        let client = Client::new(&attach.url)?;
        let ended = tokio::select! {
            ended = server.child.wait() => ended,
            ready = client.wait_healthy(config.ready_within) => {
                return match ready {
                    Ok(()) => Ok((server, attach)),
                    Err(error) => {
                        server.kill().await;
                        Err(error)
                    }
                };
            }
        };
        let status = ended.map_err(|source| VllmError::start(config, source))?;
        let last = server.last_lines().await;
        let refused = OPTIONAL_FLAGS.iter().filter(|flag| last.refuses_flag(flag) && !without.contains(*flag));
        let refused: Vec<&str> = refused.copied().collect();
        if refused.is_empty() {
            return Err(VllmError::Ended { status, why: last.why() });
        }
        tracing::warn!(?refused, "this vLLM is too old for some of our flags; it is started again without them");
        without.extend(refused);
    }
}

/// Ports that nobody holds now. vLLM cannot be given a socket, so between here and its bind another program may take
/// one; it then ends at once and says so.
fn free_ports() -> std::io::Result<Ports> {
    let listen = || TcpListener::bind(("127.0.0.1", 0));
    let (http, events, replay) = (listen()?, listen()?, listen()?);
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok(Ports { http: port(&http)?, events: port(&events)?, replay: port(&replay)? })
}

/// A child with all that it starts. Dropping it kills them.
pub(crate) struct Server {
    child: Child,
    /// The child is our keeper, and this is what it watches.
    keeper: Option<ChildStdin>,
    /// The process group; none once it is over.
    group: Option<rustix::process::Pid>,
    last: LastLines,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    fn start(config: &SpawnConfig, line: &[String]) -> Result<Self, VllmError> {
        tracing::info!(program = %config.program.display(), arguments = ?line, "starting vLLM");
        let mut command = match &config.keeper {
            Some(keeper) => {
                // Behind the keeper a program that is not there would look like one that ended at once.
                find(&config.program).map_err(|source| VllmError::start(config, source))?;
                let mut command = Command::new(keeper);
                command.arg(keeper::KEEP_VERB).arg(&config.program).stdin(Stdio::piped());
                command
            }
            None => {
                let mut command = Command::new(&config.program);
                command.stdin(Stdio::null());
                command
            }
        };
        command.args(line).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // Its lines come when they are written, and carry no colours into a log.
        command.env("PYTHONUNBUFFERED", "1").env("NO_COLOR", "1");
        let mut child = command.spawn().map_err(|source| VllmError::start(config, source))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let last = LastLines::default();
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|stream| tokio::spawn(child_log::follow(stream, last.clone()))));
        readers.extend(child.stderr.take().map(|stream| tokio::spawn(child_log::follow(stream, last.clone()))));
        let keeper = child.stdin.take();
        Ok(Self { child, keeper, group, last, readers })
    }

    /// Waits until it ends by itself; gives how, and its last words.
    pub(crate) async fn ended(&mut self) -> (std::io::Result<ExitStatus>, String) {
        let status = self.child.wait().await;
        (status, self.last_lines().await.why())
    }

    async fn last_lines(&mut self) -> LastLines {
        for reader in &mut self.readers {
            // A grandchild may hold the pipe open.
            let _ = tokio::time::timeout(LAST_LINES_WITHIN, reader).await;
        }
        self.last.clone()
    }

    /// Asks the child to end, and ends it if it does not.
    pub(crate) async fn end(mut self) {
        match &mut self.keeper {
            Some(keeper) => {
                let _ = keeper.write_all(keeper::END).await;
            }
            None => {
                if let Some(pid) = self.group {
                    // A child that is gone already is what is wanted.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
        }
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!("vLLM did not end in time and is killed");
        }
        self.kill().await;
    }

    /// Kills the child and all that it started, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.kill_group();
        let _ = tokio::time::timeout(END_WITHIN, self.child.wait()).await;
    }

    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            // Nobody may be left in it, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Whether a program is there: a path, or a name in PATH.
fn find(program: &std::path::Path) -> std::io::Result<()> {
    let name = program.to_string_lossy();
    let there = if name.contains('/') {
        program.is_file()
    } else {
        super::in_path(&name, std::env::var_os("PATH").as_deref()).is_some()
    };
    if there { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { http: 8100, events: 8200, replay: 8300 };

    fn config(arguments: &[&str]) -> SpawnConfig {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        SpawnConfig { arguments, ..SpawnConfig::new("/models/m") }
    }

    fn line(arguments: &[&str]) -> Vec<String> {
        command_line(&config(arguments), PORTS, &[])
    }

    fn events(line: &[String]) -> Value {
        serde_json::from_str(flag(line, "--kv-events-config").unwrap()).unwrap()
    }

    #[test]
    fn the_users_flags_are_passed_through_and_win() {
        let plain = line(&[]);
        assert_eq!(plain[..2], ["serve", "/models/m"]);
        assert_eq!(flag(&plain, "--port"), Some("8100"));
        assert!(OPTIONAL_FLAGS.iter().all(|flag| plain.iter().any(|word| word == flag)));
        let own = line(&["--port=9000", "--enforce-eager", "--max-num-seqs", "4"]);
        assert_eq!(flag(&own, "--port"), Some("9000"));
        assert_eq!(flag(&own, "--max-num-seqs"), Some("4"));
        assert_eq!(own.iter().filter(|a| a.starts_with("--port")).count(), 1);
        assert!(own.iter().any(|a| a == "--enforce-eager"));
        let old = command_line(&config(&[]), PORTS, &["--enable-scale-out"]);
        assert!(!old.iter().any(|word| word == "--enable-scale-out"));
    }

    #[test]
    fn events_are_on_with_a_replay_socket_and_a_shared_machine_has_no_fixed_ports() {
        let ours = events(&line(&[]));
        assert_eq!((&ours["endpoint"], &ours["replay_endpoint"]), (&json!("tcp://*:8200"), &json!("tcp://*:8300")));
        let manifest =
            r#"{"publisher":"zmq","topic":"kv-events","endpoint":"tcp://*:20080","enable_kv_cache_events":true}"#;
        let own = line(&["--kv-events-config", manifest, "--enforce-eager"]);
        assert_eq!(own.iter().filter(|word| word.starts_with("--kv-events-config")).count(), 1);
        assert!(own.iter().any(|word| word == "--enforce-eager"));
        let given = events(&own);
        assert_eq!((&given["endpoint"], &given["topic"]), (&json!("tcp://*:20080"), &json!("kv-events")));
        assert_eq!(given["replay_endpoint"], "tcp://*:8300");
        let shared = SpawnConfig { shares_machine: true, ..config(&["--kv-events-config", manifest]) };
        let shared = command_line(&shared, PORTS, &[]);
        assert_eq!(events(&shared)["endpoint"], "tcp://*:8200");
        let source = events_of(&shared).unwrap();
        assert_eq!((source.endpoint.as_str(), source.topic.as_str()), ("tcp://127.0.0.1:8200", "kv-events"));
        let off = line(&[r#"--kv-events-config={"enable_kv_cache_events":false}"#]);
        assert_eq!(events(&off), json!({"enable_kv_cache_events": false}));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_or_ends_at_once_is_named() {
        let missing = SpawnConfig { program: "/nowhere/vllm".into(), ..SpawnConfig::new("m") };
        for keeper in [None, Some("/bin/true".into())] {
            let missing = SpawnConfig { keeper, ..missing.clone() };
            assert!(matches!(start(&missing).await, Err(VllmError::Start { .. })));
        }
        let ends = SpawnConfig { program: "/bin/false".into(), ..SpawnConfig::new("m") };
        assert!(matches!(start(&ends).await, Err(VllmError::Ended { .. })));
    }

    /// A program that stands in for `vllm` at its start.
    fn script(text: &str) -> (tempfile::TempDir, SpawnConfig) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("vllm");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        (dir, SpawnConfig { program, ..SpawnConfig::new("m") })
    }

    #[tokio::test]
    async fn a_death_at_the_start_is_told_in_vllms_own_words() {
        let (_dir, config) = script("echo '(EngineCore pid=2) ValueError: no such dtype' >&2; exit 3");
        let Err(VllmError::Ended { status, why }) = start(&config).await else { panic!("it ended") };
        assert_eq!((status.code(), why.as_str()), (Some(3), "ValueError: no such dtype"));
    }

    #[tokio::test]
    async fn an_older_vllm_is_started_again_without_the_flags_that_it_refuses_and_once_only() {
        let (dir, config) = script(
            "echo \"$*\" >> $(dirname $0)/starts\ncase \"$*\" in *--enable-scale-out*)\n\
             echo 'vllm: error: unrecognized arguments: --enable-scale-out' >&2; exit 2;; esac\n\
             echo 'OSError: enough' >&2; exit 1",
        );
        let Err(VllmError::Ended { why, .. }) = start(&config).await else { panic!("it ended") };
        assert!(why.contains("OSError: enough"), "{why}");
        let starts = std::fs::read_to_string(dir.path().join("starts")).unwrap();
        assert_eq!(starts.lines().count(), 2, "{starts}");
        assert!(starts.lines().last().unwrap().contains("--enable-prompt-tokens-details"));
    }

    #[tokio::test]
    async fn a_dropped_server_takes_its_children_with_it() {
        let (_dir, config) = script("sleep 600 & echo $! > $(dirname $0)/child; echo there; wait");
        let mut server = Server::start(&config, &["serve".to_owned()]).unwrap();
        while server.last.is_empty() {
            tokio::task::yield_now().await;
        }
        let child: u32 =
            std::fs::read_to_string(config.program.with_file_name("child")).unwrap().trim().parse().unwrap();
        let alive = || {
            // A zombie is no life: nobody may have asked for its end yet.
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
        };
        assert!(alive());
        server.kill_group();
        while alive() {
            tokio::task::yield_now().await;
        }
    }
}
