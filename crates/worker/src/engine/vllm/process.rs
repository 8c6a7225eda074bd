//! `vllm serve` as a child of this process: its start and its end.

use super::child_log::{self, LastLines};
use super::client::{ApiKey, Client};
use super::command_line::{self, OPTIONAL_FLAGS, attach_config, command_line};
use super::places::{SocketFolder, places};
use super::{AttachConfig, VllmError, keeper};
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
    /// The key that the child asks for by its environment (`VLLM_API_KEY`), if any; one among the arguments wins.
    pub api_key: Option<ApiKey>,
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
            api_key: None,
        }
    }
}

/// Starts the child and waits until it is healthy.
pub(crate) async fn start(config: &SpawnConfig) -> Result<(Server, AttachConfig), VllmError> {
    let mut without = Vec::new();
    loop {
        let mut places = places(&config.arguments).map_err(|source| VllmError::start(config, source))?;
        let line = command_line(config, &places, &without);
        let attach = attach_config(config, &line, places.http_port);
        let mut server = Server::start(config, &line)?;
        server.sockets = places.folder.take();
        let client = Client::new(&attach.url, attach.api_key.as_ref())?;
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

/// A child with all that it starts. Dropping it kills them.
pub(crate) struct Server {
    child: Child,
    /// The child is our keeper, and this is what it watches.
    keeper: Option<ChildStdin>,
    /// The process group; none once it is over.
    group: Option<rustix::process::Pid>,
    last: LastLines,
    readers: Vec<tokio::task::JoinHandle<()>>,
    /// Where its event sockets are, as long as it lives.
    sockets: Option<SocketFolder>,
}

impl Server {
    fn start(config: &SpawnConfig, line: &[String]) -> Result<Self, VllmError> {
        tracing::info!(program = %config.program.display(), arguments = command_line::shown(line), "starting vLLM");
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
        Ok(Self { child, keeper, group, last, readers, sockets: None })
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
