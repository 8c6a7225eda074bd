//! The worker's request server: who serves which path, how many requests run, and draining.

use super::callers::Callers;
use super::connection;
use super::incoming::Handler;
use super::nats_server::NatsListeners;
use super::socket;
use crate::tasks::Tasks;
use crate::world::World;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Request connections at once. A frontend holds a few; 4,096 are several hundred frontends.
const CONNECTIONS_MAX: usize = 4_096;

/// How a worker takes requests.
#[derive(Clone, Debug)]
pub struct RequestServerConfig {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on, 0 for any.
    pub port: u16,
    /// Host to advertise; when absent, `host`, or the machine's address when `host` means any.
    pub advertise_host: Option<String>,
    /// Requests that run at once. Each is one connection to a frontend, so the process's limit of open files is a
    /// bound as well.
    pub requests_running_max: usize,
    /// Requests that wait behind them; beyond that the answer is `Server overloaded`.
    pub requests_queued_max: usize,
    /// How long dialling the frontend may take.
    pub call_home_timeout: Duration,
    /// The machine that it runs on.
    pub world: World,
}

impl Default for RequestServerConfig {
    /// Dynamo's bounds: 10,000 running, 40,000 queued, 10 s to call home.
    fn default() -> Self {
        Self {
            host: "0.0.0.0".into(),
            port: 0,
            advertise_host: None,
            requests_running_max: 10_000,
            requests_queued_max: 40_000,
            call_home_timeout: Duration::from_secs(10),
            world: World::default(),
        }
    }
}

/// What connections and requests share.
pub(super) struct Shared {
    handlers: RwLock<HashMap<String, Arc<dyn Handler>>>,
    draining: AtomicBool,
    /// One permit per request that was taken, running or queued.
    pub(super) taken: Arc<Semaphore>,
    /// One permit per request that runs.
    pub(super) running: Arc<Semaphore>,
    pub(super) requests: Tasks,
    /// The frontends that are heard.
    pub(super) callers: Callers,
    pub(super) config: RequestServerConfig,
}

impl Shared {
    pub(super) fn handler(&self, path: &str) -> Option<Arc<dyn Handler>> {
        self.handlers.read().get(path).cloned()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// What a request server has to do at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLoad {
    /// Requests in a handler.
    pub running: usize,
    /// Requests that were taken and are not in a handler yet.
    pub queued: usize,
}

/// Listens for requests. Dropping it closes all connections and cuts the requests that run.
pub struct RequestServer {
    pub(super) shared: Arc<Shared>,
    pub(super) nats: NatsListeners,
    address: String,
    _connections: Arc<Tasks>,
}

impl RequestServer {
    /// Listens; no path is served yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(config: RequestServerConfig) -> io::Result<Self> {
        let listener = config.world.listen(&config.host, config.port).await?;
        let address = socket::advertised(&listener, config.advertise_host.as_deref())?;
        let taken_max = config.requests_running_max.saturating_add(config.requests_queued_max);
        let shared = Arc::new(Shared {
            handlers: RwLock::default(),
            draining: AtomicBool::new(false),
            taken: Arc::new(Semaphore::new(taken_max.min(Semaphore::MAX_PERMITS))),
            running: Arc::new(Semaphore::new(config.requests_running_max.min(Semaphore::MAX_PERMITS))),
            requests: Tasks::new(),
            callers: Callers::default(),
            config,
        });
        let connections = Arc::new(Tasks::new());
        let (accepting, serving) = (Arc::downgrade(&connections), shared.clone());
        connections.spawn("request listener", async move {
            let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            socket::accept_each(listener, "request server", |stream, peer| {
                let (Some(tasks), Ok(slot)) = (accepting.upgrade(), slots.clone().try_acquire_owned()) else {
                    tracing::warn!(%peer, connections_max = CONNECTIONS_MAX, "too many request connections");
                    return;
                };
                let serving = serving.clone();
                tasks.spawn("request connection", async move {
                    connection::serve(serving, stream, peer).await;
                    drop(slot);
                });
            })
            .await;
        });
        Ok(Self { shared, nats: NatsListeners::default(), address, _connections: connections })
    }

    /// `HOST:PORT` to advertise; an endpoint's transport is `{address}/{instance:x}/{namespace}/{component}/{endpoint}`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Serves `path`, `{instance:x}/{namespace}/{component}/{endpoint}`; an earlier handler of it is replaced.
    pub fn serve(&self, path: String, handler: Arc<dyn Handler>) {
        self.shared.handlers.write().insert(path, handler);
    }

    /// Serves `path` no more; its running requests go on.
    pub fn withdraw(&self, path: &str) {
        self.shared.handlers.write().remove(path);
    }

    /// From now on every new request is answered `Server unavailable: draining`; running ones go on.
    pub fn stop_accepting(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.nats.stop();
    }

    /// Requests that run or wait.
    pub fn running(&self) -> usize {
        self.shared.requests.running()
    }

    /// Requests in work and requests that wait for their turn.
    pub fn load(&self) -> ServerLoad {
        let config = &self.shared.config;
        let taken_max = config.requests_running_max.saturating_add(config.requests_queued_max);
        let taken = taken_max.min(Semaphore::MAX_PERMITS) - self.shared.taken.available_permits();
        let running_max = config.requests_running_max.min(Semaphore::MAX_PERMITS);
        let running = running_max - self.shared.running.available_permits();
        ServerLoad { running, queued: taken.saturating_sub(running) }
    }

    /// Resolves when no request runs and every frontend has taken the end of its stream (10 s at most after each end).
    /// Call [`RequestServer::stop_accepting`] first, or it may never be quiet.
    pub async fn drained(&self) {
        self.shared.requests.idle().await;
    }
}

impl Drop for RequestServer {
    fn drop(&mut self) {
        self.shared.requests.cancel();
    }
}

impl std::fmt::Debug for RequestServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestServer").field("address", &self.address).field("running", &self.running()).finish()
    }
}
