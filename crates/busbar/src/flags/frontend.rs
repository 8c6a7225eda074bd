//! Flags of a frontend: those of `dynamo.frontend` that apply, and ours.

use super::discovery::{DiscoveryBackend, EtcdFlags, KubernetesFlags};
use super::nats::{EventPlane, NatsFlags, RequestPlane};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use frontend::{FrontendConfig, HttpConfig, LimitConfig};
use router::{RouterConfig, RouterMode};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `busbar frontend` and `python3 -m dynamo.frontend`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FrontendFlags {
    /// Serve only workers of this Dynamo namespace; `dynamo` is all of them, and a prefix counts instead.
    #[arg(long, env = "DYN_NAMESPACE")]
    namespace: Option<String>,
    /// Serve only workers of this namespace and of those that go on behind it with a hyphen: the generations of one graph.
    #[arg(long, env = "DYN_NAMESPACE_PREFIX")]
    namespace_prefix: Option<String>,
    /// Of those, only the prefix itself and worker generations (a hash of 8 digits): not a graph whose name begins so.
    #[arg(long, env = "DYN_NAMESPACE_PREFIX_STRICT", value_parser = BoolishValueParser::new())]
    namespace_prefix_strict: bool,
    /// Address of the API. Any other than loopback needs --api-keys (or --allow-open).
    #[arg(long, env = "DYN_HTTP_HOST", default_value = "127.0.0.1")]
    http_host: IpAddr,
    /// Port of the API; 0 is any.
    #[arg(long, env = "DYN_HTTP_PORT", default_value_t = frontend::config::HTTP_PORT)]
    http_port: u16,
    /// Port on 127.0.0.1 of status page, metrics and debug routes when the API is bound elsewhere.
    #[arg(long, env = "BUSBAR_ADMIN_PORT", default_value_t = frontend::config::ADMIN_PORT)]
    admin_port: u16,
    /// Serve /metrics at the API's address too, without a key. A manifest's frontend in a pod does, as Dynamo's do.
    #[arg(long, env = "BUSBAR_METRICS_WITH_API", value_parser = BoolishValueParser::new())]
    metrics_with_api: bool,
    /// File of API key hashes; make one with `busbar keys add`.
    #[arg(long, value_name = "FILE", env = "BUSBAR_API_KEYS")]
    api_keys: Option<PathBuf>,
    /// Serve without keys on an address that others reach. Anyone who reaches it may use the model.
    #[arg(long, env = "BUSBAR_ALLOW_OPEN")]
    allow_open: bool,
    /// Serve only this model.
    #[arg(long, env = "DYN_MODEL_NAME")]
    model_name: Option<String>,
    /// Local folder with the model's tokenizer files, tried after those of the worker's card.
    #[arg(long, env = "DYN_MODEL_PATH")]
    model_path: Option<PathBuf>,
    /// Tokens per KV block; the worker's card tells when absent.
    #[arg(long, env = "DYN_KV_CACHE_BLOCK_SIZE")]
    kv_cache_block_size: Option<u32>,
    /// How often a broken stream goes on at another worker. Without it the larger of the card's limit and 3.
    #[arg(long, env = "DYN_MIGRATION_LIMIT")]
    migration_limit: Option<u32>,
    /// No migration once prompt and answer have more tokens than this.
    #[arg(long, env = "DYN_MIGRATION_MAX_SEQ_LEN")]
    migration_max_seq_len: Option<u32>,
    /// Prefix of the HTTP metrics, in place of dynamo_frontend.
    #[arg(long, env = "DYN_METRICS_PREFIX")]
    metrics_prefix: Option<String>,
    /// Where workers are found; `file` is a folder on this machine (DYN_FILE_KV).
    #[arg(long, env = "DYN_DISCOVERY_BACKEND", value_enum, default_value = "file")]
    pub(crate) discovery_backend: DiscoveryBackend,
    /// How requests travel. Each worker's record says how it is reached, whatever this says; nats connects at the start.
    #[arg(long, env = "DYN_REQUEST_PLANE", default_value = "tcp", value_enum)]
    request_plane: RequestPlane,
    /// How events travel. Each worker's record says where it is heard, whatever this says; nats connects at the start.
    #[arg(long, env = "DYN_EVENT_PLANE", default_value = "zmq", value_enum)]
    event_plane: EventPlane,
    /// Address on which workers call back with answers; the first that is not loopback when absent.
    #[arg(long, env = "DYN_TCP_RESPONSE_STREAM_HOST")]
    response_host: Option<String>,
    /// Address on which other frontends listen to what is booked here; all addresses when absent.
    #[arg(long, env = "DYN_EVENT_PLANE_HOST")]
    event_host: Option<String>,
    /// Port on which workers call back; 0 is any.
    #[arg(long, env = "DYN_TCP_RESPONSE_STREAM_PORT", default_value_t = 0)]
    response_port: u16,
    /// Host by which workers reach this frontend, where it is not an address that is bound here: a DNS name, or the
    /// address in front of a NAT. Ports stay the same.
    #[arg(long, value_name = "HOST", env = "BUSBAR_ADVERTISE_HOST")]
    advertise_host: Option<String>,
    /// Threads that read and write sockets; half as many as there are cores when absent. Templates and tokenizers have
    /// threads of their own.
    #[arg(long, value_name = "COUNT", env = "DYN_RUNTIME_NUM_WORKER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) io_threads: Option<u16>,
    #[command(flatten)]
    nats: NatsFlags,
    #[command(flatten)]
    router: RouterFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesFlags,
}

/// Flags of the router.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Router")]
struct RouterFlags {
    /// Rule by which a worker is chosen: round-robin, random, power-of-two, least-loaded, kv, direct.
    #[arg(long, env = "DYN_ROUTER_MODE", default_value_t = RouterMode::default())]
    router_mode: RouterMode,
    /// What a cached block is worth, 0 (ignore the cache) to 1.
    #[arg(
        long,
        env = "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT",
        alias = "router-kv-overlap-score-weight",
        alias = "kv-overlap-score-weight",
        default_value_t = 1.0
    )]
    router_kv_overlap_score_credit: f64,
    /// How fast that credit fades on a busier worker; 0 is never.
    #[arg(long, env = "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT_DECAY", default_value_t = 0.0)]
    router_kv_overlap_score_credit_decay: f64,
    /// Weight of prefill work against decode work.
    #[arg(long, env = "DYN_ROUTER_PREFILL_LOAD_SCALE", default_value_t = 1.0)]
    router_prefill_load_scale: f64,
    /// Blocks that every active request costs.
    #[arg(long, env = "DYN_ROUTER_DECODE_ACTIVE_REQUEST_WEIGHT", default_value_t = 0.0)]
    router_decode_active_request_weight: f64,
    /// What a cached block in host memory is worth.
    #[arg(long, env = "DYN_ROUTER_HOST_CACHE_HIT_WEIGHT", default_value_t = 0.75)]
    router_host_cache_hit_weight: f64,
    /// What a cached block on disk is worth.
    #[arg(long, env = "DYN_ROUTER_DISK_CACHE_HIT_WEIGHT", default_value_t = 0.25)]
    router_disk_cache_hit_weight: f64,
    /// What one more copy of a block that other workers hold costs, in blocks of prefill: keeps a conversation at its
    /// worker until that is saturated. 0 is Dynamo's formula.
    #[arg(long, env = "BUSBAR_ROUTER_COPY_WEIGHT", default_value_t = frontend::config::COPY_WEIGHT)]
    router_copy_weight: f64,
    /// 0 takes the cheapest worker; more spreads the choice.
    #[arg(long, env = "DYN_ROUTER_TEMPERATURE", default_value_t = 0.0)]
    router_temperature: f64,
    /// Follow the workers' KV events.
    #[arg(long, env = "DYN_ROUTER_USE_KV_EVENTS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    router_kv_events: bool,
    /// Do not follow the workers' KV events.
    #[arg(long, overrides_with = "router_kv_events")]
    no_router_kv_events: bool,
    /// Tell other frontends what is booked here and count what they tell; on unless switched off, for it costs nothing
    /// while there is no other.
    #[arg(long, env = "DYN_ROUTER_REPLICA_SYNC", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    router_replica_sync: bool,
    /// Do not share bookings with other frontends.
    #[arg(long, overrides_with = "router_replica_sync")]
    no_router_replica_sync: bool,
    /// Count blocks of active requests as load.
    #[arg(long, env = "DYN_ROUTER_TRACK_ACTIVE_BLOCKS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    router_track_active_blocks: bool,
    /// Count prompt tokens that are not computed yet as load.
    #[arg(long, env = "DYN_ROUTER_TRACK_PREFILL_TOKENS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    router_track_prefill_tokens: bool,
    /// A block that an active request has already costs nothing again.
    #[arg(long, env = "DYN_ROUTER_ASSUME_KV_REUSE", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    router_assume_kv_reuse: bool,
    /// Share of a worker's blocks above which it is busy.
    #[arg(long, env = "DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD")]
    active_decode_blocks_threshold: Option<f64>,
    /// Prompt tokens above which a worker is busy.
    #[arg(long, env = "DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD")]
    active_prefill_tokens_threshold: Option<u64>,
    /// The same, in multiples of the worker's tokens a step.
    #[arg(long, env = "DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD_FRAC")]
    active_prefill_tokens_threshold_frac: Option<f64>,
    /// Workers that a model must have had before it is listed.
    #[arg(long, env = "DYN_ROUTER_MIN_INITIAL_WORKERS", default_value_t = 0)]
    router_min_initial_workers: usize,
}

/// Limits and deadlines.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Largest request body, MiB.
    #[arg(long, env = "DYN_HTTP_BODY_LIMIT_MB", default_value_t = frontend::config::BODY_LIMIT_MB)]
    http_body_limit_mb: usize,
    /// Connections that may wait to be accepted.
    #[arg(long, env = "DYN_HTTP_LISTEN_BACKLOG", default_value_t = frontend::config::LISTEN_BACKLOG)]
    http_listen_backlog: u32,
    /// Open client connections.
    #[arg(long, env = "BUSBAR_CONNECTIONS_MAX", default_value_t = frontend::config::CONNECTIONS_MAX)]
    connections_max: usize,
    /// Requests at once.
    #[arg(long, env = "BUSBAR_CONCURRENT_REQUESTS_MAX", default_value_t = frontend::config::CONCURRENT_REQUESTS_MAX)]
    concurrent_requests_max: usize,
    /// Requests that may wait for a place; further ones get 429.
    #[arg(long, env = "BUSBAR_QUEUED_REQUESTS_MAX", default_value_t = frontend::config::QUEUED_REQUESTS_MAX)]
    queued_requests_max: usize,
    /// Longest wait for a place, seconds; 503 after it.
    #[arg(long, env = "BUSBAR_QUEUE_WAIT_SECS", default_value_t = 30.0)]
    queue_wait_secs: f64,
    /// Longest life of a request, seconds; 504 after it.
    #[arg(long, env = "BUSBAR_REQUEST_TIMEOUT_SECS", default_value_t = 600.0)]
    request_timeout_secs: f64,
    /// Longest silence of a worker within a stream, seconds.
    #[arg(long, env = "DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS", default_value_t = 300.0)]
    token_timeout_secs: f64,
    /// Longest wait of a request for a worker of a known model that has none at the moment, seconds; 503 after it.
    #[arg(long, env = "BUSBAR_WORKER_WAIT_SECS", default_value_t = 5.0)]
    worker_wait_secs: f64,
    /// How long streams may finish at shutdown, seconds.
    #[arg(long, env = "DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", default_value_t = 5.0)]
    graceful_shutdown_secs: f64,
    /// Comment lines in silent streams, milliseconds; none when absent.
    #[arg(long, env = "DYN_HTTP_SSE_KEEP_ALIVE_INTERVAL_MS")]
    sse_keep_alive_interval_ms: Option<u64>,
    /// HTTP status when every worker is full.
    #[arg(long, env = "DYN_HTTP_OVERLOAD_STATUS_CODE", default_value_t = frontend::config::OVERLOAD_STATUS)]
    overload_status_code: u16,
    /// Keep the tokens of earlier prompts, so that a conversation's next turn tokenizes only what is new.
    #[arg(long, env = "DYN_TOKENIZER_CACHE", default_value_t = true, value_parser = BoolishValueParser::new(), action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tokenizer_cache: bool,
    /// Memory for them, MiB for each model.
    #[arg(long, env = "BUSBAR_TOKENIZER_CACHE_MB", default_value_t = frontend::config::TOKENIZER_CACHE_BYTES >> 20)]
    tokenizer_cache_mb: usize,
    /// Send usage in every stream.
    #[arg(long, env = "DYN_ENABLE_FORCE_INCLUDE_USAGE")]
    force_include_usage: bool,
    /// Drop unknown request fields in place of refusing them.
    #[arg(long, env = "DYN_IGNORE_OPENAI_FE_UNSUPPORTED_FIELDS")]
    ignore_unsupported_fields: bool,
    /// Refuse nvext in requests.
    #[arg(long, env = "DYN_DISABLE_FRONTEND_NVEXT")]
    disable_nvext: bool,
}

impl FrontendFlags {
    /// What the flags mean.
    pub(crate) fn config(self) -> FrontendConfig {
        let (limits, router) = (self.limits, self.router);
        FrontendConfig {
            namespace: self.namespace,
            namespace_prefix: self.namespace_prefix,
            namespace_prefix_strict: self.namespace_prefix_strict,
            model_name: self.model_name,
            model_path: self.model_path,
            model_cache: None,
            kv_cache_block_size: self.kv_cache_block_size,
            http: HttpConfig {
                host: self.http_host,
                port: self.http_port,
                admin_port: self.admin_port,
                metrics_with_api: self.metrics_with_api,
                api_keys_file: self.api_keys,
                allow_open: self.allow_open,
                body_limit_mb: limits.http_body_limit_mb,
                listen_backlog: limits.http_listen_backlog,
                connections_max: limits.connections_max,
                graceful_shutdown_timeout: seconds(limits.graceful_shutdown_secs),
                sse_keep_alive: limits.sse_keep_alive_interval_ms.map(Duration::from_millis),
                overload_status: limits.overload_status_code,
                ..HttpConfig::default()
            },
            limits: LimitConfig {
                concurrent_requests_max: limits.concurrent_requests_max,
                queued_requests_max: limits.queued_requests_max,
                queue_wait_max: seconds(limits.queue_wait_secs),
                request_timeout: seconds(limits.request_timeout_secs),
                token_timeout: seconds(limits.token_timeout_secs),
                worker_wait_max: seconds(limits.worker_wait_secs),
            },
            min_initial_workers: router.router_min_initial_workers,
            use_kv_events: router.router_kv_events && !router.no_router_kv_events,
            replica_sync: router.router_replica_sync && !router.no_router_replica_sync,
            event_host: self.event_host,
            router: router.config(),
            migration_limit: self.migration_limit,
            migration_max_seq_len: self.migration_max_seq_len,
            response_host: self.response_host,
            response_port: self.response_port,
            response_advertise_host: self.advertise_host,
            nats: self.nats.config("busbar frontend"),
            use_nats: self.event_plane == EventPlane::Nats || self.request_plane == RequestPlane::Nats,
            tokenizer_cache_bytes: limits.tokenizer_cache_bytes(),
            metrics_prefix: self.metrics_prefix,
            force_include_usage: limits.force_include_usage,
            ignore_unsupported_fields: limits.ignore_unsupported_fields,
            disable_nvext: limits.disable_nvext,
            ..FrontendConfig::default()
        }
    }
}

impl LimitFlags {
    fn tokenizer_cache_bytes(&self) -> usize {
        if self.tokenizer_cache { self.tokenizer_cache_mb.saturating_mul(1 << 20) } else { 0 }
    }
}

impl RouterFlags {
    fn config(&self) -> RouterConfig {
        RouterConfig {
            mode: self.router_mode,
            overlap_score_credit: self.router_kv_overlap_score_credit,
            overlap_score_credit_decay: self.router_kv_overlap_score_credit_decay,
            prefill_load_scale: self.router_prefill_load_scale,
            decode_active_request_weight: self.router_decode_active_request_weight,
            host_cache_hit_weight: self.router_host_cache_hit_weight,
            disk_cache_hit_weight: self.router_disk_cache_hit_weight,
            copy_weight: self.router_copy_weight,
            temperature: self.router_temperature,
            track_prefill_tokens: self.router_track_prefill_tokens,
            track_active_blocks: self.router_track_active_blocks,
            assume_kv_reuse: self.router_assume_kv_reuse,
            active_decode_blocks_threshold: self.active_decode_blocks_threshold,
            active_prefill_tokens_threshold: self.active_prefill_tokens_threshold,
            active_prefill_tokens_threshold_frac: self.active_prefill_tokens_threshold_frac,
            ..RouterConfig::default()
        }
    }
}

/// Seconds of a flag; negative or absurd values become the nearest that a timer takes.
fn seconds(value: f64) -> Duration {
    const LONGEST: f64 = 365.0 * 86_400.0;
    Duration::from_secs_f64(if value.is_finite() { value.clamp(0.0, LONGEST) } else { LONGEST })
}
