//! What the frontend is told: every option of `dynamo.frontend` that applies, and ours.
//!
//! The door reads flags and environment and fills this; nothing here reads either.

pub use router::config::COPY_WEIGHT;
pub use router::{RouterConfig, RouterMode};
pub use runtime::nats::{NatsAuth, NatsConfig, NatsTls};
use runtime::world::World;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Port of the API, as stock.
pub const HTTP_PORT: u16 = 8000;
/// Port of the admin listener (status page, metrics) when the API is bound to an address that others reach.
pub const ADMIN_PORT: u16 = 8001;
/// Largest request body: `DYN_HTTP_BODY_LIMIT_MB`, as stock. A 128k-token chat is under 1 MB.
pub const BODY_LIMIT_MB: usize = 45;
/// Connections waiting to be accepted: `DYN_HTTP_LISTEN_BACKLOG`, as stock; a burst of 1000 clients fits.
pub const LISTEN_BACKLOG: u32 = 4096;
/// Open client connections. Each costs two small buffers, about 16 KiB, so this is about 128 MiB.
pub const CONNECTIONS_MAX: usize = 8192;
/// Requests that run at once. Past it a worker fleet of any size here is saturated and more only adds latency.
pub const CONCURRENT_REQUESTS_MAX: usize = 2048;
/// Requests that wait for a place; each holds its body, so the bound is also one of memory.
pub const QUEUED_REQUESTS_MAX: usize = 2048;
/// Longest wait for a place before 503.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(30);
/// A request that is not finished by then is ended: no stream is for ever.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest silence of a worker within a stream, its first token included: a 128k prefill on a CPU takes minutes.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest time for a client to send a head, from its first byte or the connection's start.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a kept connection between two requests. Longer than the 60 s after which the usual load balancers
/// let go of theirs: the side that may still send must be the one that closes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest time for a client to send its body once it began.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time in which a client takes nothing of an answer: its engine works for others meanwhile.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Longest wait of a request for a model that is known but has no worker at the moment: a worker that restarts is back
/// within it, and a client that waits longer is better told. Stock refuses at once.
pub const WORKER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Time for streams to finish at shutdown: `DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS`, as stock.
pub const GRACEFUL_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a broken stream goes on elsewhere. Stock has 0, which loses 11 answers a killed worker.
pub const MIGRATION_LIMIT: u32 = 3;
/// Bytes for the tokens of earlier prompts, a model: 8 million tokens, as of a thousand conversations of 8 k tokens that go
/// on. Filled as conversations come; a fifth of what stock's frontend takes at rest.
pub const TOKENIZER_CACHE_BYTES: usize = 32 << 20;
/// Status when every worker is full: `DYN_HTTP_OVERLOAD_STATUS_CODE`, as stock.
pub const OVERLOAD_STATUS: u16 = 529;

/// Everything the frontend is told. `Default` is a loopback frontend as `busbar up` starts it.
#[derive(Clone, Debug)]
pub struct FrontendConfig {
    /// Serve only workers of this namespace. `None`: of all.
    pub namespace: Option<String>,
    /// Serve only workers whose namespace begins so; several generations of a deployment share a prefix.
    pub namespace_prefix: Option<String>,
    /// Of the namespaces that begin so, only the prefix itself and worker generations of it (a hash behind a hyphen).
    pub namespace_prefix_strict: bool,
    /// Serve only this model name. `None`: every name that appears.
    pub model_name: Option<String>,
    /// A local folder with the model's files, tried after a card's URL or path fails.
    pub model_path: Option<PathBuf>,
    /// Where verified model files are kept. `None`: the system's temporary folder.
    pub model_cache: Option<PathBuf>,
    /// Tokens per block, when it should not be the card's.
    pub kv_cache_block_size: Option<u32>,
    /// The HTTP side.
    pub http: HttpConfig,
    /// Places, queue and deadlines.
    pub limits: LimitConfig,
    /// Choice of workers: the `--router-*` flags.
    pub router: RouterConfig,
    /// `--router-kv-events`: subscribe to the workers' caches.
    pub use_kv_events: bool,
    /// `--router-replica-sync`: tell other frontends what is booked here, and count what they tell. Costs nothing while
    /// there is no other.
    pub replica_sync: bool,
    /// Address on which other frontends are told; `None`: all addresses, and the first that is not loopback is told.
    pub event_host: Option<String>,
    /// `--router-min-initial-workers`: a model is not served before it has had so many workers.
    pub min_initial_workers: usize,
    /// How often a broken stream goes on elsewhere; `None` takes the larger of the card's and [`MIGRATION_LIMIT`].
    pub migration_limit: Option<u32>,
    /// No migration once prompt and answer have more tokens than this.
    pub migration_max_seq_len: Option<u32>,
    /// Address on which workers call back with answers; `None`: first address that is not loopback.
    pub response_host: Option<String>,
    /// Port on which workers call back; 0 is any.
    pub response_port: u16,
    /// Host that workers dial with answers; `None`: the one they call back on.
    pub response_advertise_host: Option<String>,
    /// The NATS server of workers that publish events or take requests over NATS. Dialled when the first such worker
    /// appears, or at once with `use_nats`.
    pub nats: NatsConfig,
    /// Connect to NATS at the start, so that a wrong address or password is told before any worker is there.
    pub use_nats: bool,
    /// Bytes for the tokens of earlier prompts, for each model; 0: every prompt is tokenized whole.
    pub tokenizer_cache_bytes: usize,
    /// Prefix of the HTTP metrics, in place of `dynamo_frontend`.
    pub metrics_prefix: Option<String>,
    /// Send usage in every stream: `DYN_ENABLE_FORCE_INCLUDE_USAGE`.
    pub force_include_usage: bool,
    /// Drop unknown request fields in place of refusing: `DYN_IGNORE_OPENAI_FE_UNSUPPORTED_FIELDS`.
    pub ignore_unsupported_fields: bool,
    /// Refuse `nvext`: `DYN_DISABLE_FRONTEND_NVEXT`.
    pub disable_nvext: bool,
    /// The machine that it runs on.
    pub world: World,
}

/// Sockets, keys and bind rules.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address of the API. Anything but loopback needs `api_keys_file` or `allow_open`.
    pub host: IpAddr,
    /// Port of the API; 0 is any.
    pub port: u16,
    /// Port of the admin listener on 127.0.0.1, used only when `host` is not loopback; 0 is any.
    pub admin_port: u16,
    /// `/metrics` is served at the API's address too, without a key.
    pub metrics_with_api: bool,
    /// File of API key hashes; see [`crate::keys`].
    pub api_keys_file: Option<PathBuf>,
    /// Serve without keys on an address that others reach. The explicit flag of the bind rule.
    pub allow_open: bool,
    /// Largest body, MB of 1024·1024 bytes.
    pub body_limit_mb: usize,
    /// Connections waiting to be accepted.
    pub listen_backlog: u32,
    /// Open client connections.
    pub connections_max: usize,
    /// Longest time for a head.
    pub header_read_timeout: Duration,
    /// Longest silence between two requests.
    pub idle_timeout: Duration,
    /// Longest time for a body.
    pub body_read_timeout: Duration,
    /// Longest time in which a client takes nothing of an answer.
    pub write_stall_max: Duration,
    /// Time for streams to finish at shutdown.
    pub graceful_shutdown_timeout: Duration,
    /// Comment lines in silent streams: `DYN_HTTP_SSE_KEEP_ALIVE_INTERVAL_MS`. `None`: none.
    pub sse_keep_alive: Option<Duration>,
    /// Status when every worker is full.
    pub overload_status: u16,
}

/// Places, queue and deadlines.
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Requests at once.
    pub concurrent_requests_max: usize,
    /// Requests that wait.
    pub queued_requests_max: usize,
    /// Longest wait.
    pub queue_wait_max: Duration,
    /// Longest life of a request.
    pub request_timeout: Duration,
    /// Longest silence of a worker.
    pub token_timeout: Duration,
    /// Longest wait for a worker of a known model, and how long the name of a model whose last worker left is known.
    pub worker_wait_max: Duration,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            namespace: None,
            namespace_prefix: None,
            namespace_prefix_strict: false,
            model_name: None,
            model_path: None,
            model_cache: None,
            kv_cache_block_size: None,
            http: HttpConfig::default(),
            limits: LimitConfig::default(),
            router: RouterConfig::default(),
            use_kv_events: true,
            replica_sync: true,
            event_host: None,
            min_initial_workers: 0,
            migration_limit: None,
            migration_max_seq_len: None,
            response_host: None,
            response_port: 0,
            response_advertise_host: None,
            nats: NatsConfig { client_name: "busbar frontend".into(), ..NatsConfig::default() },
            use_nats: false,
            tokenizer_cache_bytes: TOKENIZER_CACHE_BYTES,
            metrics_prefix: None,
            force_include_usage: false,
            ignore_unsupported_fields: false,
            disable_nvext: false,
            world: World::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: HTTP_PORT,
            admin_port: ADMIN_PORT,
            metrics_with_api: false,
            api_keys_file: None,
            allow_open: false,
            body_limit_mb: BODY_LIMIT_MB,
            listen_backlog: LISTEN_BACKLOG,
            connections_max: CONNECTIONS_MAX,
            header_read_timeout: HEADER_READ_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            body_read_timeout: BODY_READ_TIMEOUT,
            write_stall_max: WRITE_STALL_MAX,
            graceful_shutdown_timeout: GRACEFUL_SHUTDOWN_TIMEOUT,
            sse_keep_alive: None,
            overload_status: OVERLOAD_STATUS,
        }
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            concurrent_requests_max: CONCURRENT_REQUESTS_MAX,
            queued_requests_max: QUEUED_REQUESTS_MAX,
            queue_wait_max: QUEUE_WAIT_MAX,
            request_timeout: REQUEST_TIMEOUT,
            token_timeout: TOKEN_TIMEOUT,
            worker_wait_max: WORKER_WAIT_MAX,
        }
    }
}
