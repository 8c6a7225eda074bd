//! Sockets: listen, accept, serve, drain. TCP_NODELAY on each, a bound on all.

use super::socket::StallGuard;
use super::turns::{Patience, Turn, Turns};
use super::{App, answer};
use crate::config::FrontendConfig;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::tasks::Tasks;
use runtime::world::{self, Stream, World};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most headers of a request; OpenAI clients send about 20.
const HEADERS_MAX: usize = 100;
/// Largest request head. Proxies send 8 to 16 KiB at most.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most that is read ahead of a body. The reader may take somewhat more, so it is no bound for heads.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;
/// What the kernel holds of an answer that a client does not take. Left to itself it holds megabytes for each; this much
/// is 600 KB a second over a way of 100 ms, thousands of streamed tokens.
const SEND_BUFFER_BYTES: u32 = 64 << 10;
/// Wait after accept failed for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// The operator is told so often that accepting fails, however often it does.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Bounds of one listener.
#[derive(Clone, Debug)]
pub(crate) struct ServeLimits {
    pub(crate) connections_max: usize,
    patience: Patience,
    write_stall_max: Duration,
}

impl ServeLimits {
    pub(crate) fn of(config: &FrontendConfig) -> Self {
        let patience = Patience { head: config.http.header_read_timeout, idle: config.http.idle_timeout };
        let (connections_max, write_stall_max) = (config.http.connections_max, config.http.write_stall_max);
        Self { connections_max, patience, write_stall_max }
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
        let socket = world.listen_on(address, backlog, SEND_BUFFER_BYTES)?;
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
        let (turns, mut warned) = (Arc::new(Turns::default()), None::<Instant>);
        loop {
            let socket = match stop.run_until_cancelled(self.socket.accept()).await {
                None => return,
                Some(Ok((socket, _))) => socket,
                Some(Err(error)) => {
                    // Either this one client is gone already, or descriptors ran out: both pass.
                    if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                        tracing::warn!(%error, "accepting connections fails; tried again every 50 ms");
                        warned = Some(Instant::now());
                    }
                    // Descriptors of connections that only idle are the quickest to have back.
                    turns.want_place();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(place) = stop.run_until_cancelled(place_of(&places, &turns)).await else { return };
            if let Err(error) = socket.set_nodelay() {
                tracing::debug!(%error, "set TCP_NODELAY");
            }
            let turn = turns.begin(limits.patience);
            let socket = StallGuard::new(socket, turn.clone(), limits.write_stall_max);
            let (app, routes, stop) = (app.clone(), routes.clone(), stop.clone());
            connections.spawn("http connection", async move {
                let _place = place;
                converse(socket, app, routes, turn, stop).await;
            });
        }
    }
}

/// A place for one more connection. At the cap one that idles makes room, or the first that does so; meanwhile further
/// clients wait in the backlog.
async fn place_of(places: &Arc<Semaphore>, turns: &Turns) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    turns.want_place();
    let place = places.clone().acquire_owned().await;
    turns.settled();
    // Never closed.
    place.ok()
}

/// One connection, to its end. Once `stop` fires it ends after the answer that is being written.
async fn converse(socket: StallGuard<Stream>, app: Arc<App>, routes: Router, turn: Arc<Turn>, stop: CancellationToken) {
    let asked = turn.clone();
    let service = service_fn(move |request| {
        let (app, routes) = (app.clone(), routes.clone());
        asked.take();
        let ours = OurTurn(asked.clone());
        async move {
            let answer = answer(app, routes, request).await;
            Ok::<_, Infallible>(answer.map(|body| TurnBody { body, _ours: ours }))
        }
    });
    let connection = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = turn.closed() => return,
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

/// From a request's head to the end of its answer.
struct OurTurn(Arc<Turn>);

impl Drop for OurTurn {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// An answer's body that ends our turn with itself.
struct TurnBody {
    body: Body,
    _ours: OurTurn,
}

impl hyper::body::Body for TurnBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
