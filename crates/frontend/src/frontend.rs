//! Start and stop of a whole frontend.

use crate::admission::Admission;
use crate::config::FrontendConfig;
use crate::dispatch::Dispatcher;
use crate::feed::Feeds;
use crate::key_ring::KeyRing;
use crate::keys::KeysError;
use crate::metrics::Metrics;
use crate::models::{Catalog, Watcher, WatcherParts};
use crate::replica::{OwnPublishers, Sharing};
use crate::server::{App, BodyRoom, Listener, OpenStreams, ServeLimits, Surface, TextThreads, routes};
use crate::status::RouteBoard;
use router::RouterMode;
use runtime::discovery::Discovery;
use runtime::nats::{Nats, NatsConfigError};
use runtime::request_plane::{RequestClient, RequestClientConfig};
use runtime::tasks::Tasks;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time for tasks to notice that they were cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// A running frontend. Dropping it cancels everything at once; [`Frontend::shutdown`] is the gentle way.
pub struct Frontend {
    address: SocketAddr,
    admin_address: SocketAddr,
    graceful: Duration,
    /// The member of discovery that announces this frontend to others.
    records: Discovery,
    draining: CancellationToken,
    stop_accepting: CancellationToken,
    listeners: Tasks,
    connections: Arc<Tasks>,
    background: Tasks,
    #[cfg(test)]
    app: Arc<App>,
}

/// Why a frontend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The bind rule.
    #[error(
        "the API would listen on {0}, which others can reach, without API keys; give a keys file \
         (`--api-keys`), or bind 127.0.0.1, or say `--allow-open` if that is what you mean"
    )]
    OpenWithoutKeys(IpAddr),
    /// The keys file.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A port that another program holds, or an address that is not this machine's.
    #[error("listen on {address} for the {what}: {source}")]
    Listen {
        /// `API` or `admin page`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// Where workers call back.
    #[error("listen for the workers' answers: {0}")]
    Responses(#[source] io::Error),
    /// Weights of the router, all that are wrong.
    #[error("the router's {0}")]
    Router(String),
    /// The settings of NATS.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Nats(#[from] NatsConfigError),
    /// The client that fetches model files.
    #[error("prepare to fetch model files: {0}")]
    Files(#[from] reqwest::Error),
}

/// Starts a frontend; resolves when it listens. Models appear as workers announce them.
///
/// # Errors
/// See [`FrontendError`]; nothing is left running.
pub async fn start(config: FrontendConfig, discovery: Discovery) -> Result<Frontend, FrontendError> {
    let keys = Arc::new(KeyRing::open(config.http.api_keys_file.as_deref())?);
    let open = !config.http.host.is_loopback();
    if open && !keys.required() && !config.http.allow_open {
        return Err(FrontendError::OpenWithoutKeys(config.http.host));
    }
    let wrong: Vec<String> = config.router.violations().iter().map(ToString::to_string).collect();
    if !wrong.is_empty() {
        return Err(FrontendError::Router(wrong.join("; ")));
    }
    let api = listen("API", SocketAddr::new(config.http.host, config.http.port), &config)?;
    let admin_at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), config.http.admin_port);
    let admin = if open { Some(listen("admin page", admin_at, &config)?) } else { None };
    let nats = Nats::new(&config.nats)?;
    if config.use_nats {
        nats.connect();
    }
    let client = RequestClient::start_with(response_config(&config), Some(nats.clone()))
        .await
        .map_err(FrontendError::Responses)?;

    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(config.world.random() >> 11, config.metrics_prefix.as_deref()));
    let catalog = Arc::new(Catalog::default());
    let board = Arc::new(RouteBoard::default());
    let follow_caches = config.use_kv_events && config.router.mode == RouterMode::Kv;
    let records = discovery.member();
    let sharing = shares_bookings(&config).then(|| Arc::new(sharing(&config, &metrics, &records)));
    let feeds = Feeds::new(client.clone(), metrics.clone(), catalog.clone(), nats.clone(), follow_caches);
    let watcher = Watcher::new(WatcherParts {
        config: config.clone(),
        discovery: discovery.clone(),
        catalog: catalog.clone(),
        metrics: metrics.clone(),
        client: client.clone(),
        feeds: match &sharing {
            Some(sharing) => feeds.with_bookings(sharing.own.clone()),
            None => feeds,
        },
        sharing,
        model_cache: config.model_cache.clone().unwrap_or_else(|| std::env::temp_dir().join("busbar-model-files")),
    })?;
    let background = Tasks::new();
    background.spawn("follow discovery", watcher.run());
    background.spawn("follow the keys file", keys.clone().follow());

    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let app = Arc::new(App {
        keys,
        admission: Admission::new(
            config.limits.concurrent_requests_max,
            config.limits.queued_requests_max,
            config.limits.queue_wait_max,
        ),
        catalog,
        dispatcher: Dispatcher::new(client, metrics.clone(), board.clone()),
        metrics,
        board,
        discovery,
        nats,
        text_threads: TextThreads::new(config.world.clone(), cores),
        open_streams: OpenStreams::default(),
        body_room: BodyRoom::default(),
        started: Instant::now(),
        draining: CancellationToken::new(),
        config,
    });
    Ok(serve(&app, api, admin, background, records))
}

/// Whether this frontend and others tell each other what they book: not where the choice does not look at load.
fn shares_bookings(config: &FrontendConfig) -> bool {
    let by_load = matches!(config.router.mode, RouterMode::Kv | RouterMode::LeastLoaded | RouterMode::PowerOfTwo);
    config.replica_sync && by_load
}

fn sharing(config: &FrontendConfig, metrics: &Arc<Metrics>, records: &Discovery) -> Sharing {
    let host = config.event_host.clone().unwrap_or_else(|| "0.0.0.0".into());
    let advertise_host = match &config.event_host {
        Some(host) => host.clone(),
        None => runtime::local_host().to_string(),
    };
    let (world, records, metrics) = (config.world.clone(), records.clone(), metrics.clone());
    Sharing { world, host, advertise_host, records, metrics, own: OwnPublishers::default() }
}

fn listen(what: &'static str, address: SocketAddr, config: &FrontendConfig) -> Result<Listener, FrontendError> {
    Listener::bind(&config.world, address, config.http.listen_backlog).map_err(|source| FrontendError::Listen {
        what,
        address,
        source,
    })
}

fn serve(app: &Arc<App>, api: Listener, admin: Option<Listener>, background: Tasks, records: Discovery) -> Frontend {
    let address = api.address();
    let admin_address = admin.as_ref().map_or(address, Listener::address);
    let (stop_accepting, connections, listeners) = (CancellationToken::new(), Arc::new(Tasks::new()), Tasks::new());
    let limits = ServeLimits::of(&app.config);
    let surface = match (&admin, app.config.http.metrics_with_api) {
        (None, _) => Surface::Everything,
        (Some(_), true) => Surface::ApiAndMetrics,
        (Some(_), false) => Surface::Api,
    };
    for (listener, surface) in [(Some(api), surface), (admin, Surface::Everything)] {
        let Some(listener) = listener else { continue };
        let routes = routes(app.clone(), surface);
        let serve = listener.serve(app.clone(), routes, limits.clone(), connections.clone(), stop_accepting.clone());
        listeners.spawn("http listener", serve);
    }
    let (graceful, draining) = (app.config.http.graceful_shutdown_timeout, app.draining.clone());
    Frontend {
        address,
        admin_address,
        graceful,
        records,
        draining,
        stop_accepting,
        listeners,
        connections,
        background,
        #[cfg(test)]
        app: app.clone(),
    }
}

fn response_config(config: &FrontendConfig) -> RequestClientConfig {
    let (response_port, world) = (config.response_port, config.world.clone());
    let mut client = RequestClientConfig { response_port, world, ..RequestClientConfig::default() };
    if let Some(host) = &config.response_host {
        client.response_host.clone_from(host);
        client.advertise_host = Some(host.clone());
    }
    if let Some(host) = &config.response_advertise_host {
        client.advertise_host = Some(host.clone());
    }
    client
}

impl Frontend {
    #[cfg(test)]
    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where status page and `/metrics` are: the API's own address on loopback, else the admin listener's.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops accepting, lets answers finish within the configured time, then cuts what is left.
    pub async fn shutdown(self) {
        self.draining.cancel();
        self.stop_accepting.cancel();
        self.listeners.idle().await;
        if tokio::time::timeout(self.graceful, self.connections.idle()).await.is_err() {
            let cut = self.connections.running();
            tracing::warn!(connections = cut, after_s = self.graceful.as_secs(), "answers are cut at shutdown");
            self.connections.shut_down(CANCEL_GRACE).await;
        }
        // Not before: what still ran was load that the others had to see.
        self.records.withdraw_all().await;
        self.background.shut_down(CANCEL_GRACE).await;
    }
}
