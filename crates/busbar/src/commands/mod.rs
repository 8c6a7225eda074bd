//! One file a verb.

mod crds;
mod discovery;
mod down;
pub(crate) mod frontend;
mod image;
mod keys;
mod lint;
mod logs;
mod model;
mod operator;
mod plan;
mod platform;
mod platform_down;
mod platform_up;
mod reference;
mod rollback;
mod status;
mod up;
mod verify;
mod vllm_share;
pub(crate) mod vllm_worker;
pub(crate) mod worker;

use crate::cli::{Cli, Command, ImageCommand, KeysCommand, ModelCommand};
use crate::report::Failure;

/// Runs a parsed command line.
pub(crate) fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = cli.output;
    match cli.command {
        Command::Up(flags) => match platform::named_by(flags.file.as_deref())? {
            Some(file) => platform_up::run(&file, &flags, output),
            None => up::run(&flags, output),
        },
        Command::Plan(flags) => plan::run(&flags, output),
        Command::Verify(flags) => verify::run(&flags, output),
        Command::Lint { files } => lint::run(&files, output),
        Command::Status(select) => status::run(&select, output),
        Command::Logs(flags) => logs::run(&flags),
        Command::Down(flags) => down::run(&flags, output),
        Command::Model(ModelCommand::Fetch { model, into: None, engine, .. }) => {
            model::fetch(model.as_deref(), engine, output)
        }
        Command::Model(ModelCommand::Fetch { model, into: Some(folder), verify, engine }) => {
            model::fill(model.as_deref(), &folder, verify, engine, output)
        }
        Command::Image(ImageCommand::Push { reference, base, flags }) => image::push(&reference, base, &flags, output),
        Command::Image(ImageCommand::Save { file, name, flags }) => image::save(&file, name.as_deref(), &flags, output),
        Command::Keys(KeysCommand::Add { name, file }) => keys::add(&name, &file, output),
        Command::Frontend(flags) => frontend::run(*flags),
        Command::Worker(flags) => worker::run(&flags, &[], None),
        Command::Operator(flags) => operator::run(&flags),
        Command::Rollback(flags) => rollback::run(&flags, output),
        Command::Crds(flags) => crds::run(&flags, output),
        Command::Reference { folder } => reference::write(&folder),
    }
}

/// A runtime for one command, with so many threads for sockets and timers. What computes (engine, tokenizer) has threads
/// of its own, so by default these get half of the cores: more would wake each other for nothing, and a streamed token
/// would cost a third more.
fn runtime(io_threads: Option<u16>) -> Result<tokio::runtime::Runtime, Failure> {
    let half = || std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(io_threads.map_or_else(half, usize::from))
        .enable_all()
        .build()
        .map_err(|error| Failure::new("start the runtime").cause(error.to_string()))
}
