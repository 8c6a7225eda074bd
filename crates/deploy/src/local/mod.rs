//! The processes of one machine: start, supervise, show, stop.

pub mod logs;
pub mod port;
pub mod process;
pub mod ready;
pub mod run;
pub mod state;
pub mod stop;

use std::path::PathBuf;

/// Why a run cannot start, go on or be found.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A folder or file of the run.
    #[error("{act} {}", path.display())]
    Folder {
        /// What was tried: `create the folder`.
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The port of a frontend is taken.
    #[error("port {port} is held by {holder}")]
    PortTaken {
        /// The port.
        port: u16,
        /// `another program (nginx, pid 12)`, as far as it can be seen.
        holder: String,
    },
    /// A run of this name is there.
    #[error("`{graph}` runs already (supervisor pid {pid})")]
    RunsAlready {
        /// The graph.
        graph: String,
        /// Its supervisor.
        pid: u32,
    },
    /// A process cannot be started at all.
    #[error("start {name}")]
    Start {
        /// The process.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A process ended and a restart cannot help, or did not.
    #[error("{name} ended: {reason}")]
    Ended {
        /// The process.
        name: String,
        /// How, and its last words.
        reason: String,
    },
    /// Not every worker answered in time.
    #[error("not ready after {seconds} s: {missing}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What is missing.
        missing: String,
    },
    /// No run of that name.
    #[error("nothing runs{}", name.as_ref().map_or(String::new(), |n| format!(" under the name `{n}`")))]
    NothingRuns {
        /// The name asked for.
        name: Option<String>,
    },
    /// A process did not end.
    #[error("the supervisor (pid {pid}) did not end within {seconds} s")]
    DoesNotEnd {
        /// Which.
        pid: u32,
        /// How long was waited.
        seconds: u64,
    },
}

impl RunError {
    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Folder { .. } => "make room or give access, or set BUSBAR_STATE_DIR to another folder".into(),
            Self::PortTaken { port, .. } => format!("stop that program, or give another port: --port {}", port + 1),
            Self::RunsAlready { .. } => "see it with `busbar status`, stop it with `busbar down`".into(),
            Self::Start { .. } => "check that the binary is there and may be run".into(),
            Self::Ended { name, .. } => format!("the whole log: `busbar logs {name}`"),
            Self::NotReady { .. } => {
                "see the logs with `busbar logs COMPONENT`; a slow machine may need --ready-timeout".into()
            }
            Self::NothingRuns { .. } => "start a graph with `busbar up`".into(),
            Self::DoesNotEnd { pid, .. } => format!("end it by hand: kill -9 {pid}"),
        }
    }
}
