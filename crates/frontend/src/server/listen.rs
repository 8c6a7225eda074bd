//! Sockets: listen, accept, serve, drain. TCP_NODELAY on each, a bound on all.

use super::socket::{StallGuard, WRITE_STALL_MAX};
use super::{App, answer};
use crate::config::FrontendConfig;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::tasks::Tasks;
use runtime::world::{self, Stream, World};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most headers of a request; OpenAI clients send about 20.
const HEADERS_MAX: usize = 100;
/// Largest request head, and most that is read ahead of a body.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Wait after accept failed for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ServeLimits {
    pub(crate) connections_max: usize,
    pub(crate) header_read_timeout: Duration,
}

impl ServeLimits {
    pub(crate) fn of(config: &FrontendConfig) -> Self {
        Self { connections_max: config.http.connections_max, header_read_timeout: config.http.header_read_timeout }
    }
}

/// A bound socket.
pub(crate) struct Listener {
    socket: world::Listener,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens.
    pub(crate) fn bind(world: &World, address: SocketAddr, backlog: u32) -> io::Result<Self> {
        let socket = world.listen_on(address, backlog)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`; each connection is a task of `connections`, which outlive this call.
    pub(crate) async fn serve(
        mut self,
        app: Arc<App>,
        routes: Router,
        limits: ServeLimits,
        connections: Arc<Tasks>,
        stop: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        loop {
            // At the cap nothing is accepted: clients wait in the backlog instead of being cut.
            let accepted = stop.run_until_cancelled(async {
                let place = places.clone().acquire_owned().await;
                (place, self.socket.accept().await)
            });
            let (place, socket) = match accepted.await {
                None => return,
                Some((place, Ok((socket, _)))) => (place, socket),
                Some((_, Err(error))) => {
                    // Either this one client is gone already, or descriptors ran out: both pass.
                    tracing::debug!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if let Err(error) = socket.set_nodelay() {
                tracing::debug!(%error, "set TCP_NODELAY");
            }
            let (app, routes, limits, stop) = (app.clone(), routes.clone(), limits.clone(), stop.clone());
            connections.spawn("http connection", async move {
                let _place = place;
                converse(socket, app, routes, limits, stop).await;
            });
        }
    }
}

/// One connection, to its end. Once `stop` fires it ends after the answer that is being written.
async fn converse(socket: Stream, app: Arc<App>, routes: Router, limits: ServeLimits, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let (app, routes) = (app.clone(), routes.clone());
        async move { Ok::<_, Infallible>(answer(app, routes, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(StallGuard::new(socket, WRITE_STALL_MAX)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client left, or sent what is no HTTP: its own affair.
        tracing::trace!(%error, "an HTTP connection ended");
    }
}
