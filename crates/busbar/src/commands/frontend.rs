//! `busbar frontend`, and `python3 -m dynamo.frontend` of a manifest.

use super::runtime;
use crate::cli::{self, Command};
use crate::flags::frontend::FrontendFlags;
use crate::flags::manifest;
use crate::report::Failure;
use crate::{folders, logging, shutdown};
use ::frontend::FrontendError;
use ::runtime::discovery::Discovery;

/// Runs with the arguments of a manifest, below the environment in rank.
pub(crate) fn from_manifest(args: &[String]) -> Result<(), Failure> {
    let command = cli::command();
    let own = command.find_subcommand("frontend").expect("`frontend` is one of our commands");
    let split = manifest::split(own, args, true);
    if let Some(flag) = split.unknown.first() {
        return Err(Failure::new(format!("`{flag}` is no flag of a frontend here"))
            .remedy("remove it; `busbar frontend --help` lists the flags")
            .permanent());
    }
    let words = ["busbar", "frontend"].map(str::to_owned).into_iter().chain(split.known).collect::<Vec<_>>();
    match cli::parse(&words)?.command {
        Command::Frontend(flags) => run(*flags),
        _ => unreachable!("the words begin with `frontend`"),
    }
}

/// Serves until told to stop.
pub(crate) fn run(flags: FrontendFlags) -> Result<(), Failure> {
    logging::start();
    let config = flags.config();
    runtime()?.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let folder = folders::discovery();
        let discovery = Discovery::file(folder.clone()).await.map_err(|error| {
            Failure::new(format!("open the discovery folder {}", folder.display()))
                .chain(&error)
                .remedy("give access to it, or set DYN_FILE_KV to another folder")
        })?;
        let frontend = ::frontend::start(config, discovery).await.map_err(|error| failed(&error))?;
        tracing::info!(address = %frontend.address(), admin = %frontend.admin_address(), "serving");
        shutdown.first.cancelled().await;
        tracing::info!("draining");
        tokio::select! {
            () = frontend.shutdown() => {}
            () = shutdown.second.cancelled() => {}
        }
        Ok(())
    })
}

fn failed(error: &FrontendError) -> Failure {
    let failure = Failure::new("start the frontend").chain(error);
    match error {
        // Another program may let go of the port.
        FrontendError::Listen { .. } | FrontendError::Responses(_) => failure,
        _ => failure.permanent(),
    }
}
