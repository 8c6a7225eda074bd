//! `busbar down`: drains and stops what runs on this machine.

use super::runtime;
use crate::cli::{Output, SelectRun};
use crate::folders;
use crate::report::Failure;
use deploy::local::{RunError, stop};
use std::time::Duration;

/// Longest wait for a drain before what is left is killed; above the runner's own two drain phases.
const TIMEOUT: Duration = Duration::from_secs(45);

/// Stops the runs; nothing that runs is no failure, so that it is safe to run twice.
pub(crate) fn run(select: &SelectRun, output: Output) -> Result<(), Failure> {
    let root = folders::state()?;
    let runs = match stop::living(&root, select.graph.as_deref()) {
        Err(RunError::NothingRuns { name: None }) => Vec::new(),
        found => found?,
    };
    let quiet = output == Output::Json;
    runtime(None)?.block_on(async {
        for run in &runs {
            if !quiet {
                eprintln!("draining {} (supervisor pid {})", run.graph, run.supervisor.pid);
            }
            stop::stop(&root, run, TIMEOUT).await?;
        }
        Ok::<_, Failure>(())
    })?;
    if quiet {
        let names: Vec<_> = runs.iter().map(|run| &run.graph).collect();
        println!("{}", serde_json::json!({ "stopped": names }));
    } else if runs.is_empty() {
        eprintln!("nothing runs");
    } else {
        eprintln!("stopped {}", runs.iter().map(|run| run.graph.as_str()).collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
