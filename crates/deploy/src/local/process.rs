//! The life of one process: start, watch, start again, stop.

use super::RunError;
use super::logs::{LogFile, copy_lines};
use super::state::Identity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Exit code by which one of our processes says that a restart cannot help (bad flag, bad model).
pub const EXIT_PERMANENT: i32 = 2;
/// First pause before a restart: long enough not to spin, short enough that a killed worker is soon back.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A process that lived this long begins again with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Variable that tells a process to end when its standard input ends: the supervisor is gone then, however it died.
pub const SUPERVISED: &str = "BUSBAR_SUPERVISED";

/// A process to start and keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// `vllmdecodeworker-0`.
    pub name: String,
    /// Its component as written.
    pub component: String,
    /// Frontend or worker: frontends stop first.
    pub role: graph::local::Role,
    /// The program to execute: this very binary.
    pub program: PathBuf,
    /// The command line, program name first; the binary reads its name from there.
    pub argv: Vec<String>,
    /// Environment on top of the inherited one.
    pub env: Vec<(String, String)>,
}

/// What happens to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs.
    Started(Identity),
    /// It ended by itself.
    Ended {
        /// How, and its last words.
        reason: String,
        /// When it is started again; `None`: never, a restart cannot help.
        restart_in: Option<Duration>,
    },
    /// It ended because it was told to.
    Stopped {
        /// It did not end in time and was killed.
        killed: bool,
    },
}

/// How one process is stopped.
#[derive(Clone)]
pub struct StopSignals {
    /// SIGTERM: drain.
    pub drain: CancellationToken,
    /// SIGKILL: at once.
    pub kill: CancellationToken,
    /// From drain to kill.
    pub grace: Duration,
}

/// Keeps one process running until it is stopped or says that a restart cannot help.
///
/// Every event goes to `events` under `index`. Cancel-safe only by `stop`: dropping the future kills the process.
pub async fn supervise(
    index: usize,
    spec: ProcessSpec,
    log: PathBuf,
    stop: StopSignals,
    events: mpsc::Sender<(usize, ProcessEvent)>,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let started = tokio::time::Instant::now();
        let end = match start(&spec, &log) {
            Ok(running) => {
                if let Some(identity) = running.identity {
                    let _ = events.send((index, ProcessEvent::Started(identity))).await;
                }
                match running.until_end(&stop).await {
                    End::Told { killed } => {
                        let _ = events.send((index, ProcessEvent::Stopped { killed })).await;
                        return;
                    }
                    End::Itself { reason, permanent } => (reason, permanent),
                }
            }
            Err(error) => (
                format!("{error}: {}", std::error::Error::source(&error).map_or(String::new(), |e| e.to_string())),
                false,
            ),
        };
        if started.elapsed() > HEALTHY_AFTER {
            backoff = BACKOFF_MIN;
        }
        let (reason, permanent) = end;
        let restart_in = (!permanent).then_some(backoff);
        let _ = events.send((index, ProcessEvent::Ended { reason, restart_in })).await;
        if permanent {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            () = stop.drain.cancelled() => {
                let _ = events.send((index, ProcessEvent::Stopped { killed: false })).await;
                return;
            }
        }
    }
}

/// How a process ended.
enum End {
    Told { killed: bool },
    Itself { reason: String, permanent: bool },
}

struct Running {
    child: Child,
    /// Held open while the process runs. Taken out of `child`, whose `wait` would close it.
    _stdin: Option<ChildStdin>,
    identity: Option<Identity>,
    log: Arc<std::sync::Mutex<LogFile>>,
    readers: [tokio::task::JoinHandle<()>; 2],
}

fn start(spec: &ProcessSpec, log: &Path) -> Result<Running, RunError> {
    let failed = |source| RunError::Start { name: spec.name.clone(), source };
    let log = Arc::new(std::sync::Mutex::new(LogFile::open(log).map_err(failed)?));
    let mut child = Command::new(&spec.program)
        .arg0(spec.argv.first().map_or("busbar", String::as_str))
        .args(spec.argv.iter().skip(1))
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .env(SUPERVISED, "1")
        // Its end tells the process that we are gone, even after kill -9 of us.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which drains in the right order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let identity = child.id().and_then(Identity::of);
    let out = child.stdout.take().map(|stream| tokio::spawn(copy(stream, Arc::clone(&log))));
    let err = child.stderr.take().map(|stream| tokio::spawn(copy(stream, Arc::clone(&log))));
    let readers = [out, err].map(|reader| reader.unwrap_or_else(|| tokio::spawn(async {})));
    let stdin = child.stdin.take();
    Ok(Running { child, _stdin: stdin, identity, log, readers })
}

async fn copy(stream: impl tokio::io::AsyncRead + Unpin, log: Arc<std::sync::Mutex<LogFile>>) {
    copy_lines(stream, |line| {
        if let Ok(mut log) = log.lock() {
            log.line(line);
        }
    })
    .await;
}

impl Running {
    async fn until_end(mut self, stop: &StopSignals) -> End {
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = stop.drain.cancelled() => return End::Told { killed: self.stop(stop).await },
        };
        // What the process wrote last may still be in the pipes; a grandchild may hold them open, so only for a moment.
        for reader in &mut self.readers {
            let _ = tokio::time::timeout(Duration::from_millis(500), reader).await;
        }
        let words = self.log.lock().ok().and_then(|log| log.last_words());
        let (how, permanent) = match status {
            Ok(status) => (describe(status), status.code() == Some(EXIT_PERMANENT)),
            Err(error) => (error.to_string(), false),
        };
        End::Itself { reason: words.map_or(how.clone(), |words| format!("{how}; last words: {words}")), permanent }
    }

    /// Drains, then kills. True when it had to be killed.
    async fn stop(&mut self, stop: &StopSignals) -> bool {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        tokio::select! {
            _ = self.child.wait() => return false,
            () = stop.kill.cancelled() => {}
            () = tokio::time::sleep(stop.grace) => {}
        }
        let _ = self.child.kill().await;
        true
    }
}

/// `exit code 1`, `killed by SIGKILL`.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => "ended".to_owned(),
    }
}
