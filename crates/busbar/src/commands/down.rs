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
    let Some(what) = &flags.what else { return stop_graphs(None, true, output) };
    if !what.contains(['.', '/']) {
        return stop_graphs(Some(what), false, output);
    }
    match platform::named_by(Some(Path::new(what)))? {
        Some(file) => platform_down::run(&file, flags, output),
        None => {
            let text = platform::read_text(Path::new(what))?;
            let graph = graph::parse(&text).map_err(|found| Failure::findings(what, &found))?;
            // A file says how things should be afterwards: gone is gone, however often it is said.
            stop_graphs(Some(&graph.name), true, output)
        }
    }
}

/// Stops the runs. That nothing runs is a failure only of a name, which may be misspelt.
fn stop_graphs(graph: Option<&str>, may_be_gone: bool, output: Output) -> Result<(), Failure> {
    let root = folders::state()?;
    let runs = match stop::living(&root, graph) {
        Err(RunError::NothingRuns { .. }) if may_be_gone => Vec::new(),
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
