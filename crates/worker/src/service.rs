//! A worker's life: start, announce, serve, leave.

use crate::card::{self, CardError, ServedModel};
use crate::engine::{Engine, StartedEngine};
use crate::handler::{GenerateHandler, QueryHandler};
use crate::indexer::Mirror;
use crate::metrics::{MetricsScope, WorkerMetrics};
use crate::publish::{self, PREFILL_QUEUE_LEN};
use crate::register::{AnnouncedPublisher, Announcement};
use crate::transport_metrics::{DropCount, EventsAtScrape};
use crate::vitals::Vitals;
use parking_lot::Mutex;
use protocol::card::ModelCard;
use protocol::discovery::{EventScope, Record};
use protocol::events::{ACTIVE_SEQUENCES_EVENTS, KV_EVENTS, KV_METRICS};
use protocol::ids::{EndpointId, InstanceId, WorkerRank};
use runtime::discovery::{Discovery, DiscoveryError, RecordKey};
use runtime::event_plane::{EventError, Publisher};
use runtime::nats::Nats;
use runtime::request_plane::{RequestServer, RequestServerConfig, ServiceName};
use runtime::system_server::{Health, MetadataFiles, SystemServer, SystemServerConfig};
use runtime::tasks::{Tasks, drained_within};
use runtime::world::World;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Time for running streams after SIGTERM. Kubernetes kills a pod after 30 s unless told otherwise; this leaves room
/// for what comes after the drain.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Time for streams to carry their last error to the caller once the drain is over, and for the publishers to send
/// what is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// Time for a stopped engine to be gone: a guest that is a process of its own is asked to end, and then killed.
const ENGINE_END: Duration = Duration::from_secs(8);

/// Longest wait for the NATS server before a worker that takes requests over it is announced all the same.
const NATS_WAIT: Duration = Duration::from_secs(5);

/// Suffix of a model that is no LoRA, in the URLs of its files.
const BASE_SUFFIX: &str = "_base";

/// Where and how a worker serves.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// What is announced; `dynamo.backend.generate` unless told.
    pub endpoint: EndpointId,
    /// Where requests come in.
    pub request_server: RequestServerConfig,
    /// Where the event sockets bind.
    pub event_host: String,
    /// What routers dial for events; the host's own address when absent.
    pub event_advertise_host: Option<String>,
    /// Events go over this connection; over ZMQ sockets of our own when absent.
    pub events_over: Option<Nats>,
    /// Requests come over this connection; over TCP when absent.
    pub requests_over: Option<Nats>,
    /// `/health`, `/live`, `/metrics` and the model's files; nothing when absent.
    pub system: Option<SystemServerConfig>,
    /// Time for running streams when the worker leaves.
    pub drain_timeout: Duration,
    /// When the process began to load the engine; for `/metrics`.
    pub started_at: Instant,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            endpoint: EndpointId::new("dynamo", "backend", "generate"),
            request_server: RequestServerConfig::default(),
            event_host: "0.0.0.0".into(),
            event_advertise_host: None,
            events_over: None,
            requests_over: None,
            system: None,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            started_at: Instant::now(),
        }
    }
}

impl WorkerConfig {
    /// The machine that the worker runs on: the request server's.
    fn world(&self) -> &World {
        &self.request_server.world
    }
}

/// Why a worker could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A socket could not be opened.
    #[error("open the {what}; another program may hold the port")]
    Bind {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The endpoint's name cannot be part of a NATS subject.
    #[error("publish events over NATS; use letters, digits, - and _ in the endpoint's three names")]
    Subject(#[source] EventError),
    /// The model's folder makes no card.
    #[error("describe the model")]
    Card(#[from] CardError),
    /// A task of ours panicked.
    #[error("describe the model: the task that hashes its files ended")]
    CardTask(#[source] tokio::task::JoinError),
    /// The worker could not be announced.
    #[error("announce the worker in discovery")]
    Announce(#[source] DiscoveryError),
    /// The engine ended while nobody asked it to.
    #[error("the engine stopped by itself; the log above says why, and a supervisor should start the worker again")]
    EngineStopped,
}

/// Starts a worker, serves until `shutdown` fires, and leaves. See [`Worker::start`] and [`Worker::run_until`].
///
/// # Errors
/// Those of both.
pub async fn run(
    config: WorkerConfig,
    started: StartedEngine,
    model: ServedModel,
    discovery: Discovery,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    Worker::start(config, started, model, discovery).await?.run_until(shutdown).await
}

/// A worker that is announced and serves. Dropping it cuts its streams; [`Worker::run_until`] lets them end.
pub struct Worker {
    announcement: Announcement,
    keys: Vec<RecordKey>,
    discovery: Discovery,
    server: Arc<RequestServer>,
    system: Option<SystemServer>,
    health: Health,
    engine: Arc<dyn Engine>,
    mirror: Arc<Mutex<Mirror>>,
    tasks: Tasks,
    engine_ended: CancellationToken,
    halt: CancellationToken,
    drain_timeout: Duration,
}

impl Worker {
    /// Opens the sockets, describes the model and announces both; everything answers before anything is announced.
    ///
    /// # Errors
    /// A port that is taken, a model folder that lacks a file, a discovery store that cannot be written. The engine
    /// is stopped then.
    pub async fn start(
        config: WorkerConfig,
        started: StartedEngine,
        model: ServedModel,
        discovery: Discovery,
    ) -> Result<Self, WorkerError> {
        let engine = started.engine.clone();
        let result = Self::start_parts(config, started, model, discovery).await;
        if result.is_err() {
            engine.stop();
        }
        result
    }

    async fn start_parts(
        config: WorkerConfig,
        started: StartedEngine,
        model: ServedModel,
        discovery: Discovery,
    ) -> Result<Self, WorkerError> {
        let StartedEngine { engine, kv_changes } = started;
        let profile = engine.profile();
        let loaded_in = config.started_at.elapsed();
        let mut card = {
            let (model, profile) = (model.clone(), profile.clone());
            let built = config.world().off_thread(move || card::build(&model, &profile)).await;
            built.map_err(WorkerError::CardTask)??
        };
        if engine.resumes_guided() {
            card::say_that_guided_answers_resume(&mut card);
        }
        let server = RequestServer::bind(config.request_server.clone()).await.map_err(bind("request server"))?;
        let publishers = Publishers::bind(&config).await?;
        let mut announcement = Announcement {
            endpoint: config.endpoint.clone(),
            instance_id: discovery.instance_id(config.world()),
            address: server.address(),
            requests_over_nats: config.requests_over.is_some(),
            device: profile.device,
            kv_events: announced(&publishers.kv_events),
            kv_metrics: announced(&publishers.kv_metrics),
            active_sequences: announced(&publishers.active_sequences),
            card,
        };
        let scope = MetricsScope {
            endpoint: config.endpoint.clone(),
            worker_id: announcement.instance_id,
            model: model.name.clone(),
        };
        let requests = &config.request_server;
        let mut metrics = WorkerMetrics::new(&scope, engine.clone(), requests, config.started_at, loaded_in);
        metrics.watch_events(publishers.at_scrape(&scope, config.events_over.as_ref()));
        let metrics = Arc::new(metrics);
        let server = Arc::new(server);
        let health = Health::new();
        let system = start_system(&config, &health, &metrics, &server, &discovery, &mut announcement).await?;
        let mut worker = Self {
            mirror: Arc::new(Mutex::new(Mirror::new(rank_of(announcement.instance_id)))),
            keys: Vec::new(),
            announcement,
            discovery,
            server,
            system,
            health,
            engine,
            tasks: Tasks::new(),
            engine_ended: CancellationToken::new(),
            halt: CancellationToken::new(),
            drain_timeout: config.drain_timeout,
        };
        worker.serve(&metrics, publishers, kv_changes);
        if let Some(nats) = &config.requests_over {
            worker.serve_over_nats(nats).await;
        }
        worker.announce().await.map_err(WorkerError::Announce)?;
        Ok(worker)
    }

    /// Puts the handlers behind their paths and starts the publishing tasks.
    fn serve(
        &self,
        metrics: &Arc<WorkerMetrics>,
        publishers: Publishers,
        kv_changes: mpsc::Receiver<protocol::kv::KvChange>,
    ) {
        let announcement = &self.announcement;
        let (prefills, prefills_done) = mpsc::channel(PREFILL_QUEUE_LEN);
        let load_changed = Arc::new(Notify::new());
        let generate = GenerateHandler {
            engine: self.engine.clone(),
            vitals: Arc::new(Vitals::new(self.engine.clone())),
            prefills,
            metrics: metrics.clone(),
            load_changed: load_changed.clone(),
            endpoint: announcement.endpoint.name.clone(),
            halt: self.halt.clone(),
            drain_seconds: self.drain_timeout.as_secs(),
        };
        let query_endpoint = announcement.query_endpoint();
        let query =
            QueryHandler { mirror: self.mirror.clone(), metrics: metrics.clone(), endpoint: query_endpoint.clone() };
        metrics.announce(&announcement.endpoint.name);
        metrics.announce(&query_endpoint);
        self.server.serve(announcement.path(&announcement.endpoint.name), generate.shared());
        self.server.serve(announcement.path(&query_endpoint), query.shared());
        let worker = rank_of(announcement.instance_id);
        let (mirror, engine_ended, bell) = (self.mirror.clone(), self.engine_ended.clone(), load_changed.clone());
        self.tasks.spawn_to_end("kv-events", async move {
            publish::relay_changes(kv_changes, mirror, publishers.kv_events, bell).await;
            // The stream of changes closes when the engine is gone, and only then.
            engine_ended.cancel();
        });
        self.tasks.spawn(
            "kv-metrics",
            publish::report_load(self.engine.clone(), worker, publishers.kv_metrics, load_changed),
        );
        self.tasks
            .spawn("active-sequences", publish::relay_prefills(prefills_done, worker, publishers.active_sequences));
    }

    /// Listens on the subjects of both endpoints. A NATS server that is away does not keep the worker from being
    /// announced: frontends wait for the server as well.
    async fn serve_over_nats(&self, nats: &Nats) {
        let announcement = &self.announcement;
        let EndpointId { namespace, component, name } = &announcement.endpoint;
        let service = ServiceName::of(namespace, component);
        let endpoints = [name.clone(), announcement.query_endpoint()];
        for endpoint in &endpoints {
            let (subject, path) = (announcement.nats_subject(endpoint), announcement.path(endpoint));
            self.server.serve_over_nats(nats, &service, &subject, &path);
        }
        if !drained_within(NATS_WAIT, self.server.subscribed_over_nats(endpoints.len())).await {
            tracing::warn!(address = nats.address(), "announced before NATS is there; requests come once it is");
        }
    }

    async fn announce(&mut self) -> Result<(), DiscoveryError> {
        for record in self.announcement.records() {
            if let Err(error) = self.discovery.register(&record).await {
                self.withdraw().await;
                return Err(error);
            }
            self.keys.push(RecordKey::of(&record));
        }
        self.health.endpoint(&self.announcement.endpoint.name, true);
        self.health.set_ready();
        tracing::info!(
            model = self.announcement.card.display_name,
            instance_id = %self.announcement.instance_id,
            address = self.announcement.address,
            endpoint = %self.announcement.endpoint,
            "the worker is announced"
        );
        Ok(())
    }

    /// The worker's instance.
    pub fn instance_id(&self) -> InstanceId {
        self.announcement.instance_id
    }

    /// `HOST:PORT` of the request server, as announced.
    pub fn request_address(&self) -> &str {
        &self.announcement.address
    }

    /// Where `/health` and `/metrics` are, when asked for.
    pub fn system_address(&self) -> Option<SocketAddr> {
        self.system.as_ref().map(SystemServer::address)
    }

    /// What was announced, in order.
    pub fn records(&self) -> Vec<Record> {
        self.announcement.records()
    }

    /// The card, with its files where a frontend finds them.
    pub fn card(&self) -> &ModelCard {
        &self.announcement.card
    }

    /// The mirror of the engine's cache.
    pub fn mirror(&self) -> &Arc<Mutex<Mirror>> {
        &self.mirror
    }

    /// Serves until `shutdown` fires, then leaves: its records go first (the model's before all), new requests are
    /// refused, running streams have the drain's time, what runs still ends with an error that lets the caller go
    /// on elsewhere, and the engine stops last.
    ///
    /// # Errors
    /// [`WorkerError::EngineStopped`] when the engine ends by itself; the worker leaves discovery then too.
    pub async fn run_until(mut self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let died = tokio::select! {
            biased;
            () = shutdown.cancelled() => false,
            () = self.engine_ended.cancelled() => true,
        };
        self.health.set_draining();
        self.withdraw().await;
        self.server.stop_accepting();
        let running = self.server.running();
        if died {
            tracing::error!(running, "the engine stopped by itself; the worker leaves");
        } else {
            tracing::info!(running, "leaving: no new requests, running streams may end");
        }
        let grace = if died { FAREWELL } else { self.drain_timeout };
        if !drained_within(grace, self.server.drained()).await {
            tracing::warn!(running = self.server.running(), "the drain's time is over; the rest goes on elsewhere");
            self.halt.cancel();
            drained_within(FAREWELL, self.server.drained()).await;
        }
        self.engine.stop();
        // The last changes of the cache are of no use to a router that has dropped this worker; they are read to let
        // the engine end, and the engine is waited for so that nothing of it outlives this process.
        drained_within(ENGINE_END, self.engine_ended.cancelled()).await;
        self.tasks.shut_down(FAREWELL).await;
        if let Some(system) = self.system.take() {
            system.shut_down().await;
        }
        if died { Err(WorkerError::EngineStopped) } else { Ok(()) }
    }

    /// Takes the records back, the model's first. A record that stays expires by itself.
    async fn withdraw(&mut self) {
        for key in self.keys.drain(..).rev() {
            if let Err(error) = self.discovery.withdraw(&key).await {
                tracing::warn!(%error, key = key.name, "a record could not be withdrawn; it will expire");
            }
        }
    }
}

fn rank_of(worker_id: InstanceId) -> WorkerRank {
    WorkerRank { worker_id, dp_rank: 0 }
}

fn bind(what: &'static str) -> impl Fn(io::Error) -> WorkerError {
    move |source| WorkerError::Bind { what, source }
}

fn announced(publisher: &Publisher) -> AnnouncedPublisher {
    AnnouncedPublisher { id: publisher.id(), transport: publisher.transport() }
}

/// One publisher a topic, as the stock workers have it.
struct Publishers {
    kv_events: Publisher,
    kv_metrics: Publisher,
    active_sequences: Publisher,
}

impl Publishers {
    async fn bind(config: &WorkerConfig) -> Result<Self, WorkerError> {
        if let Some(nats) = &config.events_over {
            let scope = EventScope::Endpoint { endpoint: config.endpoint.clone() };
            let over = |topic| Publisher::over_nats(nats, &scope, topic).map_err(WorkerError::Subject);
            return Ok(Self {
                kv_events: over(KV_EVENTS)?,
                kv_metrics: over(KV_METRICS)?,
                active_sequences: over(ACTIVE_SEQUENCES_EVENTS)?,
            });
        }
        let advertised = config.event_advertise_host.clone();
        let advertised = advertised.unwrap_or_else(|| reachable(&config.event_host));
        let socket = async |topic| {
            let bound = Publisher::bind_in(config.world(), &config.event_host, &advertised, topic).await;
            bound.map_err(bind("event socket"))
        };
        Ok(Self {
            kv_events: socket(KV_EVENTS).await?,
            kv_metrics: socket(KV_METRICS).await?,
            active_sequences: socket(ACTIVE_SEQUENCES_EVENTS).await?,
        })
    }
}

impl Publishers {
    /// What each topic lost, and how the connection to NATS stands.
    fn at_scrape(&self, scope: &MetricsScope, nats: Option<&Nats>) -> EventsAtScrape {
        let publishers = [&self.kv_events, &self.kv_metrics, &self.active_sequences];
        let topics = publishers.map(|publisher| {
            let dropped: DropCount = Box::new(publisher.drop_count());
            (publisher.topic().to_owned(), dropped)
        });
        EventsAtScrape { scope: scope.clone(), topics: topics.into(), nats: nats.cloned() }
    }
}

/// A host that others can dial: the bound one, or this machine's address when all were bound.
fn reachable(host: &str) -> String {
    if matches!(host, "0.0.0.0" | "::" | "[::]" | "") { runtime::local_host().to_string() } else { host.into() }
}

/// Starts the system server when asked for, and moves the card's files behind it.
async fn start_system(
    config: &WorkerConfig,
    health: &Health,
    metrics: &Arc<WorkerMetrics>,
    server: &Arc<RequestServer>,
    discovery: &Discovery,
    announcement: &mut Announcement,
) -> Result<Option<SystemServer>, WorkerError> {
    let Some(system) = config.system.clone() else { return Ok(None) };
    let host = reachable(&system.host);
    let files = MetadataFiles::new();
    // A member of its own: the worker's records must not outlive the worker in here.
    let (metrics, server, store) = (metrics.clone(), server.clone(), discovery.member());
    let text = Arc::new(move || metrics.text(server.load(), store.health()));
    let started = SystemServer::start(system, health.clone(), text, files.clone()).await;
    let started = started.map_err(bind("system status server"))?;
    let base = format!("http://{}", SocketAddrText { host: &host, port: started.address().port() });
    let slug = announcement.card.slug.clone();
    card::move_files(&mut announcement.card, |path| {
        let url = files.publish(&config.endpoint, &slug, BASE_SUFFIX, path.to_owned())?;
        Some(format!("{base}{url}"))
    });
    Ok(Some(started))
}

/// `HOST:PORT`, with brackets around an IPv6 host.
struct SocketAddrText<'a> {
    host: &'a str,
    port: u16,
}

impl std::fmt::Display for SocketAddrText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        if bare.contains(':') { write!(f, "[{bare}]:{}", self.port) } else { write!(f, "{bare}:{}", self.port) }
    }
}
