//! `busbar frontend`, and `python3 -m dynamo.frontend` of a manifest.

use super::{discovery, runtime};
use crate::cli::{self, Command};
use crate::flags::frontend::FrontendFlags;
use crate::flags::manifest;
use crate::report::Failure;
use crate::{logging, shutdown};
use ::frontend::FrontendError;
use ::runtime::discovery::KubernetesConfig;

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
    let (backend, etcd, kubernetes) = (flags.discovery_backend, flags.etcd.clone(), flags.kubernetes.clone());
    let io_threads = flags.io_threads;
    let config = flags.config();
    runtime(io_threads)?.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let field_manager = KubernetesConfig::FRONTEND;
        let ways = discovery::Ways { etcd: &etcd, kubernetes: &kubernetes, field_manager };
        let discovery = discovery::join(backend, ways).await?;
        let frontend = ::frontend::start(config, discovery.clone()).await.map_err(|error| failed(&error))?;
        tracing::info!(address = %frontend.address(), admin = %frontend.admin_address(), "serving");
        shutdown.first.cancelled().await;
        tracing::info!("draining");
        let left = async {
            frontend.shutdown().await;
            discovery.leave().await;
        };
        tokio::select! {
            () = left => {}
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
