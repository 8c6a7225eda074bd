//! `busbar operator`: acts on graphs in a cluster, until told to stop.

use super::runtime;
use crate::flags::operator::OperatorFlags;
use crate::report::Failure;
use crate::{logging, shutdown};
use ::operator::OperatorError;
use rand::RngExt;

/// Threads for sockets and timers. The operator waits for the API server nearly all of its time.
const IO_THREADS: u16 = 2;

/// Runs until told to stop.
pub(crate) fn run(flags: &OperatorFlags) -> Result<(), Failure> {
    logging::start();
    runtime(Some(IO_THREADS))?.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let client = flags.client().await?;
        let config = flags.config(client, &identity())?;
        tokio::select! {
            ended = ::operator::run(config, shutdown.first.clone()) => ended.map_err(|error| failed(&error)),
            () = shutdown.second.cancelled() => Ok(()),
        }
    })
}

/// The pod's name and a random part: a pod that is started again in place is another candidate.
fn identity() -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "busbar".to_owned());
    format!("{name}_{:08x}", rand::rng().random::<u32>())
}

fn failed(error: &OperatorError) -> Failure {
    let failure = Failure::new("run the operator").chain(error);
    match error {
        OperatorError::Listen { .. } => failure.remedy("give free ports with --health-port and --metrics-port"),
        OperatorError::Webhook(_) => failure.permanent(),
        _ => failure,
    }
}
