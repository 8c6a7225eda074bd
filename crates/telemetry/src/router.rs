//! `dynamo_component_router_*` and `dynamo_router_*`: the choice of a worker and its index.
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; names, help, labels and buckets are the stock ones.

use crate::{MetricKind, MetricSpec, buckets, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    INPUT_SEQUENCE_TOKENS,
    INTER_TOKEN_LATENCY_SECONDS,
    KV_BEST_ELIGIBLE_CACHED_PREFIX_TOKENS_TOTAL,
    KV_EVENT_SOURCE_MISMATCH_WORKERS,
    KV_HIT_RATE,
    KV_SELECTED_CACHED_PREFIX_TOKENS_TOTAL,
    KV_WORKER_REUSED_TOKENS_TOTAL,
    OUTPUT_SEQUENCE_TOKENS,
    REQUESTS_STARTED_TOTAL,
    REQUESTS_TOTAL,
    TIME_TO_FIRST_TOKEN_SECONDS,
    WORKER_REGISTERED,
    KV_CACHE_EVENTS_APPLIED,
    OVERHEAD_BLOCK_HASHING_MS,
    OVERHEAD_INDEXER_FIND_MATCHES_MS,
    OVERHEAD_SCHEDULING_MS,
    OVERHEAD_SEQ_HASHING_MS,
    OVERHEAD_TOTAL_MS,
];

/// `dynamo_component_router_input_sequence_tokens`: input sequence length in tokens observed at the router.
pub const INPUT_SEQUENCE_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_component_router_input_sequence_tokens",
    kind: MetricKind::Histogram(buckets::TOKENS_IN),
    help: "Input sequence length in tokens observed at the router",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::ROUTER_ID,
        labels::PHASE,
    ],
};

/// `dynamo_component_router_inter_token_latency_seconds`: average inter-token latency observed at the router.
pub const INTER_TOKEN_LATENCY_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_component_router_inter_token_latency_seconds",
    kind: MetricKind::Histogram(buckets::ROUTER_ITL_SECONDS),
    help: "Average inter-token latency observed at the router",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_kv_best_eligible_cached_prefix_tokens_total`: raw cached prefix tokens on the best eligible worker at selection time.
pub const KV_BEST_ELIGIBLE_CACHED_PREFIX_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_router_kv_best_eligible_cached_prefix_tokens_total",
    kind: MetricKind::Counter,
    help: "Raw cached prefix tokens on the best eligible worker at selection time",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::ROUTER_ID,
        labels::PHASE,
    ],
};

/// `dynamo_component_router_kv_event_source_mismatch_workers`: number of serving workers with missing or ambiguous KV sources, explicitly disabled KV event publishing, or without an expected RecoveryTarget.
pub const KV_EVENT_SOURCE_MISMATCH_WORKERS: MetricSpec = MetricSpec {
    name: "dynamo_component_router_kv_event_source_mismatch_workers",
    kind: MetricKind::Gauge,
    help: "Number of serving workers with missing or ambiguous KV sources, explicitly disabled KV event publishing, or without an expected RecoveryTarget",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::WORKER_TYPE,
        labels::TARGET_NAMESPACE,
        labels::TARGET_COMPONENT,
        labels::TARGET_ENDPOINT,
    ],
};

/// `dynamo_component_router_kv_hit_rate`: predicted KV cache hit rate at routing time (0.0-1.0).
pub const KV_HIT_RATE: MetricSpec = MetricSpec {
    name: "dynamo_component_router_kv_hit_rate",
    kind: MetricKind::Histogram(buckets::RATIO),
    help: "Predicted KV cache hit rate at routing time (0.0-1.0)",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_kv_selected_cached_prefix_tokens_total`: raw cached prefix tokens on the selected worker and DP rank.
pub const KV_SELECTED_CACHED_PREFIX_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_router_kv_selected_cached_prefix_tokens_total",
    kind: MetricKind::Counter,
    help: "Raw cached prefix tokens on the selected worker and DP rank",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::ROUTER_ID,
        labels::PHASE,
    ],
};

/// `dynamo_component_router_kv_worker_reused_tokens_total`: worker-reported reused tokens per routing attempt.
pub const KV_WORKER_REUSED_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_router_kv_worker_reused_tokens_total",
    kind: MetricKind::Counter,
    help: "Worker-reported reused tokens per routing attempt",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::ROUTER_ID,
        labels::PHASE,
    ],
};

/// `dynamo_component_router_output_sequence_tokens`: output sequence length in tokens observed at the router.
pub const OUTPUT_SEQUENCE_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_component_router_output_sequence_tokens",
    kind: MetricKind::Histogram(buckets::TOKENS_OUT),
    help: "Output sequence length in tokens observed at the router",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_requests_started_total`: total number of requests admitted by the router scheduler.
pub const REQUESTS_STARTED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_router_requests_started_total",
    kind: MetricKind::Counter,
    help: "Total number of requests admitted by the router scheduler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_requests_total`: total number of requests processed by the router.
pub const REQUESTS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_router_requests_total",
    kind: MetricKind::Counter,
    help: "Total number of requests processed by the router",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_time_to_first_token_seconds`: time to first token observed at the router.
pub const TIME_TO_FIRST_TOKEN_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_component_router_time_to_first_token_seconds",
    kind: MetricKind::Histogram(buckets::TTFT_SECONDS),
    help: "Time to first token observed at the router",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::ROUTER_ID],
};

/// `dynamo_component_router_worker_registered`: whether the router currently has this worker/dp_rank registered (1 = registered).
pub const WORKER_REGISTERED: MetricSpec = MetricSpec {
    name: "dynamo_component_router_worker_registered",
    kind: MetricKind::Gauge,
    help: "Whether the router currently has this worker/dp_rank registered (1 = registered)",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::WORKER_ID,
        labels::ROUTER_WORKER_ID,
        labels::DP_RANK,
        labels::WORKER_TYPE,
    ],
};

/// `dynamo_component_kv_cache_events_applied`: total number of KV cache events applied to index.
pub const KV_CACHE_EVENTS_APPLIED: MetricSpec = MetricSpec {
    name: "dynamo_component_kv_cache_events_applied",
    kind: MetricKind::Counter,
    help: "Total number of KV cache events applied to index",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::STATUS,
        labels::WORKER_ID,
        labels::EVENT_TYPE,
    ],
};

/// `dynamo_router_overhead_block_hashing_ms`: time spent computing block hashes in milliseconds.
pub const OVERHEAD_BLOCK_HASHING_MS: MetricSpec = MetricSpec {
    name: "dynamo_router_overhead_block_hashing_ms",
    kind: MetricKind::Histogram(buckets::HASHING_MS),
    help: "Time spent computing block hashes in milliseconds",
    labels: &[labels::ROUTER_ID],
};

/// `dynamo_router_overhead_indexer_find_matches_ms`: time spent in indexer find_matches in milliseconds.
pub const OVERHEAD_INDEXER_FIND_MATCHES_MS: MetricSpec = MetricSpec {
    name: "dynamo_router_overhead_indexer_find_matches_ms",
    kind: MetricKind::Histogram(buckets::ROUTING_MS),
    help: "Time spent in indexer find_matches in milliseconds",
    labels: &[labels::ROUTER_ID],
};

/// `dynamo_router_overhead_scheduling_ms`: time spent in scheduler worker selection in milliseconds.
pub const OVERHEAD_SCHEDULING_MS: MetricSpec = MetricSpec {
    name: "dynamo_router_overhead_scheduling_ms",
    kind: MetricKind::Histogram(buckets::ROUTING_MS),
    help: "Time spent in scheduler worker selection in milliseconds",
    labels: &[labels::ROUTER_ID],
};

/// `dynamo_router_overhead_seq_hashing_ms`: time spent computing sequence hashes in milliseconds.
pub const OVERHEAD_SEQ_HASHING_MS: MetricSpec = MetricSpec {
    name: "dynamo_router_overhead_seq_hashing_ms",
    kind: MetricKind::Histogram(buckets::HASHING_MS),
    help: "Time spent computing sequence hashes in milliseconds",
    labels: &[labels::ROUTER_ID],
};

/// `dynamo_router_overhead_total_ms`: total routing overhead per request in milliseconds.
pub const OVERHEAD_TOTAL_MS: MetricSpec = MetricSpec {
    name: "dynamo_router_overhead_total_ms",
    kind: MetricKind::Histogram(buckets::ROUTING_MS),
    help: "Total routing overhead per request in milliseconds",
    labels: &[labels::ROUTER_ID],
};
