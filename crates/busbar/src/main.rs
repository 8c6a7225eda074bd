//! The door: flags, configuration, logging, one printer of errors, exit codes.
//!
//! **Invariant:** every decision is somebody else's. The door reads what the user wrote (flags, environment, files),
//! hands it down as values, and prints what comes back; nothing imports it.
//!
//! The same binary answers to `python3 -m dynamo.frontend|vllm|mocker` and to `/bin/sh -c "…"` of those lines, so that
//! a manifest's own command starts it; any other line of Python goes to the Python behind it in PATH. Start with [`cli`]; each verb has a file in [`commands`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the door is where the program speaks")]

mod cli;
mod commands;
mod descriptors;
mod flags;
mod folders;
mod logging;
mod progress;
mod python;
mod report;
mod shutdown;

use graph::argv::{self, Launch, Module};
use report::Failure;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// A frontend loads a tokenizer of tens of megabytes and lets most of it go. This allocator gives such memory back to the
/// system within seconds; the C library's keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    descriptors::raise();
    let argv: Vec<String> = std::env::args().collect();
    // Between a worker and its engine stands this very program; what it ends with is the engine's own code.
    let ended = match argv.get(1) {
        Some(verb) if verb == worker::engine::vllm::KEEP_VERB => commands::vllm_worker::keep(&argv[2..]),
        _ => run(&argv).map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            report::print(&failure, report::wants_json(&argv));
            ExitCode::from(failure.exit_code)
        }
    }
}

fn run(argv: &[String]) -> Result<(), Failure> {
    let name = argv.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
    // Under a manifest's own command line we are one of its processes, and the environment outranks its arguments.
    if matches!(name, "python3" | "python" | "sh" | "bash") {
        let launch = argv::recognise(argv).map_err(|error| {
            let failure = Failure::new("read the command line").cause(error.to_string()).remedy(argv::SHAPES);
            match python::hand_over(argv) {
                None => failure,
                Some(error) => failure.cause(format!("and the Python behind this one does not start: {error}")),
            }
        })?;
        if !launch.env.is_empty() {
            return Err(with_variables(&launch));
        }
        return match launch.module {
            Module::Frontend => commands::frontend::from_manifest(&launch.args),
            module => commands::worker::from_manifest(module, &launch.args),
        };
    }
    if argv.get(1).is_some_and(|verb| verb == "worker") {
        return commands::worker::from_command_line(&argv[2..]);
    }
    commands::dispatch(cli::parse(argv)?)
}

/// Becomes the same process with the variables that a shell line sets before its command. Returns only where that fails.
fn with_variables(launch: &Launch) -> Failure {
    let words: &[&str] = match launch.module {
        Module::Frontend => &["-m", "dynamo.frontend"],
        Module::Vllm => &["-m", "dynamo.vllm"],
        Module::Mocker => &["-m", "dynamo.mocker"],
        Module::Worker => &["worker"],
    };
    let name = if launch.module == Module::Worker { "busbar" } else { "python3" };
    // By this link, for the file may have another name, and PATH need not lead to it.
    let mut again = Command::new("/proc/self/exe");
    again.arg0(name).args(words).args(&launch.args).envs(launch.env.iter().map(|(name, value)| (name, value)));
    Failure::new("start again with the variables of the shell line").cause(again.exec().to_string())
}
