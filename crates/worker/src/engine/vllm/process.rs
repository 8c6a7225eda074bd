//! `vllm serve` as a child of this process.

use super::client::Client;
use super::{AttachConfig, VllmError};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Time to load: a large model from a network disk, and the compilation of its graphs.
pub const DEFAULT_READY_WITHIN: Duration = Duration::from_secs(1800);

/// Time for a child to end after SIGTERM before it is killed.
const END_WITHIN: Duration = Duration::from_secs(20);

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
        }
    }
}

/// The value of a flag among `--flag value` and `--flag=value`.
fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix(name)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// The whole command line after the program. What the user gives wins over what we add.
fn command_line(config: &SpawnConfig, http_port: u16, event_port: u16) -> Vec<String> {
    let mut line: Vec<String> = ["serve", &config.model].map(str::to_owned).to_vec();
    let given = |name: &str| flag(&config.arguments, name).is_some() || config.arguments.iter().any(|a| a == name);
    let mut add = |name: &str, value: Option<String>| {
        if !given(name) {
            line.push(name.to_owned());
            line.extend(value);
        }
    };
    add("--host", Some("127.0.0.1".into()));
    add("--port", Some(http_port.to_string()));
    add("--enable-prompt-tokens-details", None);
    // `*` makes vLLM bind; with an address it would dial.
    let events =
        format!(r#"{{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:{event_port}","topic":""}}"#);
    add("--kv-events-config", Some(events));
    if let Some(name) = &config.served_name {
        add("--served-model-name", Some(name.clone()));
    }
    line.extend(config.arguments.iter().cloned());
    line
}

/// Starts the child and waits until it is healthy. Its output goes where ours goes.
pub(crate) async fn start(config: &SpawnConfig) -> Result<(Child, AttachConfig), VllmError> {
    let failed = |source| VllmError::Start { program: config.program.display().to_string(), source };
    let (http_port, event_port) = free_ports().map_err(failed)?;
    let line = command_line(config, http_port, event_port);
    let number = |name: &str| flag(&line, name).and_then(|value| value.parse().ok());
    let port = number("--port").unwrap_or(u32::from(http_port));
    let host = match flag(&line, "--host") {
        None | Some("0.0.0.0" | "::") => "127.0.0.1",
        Some(host) => host,
    };
    let attach = AttachConfig {
        url: format!("http://{host}:{port}"),
        max_num_seqs: number("--max-num-seqs"),
        max_num_batched_tokens: number("--max-num-batched-tokens"),
        ready_within: config.ready_within,
    };
    tracing::info!(program = %config.program.display(), arguments = ?line, "starting vLLM");
    // Dropped anywhere on the way, the child goes too.
    let mut child =
        Command::new(&config.program).args(&line).stdin(Stdio::null()).kill_on_drop(true).spawn().map_err(failed)?;
    let client = Client::new(&attach.url)?;
    tokio::select! {
        ended = child.wait() => Err(ended.map_or_else(failed, VllmError::Ended)),
        ready = client.wait_healthy(config.ready_within) => ready.map(|()| (child, attach)),
    }
}

/// Two ports that nobody holds now. vLLM cannot be given a socket, so between here and its bind another program may
/// take one; it then ends at once and says so.
fn free_ports() -> std::io::Result<(u16, u16)> {
    let (one, two) = (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

/// Asks the child to end, and ends it if it does not.
pub(crate) async fn end(mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // A child that is gone already is what is wanted.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        tracing::warn!("vLLM did not end in time and is killed");
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        command_line(&SpawnConfig { arguments, ..SpawnConfig::new("/models/m") }, 8100, 8200)
    }

    #[test]
    fn the_users_flags_are_passed_through_and_win() {
        let plain = line(&[]);
        assert_eq!(plain[..2], ["serve", "/models/m"]);
        assert_eq!(flag(&plain, "--port"), Some("8100"));
        assert!(flag(&plain, "--kv-events-config").unwrap().contains("tcp://*:8200"));
        assert!(plain.iter().any(|a| a == "--enable-prompt-tokens-details"));
        let own = line(&["--port=9000", "--enforce-eager", "--max-num-seqs", "4"]);
        assert_eq!(flag(&own, "--port"), Some("9000"));
        assert_eq!(flag(&own, "--max-num-seqs"), Some("4"));
        assert_eq!(own.iter().filter(|a| a.starts_with("--port")).count(), 1);
        assert!(own.iter().any(|a| a == "--enforce-eager"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_or_ends_at_once_is_named() {
        let missing = SpawnConfig { program: "/nowhere/vllm".into(), ..SpawnConfig::new("m") };
        assert!(matches!(start(&missing).await, Err(VllmError::Start { .. })));
        let ends = SpawnConfig { program: "/bin/false".into(), ..SpawnConfig::new("m") };
        assert!(matches!(start(&ends).await, Err(VllmError::Ended(_))));
    }
}
