//! `busbar status`: what runs on this machine.

use crate::cli::{Output, SelectRun};
use crate::folders;
use crate::report::Failure;
use comfy_table::{ContentArrangement, Table, presets};
use deploy::local::state::{Phase, ProcessState, RunState};
use deploy::local::stop;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Prints the runs.
pub(crate) fn run(select: &SelectRun, output: Output) -> Result<(), Failure> {
    let runs = stop::living(&folders::state()?, select.graph.as_deref())?;
    if output == Output::Json {
        println!("{}", serde_json::json!({ "runs": runs }));
        return Ok(());
    }
    for run in &runs {
        print_run(run);
    }
    Ok(())
}

fn print_run(run: &RunState) {
    let ready = if run.ready { "ready" } else { "starting" };
    println!("{} is {ready}: model {}, engine {}, up {}", run.graph, run.model, run.engine, since(run.started_ms));
    for endpoint in &run.endpoints {
        println!("  endpoint  {endpoint}/v1");
        println!("  status    {endpoint}/");
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["PROCESS", "STATE", "PID", "FOR", "RESTARTS", "LAST END"]);
    for process in &run.processes {
        table.add_row([
            process.name.clone(),
            phase(process).to_owned(),
            process.identity.map_or("-".into(), |identity| identity.pid.to_string()),
            since(process.since_ms),
            process.restarts.to_string(),
            process.last_end.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    println!("{table}");
}

fn phase(process: &ProcessState) -> &'static str {
    match process.phase {
        Phase::Running => "running",
        Phase::Backoff if process.last_end.is_none() => "starting",
        Phase::Backoff => "restarting",
        Phase::Stopping => "draining",
        Phase::Stopped => "stopped",
    }
}

fn since(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(ms)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}
