//! When to stop: SIGINT, SIGTERM, and the end of standard input under a supervisor.

use deploy::local::process::SUPERVISED;
use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token for the first signal, and one for the second: whoever asks twice does not want to wait.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// Drain and stop.
    pub(crate) first: CancellationToken,
    /// Stop at once.
    pub(crate) second: CancellationToken,
}

/// Listens from now on. Call inside the runtime.
pub(crate) fn listen() -> std::io::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let tokens = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if tokens.first.is_cancelled() {
                tokens.second.cancel();
            }
            tokens.first.cancel();
        }
    });
    if std::env::var_os(SUPERVISED).is_some() {
        end_with_standard_input(shutdown.first.clone());
    }
    Ok(shutdown)
}

/// The supervisor holds the other end of our standard input: its end means that the supervisor is gone, even by
/// kill -9. A thread, because a blocked read of standard input would hold up the runtime's own end.
fn end_with_standard_input(token: CancellationToken) {
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
        token.cancel();
    });
}
