//! `dynamo_component_*`: one worker, on its system port. `worker_id` is lower-case hex here.
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; names, help, labels and buckets are the stock ones.

use crate::{MetricKind, MetricSpec, buckets, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    CANCELLATION_TOTAL,
    ERRORS_TOTAL,
    INFLIGHT_REQUESTS,
    KV_PUBLISHER_ENGINES_DROPPED_EVENTS_TOTAL,
    REQUEST_BYTES_TOTAL,
    REQUEST_DURATION_SECONDS,
    REQUESTS_TOTAL,
    RESPONSE_BYTES_TOTAL,
    UPTIME_SECONDS,
    TOTAL_BLOCKS,
    GPU_CACHE_USAGE_PERCENT,
    KV_CACHE_HIT_RATE,
    MODEL_LOAD_TIME_SECONDS,
];

/// `dynamo_component_cancellation_total`: total number of requests cancelled by work handler.
pub const CANCELLATION_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_cancellation_total",
    kind: MetricKind::Counter,
    help: "Total number of requests cancelled by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_errors_total`: total number of errors in work handler processing.
pub const ERRORS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_errors_total",
    kind: MetricKind::Counter,
    help: "Total number of errors in work handler processing",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::DYNAMO_ENDPOINT,
        labels::ERROR_TYPE,
        labels::WORKER_ID,
    ],
};

/// `dynamo_component_inflight_requests`: number of requests currently being processed by work handler.
pub const INFLIGHT_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_component_inflight_requests",
    kind: MetricKind::Gauge,
    help: "Number of requests currently being processed by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_kv_publisher_engines_dropped_events_total`: total number of raw events dropped by engines before reaching publisher (detected via event_id gaps).
pub const KV_PUBLISHER_ENGINES_DROPPED_EVENTS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_kv_publisher_engines_dropped_events_total",
    kind: MetricKind::Counter,
    help: "Total number of raw events dropped by engines before reaching publisher (detected via event_id gaps)",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID],
};

/// `dynamo_component_request_bytes_total`: total number of bytes received in requests by work handler.
pub const REQUEST_BYTES_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_request_bytes_total",
    kind: MetricKind::Counter,
    help: "Total number of bytes received in requests by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_request_duration_seconds`: time spent processing requests by work handler.
pub const REQUEST_DURATION_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_component_request_duration_seconds",
    kind: MetricKind::Histogram(buckets::HANDLER_SECONDS),
    help: "Time spent processing requests by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_requests_total`: total number of requests processed by work handler.
pub const REQUESTS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_requests_total",
    kind: MetricKind::Counter,
    help: "Total number of requests processed by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_response_bytes_total`: total number of bytes sent in responses by work handler.
pub const RESPONSE_BYTES_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_component_response_bytes_total",
    kind: MetricKind::Counter,
    help: "Total number of bytes sent in responses by work handler",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::DYNAMO_ENDPOINT, labels::WORKER_ID],
};

/// `dynamo_component_uptime_seconds`: total uptime of the DistributedRuntime in seconds.
pub const UPTIME_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_component_uptime_seconds",
    kind: MetricKind::Gauge,
    help: "Total uptime of the DistributedRuntime in seconds",
    labels: &[labels::WORKER_ID],
};

/// `dynamo_component_total_blocks`: total number of KV cache blocks of this worker.
pub const TOTAL_BLOCKS: MetricSpec = MetricSpec {
    name: "dynamo_component_total_blocks",
    kind: MetricKind::Gauge,
    help: "Total number of KV cache blocks of this worker",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::DYNAMO_ENDPOINT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::DP_RANK,
    ],
};

/// `dynamo_component_gpu_cache_usage_percent`: share of the KV cache blocks in use (0.0-1.0).
pub const GPU_CACHE_USAGE_PERCENT: MetricSpec = MetricSpec {
    name: "dynamo_component_gpu_cache_usage_percent",
    kind: MetricKind::Gauge,
    help: "Share of the KV cache blocks in use (0.0-1.0)",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::DYNAMO_ENDPOINT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::DP_RANK,
    ],
};

/// `dynamo_component_kv_cache_hit_rate`: share of prompt tokens found in the prefix cache since the start (0.0-1.0).
pub const KV_CACHE_HIT_RATE: MetricSpec = MetricSpec {
    name: "dynamo_component_kv_cache_hit_rate",
    kind: MetricKind::Gauge,
    help: "Share of prompt tokens found in the prefix cache since the start (0.0-1.0)",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::DYNAMO_ENDPOINT,
        labels::MODEL,
        labels::WORKER_ID,
        labels::DP_RANK,
    ],
};

/// `dynamo_component_model_load_time_seconds`: time from process start until the model was loaded (seconds).
pub const MODEL_LOAD_TIME_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_component_model_load_time_seconds",
    kind: MetricKind::Gauge,
    help: "Time from process start until the model was loaded (seconds)",
    labels: &[
        labels::DYNAMO_NAMESPACE,
        labels::DYNAMO_COMPONENT,
        labels::DYNAMO_ENDPOINT,
        labels::MODEL,
        labels::WORKER_ID,
    ],
};
