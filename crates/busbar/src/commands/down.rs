//! `busbar down`: drains and stops what runs on this machine. A platform's file leads to its cluster.

use super::{platform, platform_down, runtime};
use crate::cli::{DownFlags, Output};
use crate::folders;
use crate::report::Failure;
use deploy::local::{RunError, stop};
use std::path::Path;
use std::time::Duration;

/// Longest wait for a drain before what is left is killed; above the runner's own two drain phases.
const TIMEOUT: Duration = Duration::from_secs(45);

/// What is given: a file where it looks like one, since a graph's name has no dot and no slash.
pub(crate) fn run(flags: &DownFlags, output: Output) -> Result<(), Failure> {
    let Some(what) = &flags.what else { return stop_graphs(None, output) };
    if !what.contains(['.', '/']) {
        return stop_graphs(Some(what), output);
    }
    match platform::named_by(Some(Path::new(what)))? {
        Some(file) => platform_down::run(&file, flags, output),
        None => {
            let text = platform::read_text(Path::new(what))?;
            let graph = graph::parse(&text).map_err(|found| Failure::findings(what, &found))?;
            stop_graphs(Some(&graph.name), output)
        }
    }
}

/// Stops the runs; nothing that runs is no failure, so that it is safe to run twice.
fn stop_graphs(graph: Option<&str>, output: Output) -> Result<(), Failure> {
    let root = folders::state()?;
    let runs = match stop::living(&root, graph) {
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
