//! `dynamo_frontend_worker_*` and `dynamo_frontend_router_*`: what the edge knows of workers and of its router queue.
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; names, help, labels and buckets are the stock ones.

use crate::{MetricKind, MetricSpec, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    WORKER_ACTIVE_DECODE_BLOCKS,
    WORKER_ACTIVE_PREFILL_TOKENS,
    WORKER_LAST_INPUT_SEQUENCE_TOKENS,
    WORKER_LAST_INTER_TOKEN_LATENCY_SECONDS,
    WORKER_LAST_TIME_TO_FIRST_TOKEN_SECONDS,
    ROUTER_ADMISSION_RECEIVED_TOTAL,
    ROUTER_ADMISSION_REJECTED_TOTAL,
    ROUTER_QUEUE_BACKPRESSURE_TOTAL,
    ROUTER_QUEUE_PENDING_CACHED_TOKENS,
    ROUTER_QUEUE_PENDING_ISL_TOKENS,
    ROUTER_QUEUE_PENDING_REQUESTS,
];

/// `dynamo_frontend_worker_active_decode_blocks`: active KV cache decode blocks per worker.
pub const WORKER_ACTIVE_DECODE_BLOCKS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_worker_active_decode_blocks",
    kind: MetricKind::Gauge,
    help: "Active KV cache decode blocks per worker",
    labels: &[labels::WORKER_ID, labels::DP_RANK, labels::WORKER_TYPE],
};

/// `dynamo_frontend_worker_active_prefill_tokens`: active prefill tokens queued per worker.
pub const WORKER_ACTIVE_PREFILL_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_worker_active_prefill_tokens",
    kind: MetricKind::Gauge,
    help: "Active prefill tokens queued per worker",
    labels: &[labels::WORKER_ID, labels::DP_RANK, labels::WORKER_TYPE],
};

/// `dynamo_frontend_worker_last_input_sequence_tokens`: last observed input sequence tokens per worker.
pub const WORKER_LAST_INPUT_SEQUENCE_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_worker_last_input_sequence_tokens",
    kind: MetricKind::Gauge,
    help: "Last observed input sequence tokens per worker",
    labels: &[labels::WORKER_ID, labels::DP_RANK, labels::WORKER_TYPE],
};

/// `dynamo_frontend_worker_last_inter_token_latency_seconds`: last observed inter-token latency per worker (seconds).
pub const WORKER_LAST_INTER_TOKEN_LATENCY_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_worker_last_inter_token_latency_seconds",
    kind: MetricKind::Gauge,
    help: "Last observed inter-token latency per worker (seconds)",
    labels: &[labels::WORKER_ID, labels::DP_RANK, labels::WORKER_TYPE],
};

/// `dynamo_frontend_worker_last_time_to_first_token_seconds`: last observed time to first token per worker (seconds).
pub const WORKER_LAST_TIME_TO_FIRST_TOKEN_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_worker_last_time_to_first_token_seconds",
    kind: MetricKind::Gauge,
    help: "Last observed time to first token per worker (seconds)",
    labels: &[labels::WORKER_ID, labels::DP_RANK, labels::WORKER_TYPE],
};

/// `dynamo_frontend_router_admission_received_total`: total attempts received by router admission; includes retries and excludes advisory probes.
pub const ROUTER_ADMISSION_RECEIVED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_admission_received_total",
    kind: MetricKind::Counter,
    help: "Total attempts received by router admission; includes retries and excludes advisory probes",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS],
};

/// `dynamo_frontend_router_admission_rejected_total`: total router admission rejections by deadline reason.
pub const ROUTER_ADMISSION_REJECTED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_admission_rejected_total",
    kind: MetricKind::Counter,
    help: "Total router admission rejections by deadline reason",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS, labels::REASON],
};

/// `dynamo_frontend_router_queue_backpressure_total`: total number of router scheduler queue backpressure rejections.
pub const ROUTER_QUEUE_BACKPRESSURE_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_queue_backpressure_total",
    kind: MetricKind::Counter,
    help: "Total number of router scheduler queue backpressure rejections",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS, labels::REASON],
};

/// `dynamo_frontend_router_queue_pending_cached_tokens`: estimated cached tokens for requests pending in the router scheduler queue.
pub const ROUTER_QUEUE_PENDING_CACHED_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_queue_pending_cached_tokens",
    kind: MetricKind::Gauge,
    help: "Estimated cached tokens for requests pending in the router scheduler queue",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS],
};

/// `dynamo_frontend_router_queue_pending_isl_tokens`: sum of isl_tokens for requests pending in the router scheduler queue.
pub const ROUTER_QUEUE_PENDING_ISL_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_queue_pending_isl_tokens",
    kind: MetricKind::Gauge,
    help: "Sum of isl_tokens for requests pending in the router scheduler queue",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS],
};

/// `dynamo_frontend_router_queue_pending_requests`: number of requests pending in the router scheduler queue.
pub const ROUTER_QUEUE_PENDING_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_router_queue_pending_requests",
    kind: MetricKind::Gauge,
    help: "Number of requests pending in the router scheduler queue",
    labels: &[labels::MODEL, labels::WORKER_TYPE, labels::POLICY_CLASS],
};
