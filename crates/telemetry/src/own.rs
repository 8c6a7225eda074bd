//! `busbar_*`: what Dynamo has no name for.

use crate::{MetricKind, MetricSpec, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    BUILD_INFO,
    DISCOVERY_CONNECTED,
    DISCOVERY_INTERRUPTIONS_TOTAL,
    DISCOVERY_LEASES_LOST_TOTAL,
    ENGINE_INFO,
    ENGINE_RUNNING_SEQUENCES,
    ENGINE_WAITING_SEQUENCES,
    ENGINE_KV_USED_BLOCKS,
    ENGINE_ACTIVE_DECODE_BLOCKS,
    ENGINE_ACTIVE_PREFILL_TOKENS,
    ENGINE_PREFIX_QUERY_TOKENS_TOTAL,
    ENGINE_PREFIX_HIT_TOKENS_TOTAL,
    ENGINE_PROMPT_TOKENS_TOTAL,
    ENGINE_GENERATION_TOKENS_TOTAL,
    ENGINE_PREEMPTIONS_TOTAL,
    ENGINE_CANCELLED_TOTAL,
    FRONTEND_REQUESTS_BY_KEY_TOTAL,
    FRONTEND_TOKENS_BY_KEY_TOTAL,
    FRONTEND_AUTH_FAILURES_TOTAL,
    FRONTEND_ADMISSION_REJECTED_TOTAL,
    FRONTEND_RETRIES_REFUSED_TOTAL,
    FRONTEND_POISON_REFUSED_TOTAL,
    FRONTEND_WORKER_KV_USED_BLOCKS,
    FRONTEND_WORKER_KV_TOTAL_BLOCKS,
    ROUTER_PLACEMENTS_TOTAL,
    ROUTER_CACHED_TOKENS_TOTAL,
    ROUTER_PROMPT_TOKENS_TOTAL,
    ROUTER_INDEX_BYTES,
    ROUTER_INDEX_BLOCKS,
    ROUTER_INDEX_EVICTED_BLOCKS_TOTAL,
    ROUTER_INDEX_GAPS_TOTAL,
    ROUTER_REMOTE_BOOKINGS,
    ROUTER_BOOKINGS_UNTOLD_TOTAL,
];

/// `busbar_build_info`: always 1; the version of this binary is in its label.
pub const BUILD_INFO: MetricSpec = MetricSpec {
    name: "busbar_build_info",
    kind: MetricKind::Gauge,
    help: "Always 1; the version of this binary is in its label",
    labels: &[labels::VERSION],
};

/// `busbar_discovery_connected`: 1 while the discovery store tells of changes, 0 while the last known workers are served.
pub const DISCOVERY_CONNECTED: MetricSpec = MetricSpec {
    name: "busbar_discovery_connected",
    kind: MetricKind::Gauge,
    help: "1 while the discovery store tells of changes, 0 while the last known workers are served",
    labels: &[],
};

/// `busbar_discovery_interruptions_total`: times that the discovery store stopped to tell of changes.
pub const DISCOVERY_INTERRUPTIONS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_discovery_interruptions_total",
    kind: MetricKind::Counter,
    help: "Times that the discovery store stopped to tell of changes",
    labels: &[],
};

/// `busbar_discovery_leases_lost_total`: times that the store dropped the records of this process while it lived.
pub const DISCOVERY_LEASES_LOST_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_discovery_leases_lost_total",
    kind: MetricKind::Counter,
    help: "Times that the store dropped the records of this process while it lived",
    labels: &[],
};

/// `busbar_engine_info`: always 1; the kind of engine is in its label.
pub const ENGINE_INFO: MetricSpec = MetricSpec {
    name: "busbar_engine_info",
    kind: MetricKind::Gauge,
    help: "Always 1; the kind of engine is in its label",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::MODEL, labels::ENGINE],
};

/// `busbar_engine_running_sequences`: sequences that prefill or decode at this moment.
pub const ENGINE_RUNNING_SEQUENCES: MetricSpec = MetricSpec {
    name: "busbar_engine_running_sequences",
    kind: MetricKind::Gauge,
    help: "Sequences that prefill or decode at this moment",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_waiting_sequences`: sequences that wait for a place.
pub const ENGINE_WAITING_SEQUENCES: MetricSpec = MetricSpec {
    name: "busbar_engine_waiting_sequences",
    kind: MetricKind::Gauge,
    help: "Sequences that wait for a place",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_kv_used_blocks`: KV blocks in use, cached ones included.
pub const ENGINE_KV_USED_BLOCKS: MetricSpec = MetricSpec {
    name: "busbar_engine_kv_used_blocks",
    kind: MetricKind::Gauge,
    help: "KV blocks in use, cached ones included",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_active_decode_blocks`: KV blocks of running sequences.
pub const ENGINE_ACTIVE_DECODE_BLOCKS: MetricSpec = MetricSpec {
    name: "busbar_engine_active_decode_blocks",
    kind: MetricKind::Gauge,
    help: "KV blocks of running sequences",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_active_prefill_tokens`: prompt tokens accepted and not yet computed.
pub const ENGINE_ACTIVE_PREFILL_TOKENS: MetricSpec = MetricSpec {
    name: "busbar_engine_active_prefill_tokens",
    kind: MetricKind::Gauge,
    help: "Prompt tokens accepted and not yet computed",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_prefix_query_tokens_total`: prompt tokens looked up in the prefix cache.
pub const ENGINE_PREFIX_QUERY_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_prefix_query_tokens_total",
    kind: MetricKind::Counter,
    help: "Prompt tokens looked up in the prefix cache",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_prefix_hit_tokens_total`: prompt tokens found in the prefix cache.
pub const ENGINE_PREFIX_HIT_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_prefix_hit_tokens_total",
    kind: MetricKind::Counter,
    help: "Prompt tokens found in the prefix cache",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_prompt_tokens_total`: prompt tokens accepted.
pub const ENGINE_PROMPT_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_prompt_tokens_total",
    kind: MetricKind::Counter,
    help: "Prompt tokens accepted",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_generation_tokens_total`: tokens made.
pub const ENGINE_GENERATION_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_generation_tokens_total",
    kind: MetricKind::Counter,
    help: "Tokens made",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_preemptions_total`: sequences preempted for lack of KV blocks.
pub const ENGINE_PREEMPTIONS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_preemptions_total",
    kind: MetricKind::Counter,
    help: "Sequences preempted for lack of KV blocks",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_engine_cancelled_total`: sequences cancelled by their caller.
pub const ENGINE_CANCELLED_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_engine_cancelled_total",
    kind: MetricKind::Counter,
    help: "Sequences cancelled by their caller",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::DP_RANK, labels::MODEL],
};

/// `busbar_frontend_requests_by_key_total`: requests by the name of their API key.
pub const FRONTEND_REQUESTS_BY_KEY_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_requests_by_key_total",
    kind: MetricKind::Counter,
    help: "Requests by the name of their API key",
    labels: &[labels::KEY, labels::MODEL],
};

/// `busbar_frontend_tokens_by_key_total`: prompt and output tokens by the name of their API key.
pub const FRONTEND_TOKENS_BY_KEY_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_tokens_by_key_total",
    kind: MetricKind::Counter,
    help: "Prompt and output tokens by the name of their API key",
    labels: &[labels::KEY, labels::MODEL],
};

/// `busbar_frontend_auth_failures_total`: requests refused for a missing or wrong API key.
pub const FRONTEND_AUTH_FAILURES_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_auth_failures_total",
    kind: MetricKind::Counter,
    help: "Requests refused for a missing or wrong API key",
    labels: &[labels::REASON],
};

/// `busbar_frontend_admission_rejected_total`: requests refused at the door, by the limit that refused them.
pub const FRONTEND_ADMISSION_REJECTED_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_admission_rejected_total",
    kind: MetricKind::Counter,
    help: "Requests refused at the door, by the limit that refused them",
    labels: &[labels::REASON],
};

/// `busbar_frontend_retries_refused_total`: requests not tried at another worker because too many were already.
pub const FRONTEND_RETRIES_REFUSED_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_retries_refused_total",
    kind: MetricKind::Counter,
    help: "Requests not tried at another worker because too many were already",
    labels: &[labels::MODEL],
};

/// `busbar_frontend_poison_refused_total`: requests refused because workers died while they ran them.
pub const FRONTEND_POISON_REFUSED_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_frontend_poison_refused_total",
    kind: MetricKind::Counter,
    help: "Requests refused because workers died while they ran them",
    labels: &[labels::MODEL],
};

/// `busbar_frontend_worker_kv_used_blocks`: KV blocks in use on a worker, cached ones included, as it last told.
pub const FRONTEND_WORKER_KV_USED_BLOCKS: MetricSpec = MetricSpec {
    name: "busbar_frontend_worker_kv_used_blocks",
    kind: MetricKind::Gauge,
    help: "KV blocks in use on a worker, cached ones included, as it last told",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_frontend_worker_kv_total_blocks`: KV blocks that a worker has, by its model card.
pub const FRONTEND_WORKER_KV_TOTAL_BLOCKS: MetricSpec = MetricSpec {
    name: "busbar_frontend_worker_kv_total_blocks",
    kind: MetricKind::Gauge,
    help: "KV blocks that a worker has, by its model card",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_router_placements_total`: requests placed on a worker.
pub const ROUTER_PLACEMENTS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_placements_total",
    kind: MetricKind::Counter,
    help: "Requests placed on a worker",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK, labels::MODE],
};

/// `busbar_router_cached_tokens_total`: prompt tokens that the chosen worker had in its cache, by the index.
pub const ROUTER_CACHED_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_cached_tokens_total",
    kind: MetricKind::Counter,
    help: "Prompt tokens that the chosen worker had in its cache, by the index",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_router_prompt_tokens_total`: prompt tokens placed on a worker.
pub const ROUTER_PROMPT_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_prompt_tokens_total",
    kind: MetricKind::Counter,
    help: "Prompt tokens placed on a worker",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_router_index_bytes`: memory of the prefix index, bytes.
pub const ROUTER_INDEX_BYTES: MetricSpec = MetricSpec {
    name: "busbar_router_index_bytes",
    kind: MetricKind::Gauge,
    help: "Memory of the prefix index, bytes",
    labels: &[labels::MODEL],
};

/// `busbar_router_index_blocks`: blocks in the prefix index, counted once per worker rank that holds them.
pub const ROUTER_INDEX_BLOCKS: MetricSpec = MetricSpec {
    name: "busbar_router_index_blocks",
    kind: MetricKind::Gauge,
    help: "Blocks in the prefix index, counted once per worker rank that holds them",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_router_index_evicted_blocks_total`: blocks that the prefix index forgot to stay under its byte cap.
pub const ROUTER_INDEX_EVICTED_BLOCKS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_index_evicted_blocks_total",
    kind: MetricKind::Counter,
    help: "Blocks that the prefix index forgot to stay under its byte cap",
    labels: &[labels::MODEL],
};

/// `busbar_router_index_gaps_total`: holes found in the numbers of KV events.
pub const ROUTER_INDEX_GAPS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_index_gaps_total",
    kind: MetricKind::Counter,
    help: "Holes found in the numbers of KV events",
    labels: &[labels::MODEL, labels::WORKER_ID, labels::DP_RANK],
};

/// `busbar_router_remote_bookings`: requests of other frontends that count as load here.
pub const ROUTER_REMOTE_BOOKINGS: MetricSpec = MetricSpec {
    name: "busbar_router_remote_bookings",
    kind: MetricKind::Gauge,
    help: "Requests of other frontends that count as load here",
    labels: &[labels::MODEL],
};

/// `busbar_router_bookings_untold_total`: bookings that the other frontends were not told of, for lack of room.
pub const ROUTER_BOOKINGS_UNTOLD_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_router_bookings_untold_total",
    kind: MetricKind::Counter,
    help: "Bookings that the other frontends were not told of, for lack of room",
    labels: &[labels::MODEL],
};
