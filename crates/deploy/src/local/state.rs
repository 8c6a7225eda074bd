//! What a run leaves on disk: its folder, its state file, and who is alive.

use super::RunError;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of one run: state, logs, discovery records.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder of the run `graph` below `root` (the user's state folder).
    pub fn new(root: &Path, graph: &str) -> Self {
        Self(root.join("runs").join(graph))
    }

    /// Creates the folder with its parts; what a dead run left in `discovery` is removed.
    ///
    /// # Errors
    /// [`RunError::Folder`].
    pub fn create(&self) -> Result<(), RunError> {
        let _ = std::fs::remove_dir_all(self.discovery());
        for path in [self.logs(), self.discovery()] {
            std::fs::create_dir_all(&path).map_err(|source| RunError::Folder {
                act: "create the folder",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Root of file discovery (`DYN_FILE_KV`).
    pub fn discovery(&self) -> PathBuf {
        self.0.join("discovery")
    }

    /// Folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// Log of a detached supervisor.
    pub fn supervisor_log(&self) -> PathBuf {
        self.logs().join("supervisor.log")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Replaces the state file as a whole.
    ///
    /// # Errors
    /// [`RunError::Folder`].
    pub fn write(&self, state: &RunState) -> Result<(), RunError> {
        let path = self.state();
        let temp = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&temp)?;
            serde_json::to_writer(&mut file, state)?;
            file.flush()?;
            std::fs::rename(&temp, &path)
        };
        write().map_err(|source| RunError::Folder { act: "write the state file", path: self.state(), source })
    }

    /// The state of the last run, alive or not. `None` when there is none or it cannot be read.
    pub fn read(&self) -> Option<RunState> {
        serde_json::from_slice(&std::fs::read(self.state()).ok()?).ok()
    }

    /// Removes the state file; logs stay.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(self.state());
        let _ = std::fs::remove_dir_all(self.discovery());
    }
}

/// Every run below `root` that has a state file, by name.
pub fn runs(root: &Path) -> Vec<RunState> {
    let Ok(entries) = std::fs::read_dir(root.join("runs")) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.iter().filter_map(|name| RunFolder::new(root, name).read()).collect()
}

/// What a run is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// The graph's name.
    pub graph: String,
    /// The supervisor.
    pub supervisor: Identity,
    /// Start, in milliseconds since 1970.
    pub started_ms: u64,
    /// The model's served name.
    pub model: String,
    /// `embedded`, `vllm` or `mock`.
    pub engine: String,
    /// Base URLs of the frontends.
    pub endpoints: Vec<String>,
    /// What was asked for, to tell whether another `up` asks for the same.
    pub spec: Vec<String>,
    /// All answers came: the run is ready.
    pub ready: bool,
    /// The processes.
    pub processes: Vec<ProcessState>,
}

/// What one process is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// `vllmdecodeworker-0`.
    pub name: String,
    /// Its component as written.
    pub component: String,
    /// While it lives.
    pub identity: Option<Identity>,
    /// What it does.
    pub phase: Phase,
    /// How often it was started again.
    pub restarts: u32,
    /// How it last ended.
    pub last_end: Option<String>,
    /// Since when it is in this phase, milliseconds since 1970.
    pub since_ms: u64,
}

/// The life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It runs.
    Running,
    /// It ended and is started again after a pause.
    Backoff,
    /// It drains.
    Stopping,
    /// It ended and stays so.
    Stopped,
}

/// A process that cannot be mistaken for another one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of a living process; `None` when there is none of this pid.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold spaces: count from the last `)`.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let zombie = fields.next()? == "Z";
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (!zombie).then_some(Self { pid, start_ticks })
    }

    /// Whether this very process lives.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_taken_for_the_process() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn a_half_written_state_is_no_state() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path(), "g");
        folder.create().unwrap();
        std::fs::write(folder.state(), "{\"graph\":").unwrap();
        assert_eq!(folder.read(), None);
        assert!(runs(root.path()).is_empty());
    }
}
