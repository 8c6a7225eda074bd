//! Stopping a run from another terminal.

use super::RunError;
use super::state::{Identity, RunFolder, RunState, runs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;

/// How often the supervisor's end is looked for.
const POLL: Duration = Duration::from_millis(50);

/// The runs that live: the one called `name`, or all.
///
/// # Errors
/// [`RunError::NothingRuns`].
pub fn living(root: &Path, name: Option<&str>) -> Result<Vec<RunState>, RunError> {
    let found: Vec<_> = runs(root)
        .into_iter()
        .filter(|run| name.is_none_or(|name| run.graph == name) && run.supervisor.is_alive())
        .collect();
    if found.is_empty() { Err(RunError::NothingRuns { name: name.map(str::to_owned) }) } else { Ok(found) }
}

/// Tells the supervisor to drain and waits for its end; after `timeout` kills what is left, by identity.
///
/// # Errors
/// [`RunError::DoesNotEnd`] when even that fails.
pub async fn stop(root: &Path, run: &RunState, timeout: Duration) -> Result<(), RunError> {
    signal(run.supervisor, Signal::SIGTERM);
    if ended(run.supervisor, timeout).await {
        return Ok(());
    }
    let folder = RunFolder::new(root, &run.graph);
    let processes = folder.read().unwrap_or_else(|| run.clone()).processes;
    signal(run.supervisor, Signal::SIGKILL);
    for identity in processes.iter().filter_map(|process| process.identity) {
        signal(identity, Signal::SIGKILL);
    }
    const AFTER_KILL: Duration = Duration::from_secs(5);
    if ended(run.supervisor, AFTER_KILL).await {
        folder.forget();
        return Ok(());
    }
    Err(RunError::DoesNotEnd { pid: run.supervisor.pid, seconds: (timeout + AFTER_KILL).as_secs() })
}

fn signal(identity: Identity, signal: Signal) {
    if identity.is_alive()
        && let Ok(pid) = i32::try_from(identity.pid)
    {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

async fn ended(identity: Identity, timeout: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + timeout;
    while identity.is_alive() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}
