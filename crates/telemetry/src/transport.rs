//! `dynamo_request_plane_*`, `dynamo_transport_*` (the frontend's side) and `dynamo_work_handler_*` (the worker's side).
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; names, help, labels and buckets are the stock ones.

use crate::{MetricKind, MetricSpec, buckets};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    REQUEST_PLANE_INFLIGHT_REQUESTS,
    REQUEST_PLANE_QUEUE_SECONDS,
    REQUEST_PLANE_ROUNDTRIP_TTFT_SECONDS,
    REQUEST_PLANE_SEND_SECONDS,
    TRANSPORT_TCP_ACCEPT_BACKOFF_TOTAL,
    TRANSPORT_TCP_BYTES_RECEIVED_TOTAL,
    TRANSPORT_TCP_BYTES_SENT_TOTAL,
    TRANSPORT_TCP_ERRORS_TOTAL,
    WORK_HANDLER_ENQUEUE_REJECTED_TOTAL,
    WORK_HANDLER_NETWORK_TRANSIT_SECONDS,
    WORK_HANDLER_PERMIT_WAIT_SECONDS,
    WORK_HANDLER_POOL_ACTIVE_TASKS,
    WORK_HANDLER_POOL_CAPACITY,
    WORK_HANDLER_QUEUE_CAPACITY,
    WORK_HANDLER_QUEUE_DEPTH,
    WORK_HANDLER_TIME_TO_FIRST_RESPONSE_SECONDS,
];

/// `dynamo_request_plane_inflight_requests`: currently in-flight requests at AddressedPushRouter.
pub const REQUEST_PLANE_INFLIGHT_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_request_plane_inflight_requests",
    kind: MetricKind::Gauge,
    help: "Currently in-flight requests at AddressedPushRouter",
    labels: &[],
};

/// `dynamo_request_plane_queue_seconds`: time from generate() entry to send_request() (seconds).
pub const REQUEST_PLANE_QUEUE_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_request_plane_queue_seconds",
    kind: MetricKind::Histogram(buckets::SHORT_SECONDS),
    help: "Time from generate() entry to send_request() (seconds)",
    labels: &[],
};

/// `dynamo_request_plane_roundtrip_ttft_seconds`: time from send_request() to first response item (seconds).
pub const REQUEST_PLANE_ROUNDTRIP_TTFT_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_request_plane_roundtrip_ttft_seconds",
    kind: MetricKind::Histogram(buckets::ROUNDTRIP_SECONDS),
    help: "Time from send_request() to first response item (seconds)",
    labels: &[],
};

/// `dynamo_request_plane_send_seconds`: time for send_request() to complete (seconds).
pub const REQUEST_PLANE_SEND_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_request_plane_send_seconds",
    kind: MetricKind::Histogram(buckets::SHORT_SECONDS),
    help: "Time for send_request() to complete (seconds)",
    labels: &[],
};

/// `dynamo_transport_tcp_accept_backoff_total`: total TCP response-server accept failures caused by descriptor or memory exhaustion.
pub const TRANSPORT_TCP_ACCEPT_BACKOFF_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_transport_tcp_accept_backoff_total",
    kind: MetricKind::Counter,
    help: "Total TCP response-server accept failures caused by descriptor or memory exhaustion",
    labels: &[],
};

/// `dynamo_transport_tcp_bytes_received_total`: total bytes received by TCP request client.
pub const TRANSPORT_TCP_BYTES_RECEIVED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_transport_tcp_bytes_received_total",
    kind: MetricKind::Counter,
    help: "Total bytes received by TCP request client",
    labels: &[],
};

/// `dynamo_transport_tcp_bytes_sent_total`: total bytes sent by TCP request client.
pub const TRANSPORT_TCP_BYTES_SENT_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_transport_tcp_bytes_sent_total",
    kind: MetricKind::Counter,
    help: "Total bytes sent by TCP request client",
    labels: &[],
};

/// `dynamo_transport_tcp_errors_total`: total TCP request errors (send failure or timeout).
pub const TRANSPORT_TCP_ERRORS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_transport_tcp_errors_total",
    kind: MetricKind::Counter,
    help: "Total TCP request errors (send failure or timeout)",
    labels: &[],
};

/// `dynamo_work_handler_enqueue_rejected_total`: times enqueuing work failed because the dispatcher channel was closed.
pub const WORK_HANDLER_ENQUEUE_REJECTED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_enqueue_rejected_total",
    kind: MetricKind::Counter,
    help: "Times enqueuing work failed because the dispatcher channel was closed",
    labels: &[],
};

/// `dynamo_work_handler_network_transit_seconds`: frontend-to-backend network transit time (cross-process wall-clock, seconds).
pub const WORK_HANDLER_NETWORK_TRANSIT_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_network_transit_seconds",
    kind: MetricKind::Histogram(buckets::SHORT_SECONDS),
    help: "Frontend-to-backend network transit time (cross-process wall-clock, seconds)",
    labels: &[],
};

/// `dynamo_work_handler_permit_wait_seconds`: time spent waiting for a worker-pool permit (seconds).
pub const WORK_HANDLER_PERMIT_WAIT_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_permit_wait_seconds",
    kind: MetricKind::Histogram(buckets::PERMIT_SECONDS),
    help: "Time spent waiting for a worker-pool permit (seconds)",
    labels: &[],
};

/// `dynamo_work_handler_pool_active_tasks`: current number of active worker-pool tasks (permits in use).
pub const WORK_HANDLER_POOL_ACTIVE_TASKS: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_pool_active_tasks",
    kind: MetricKind::Gauge,
    help: "Current number of active worker-pool tasks (permits in use)",
    labels: &[],
};

/// `dynamo_work_handler_pool_capacity`: configured worker-pool capacity (total permits).
pub const WORK_HANDLER_POOL_CAPACITY: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_pool_capacity",
    kind: MetricKind::Gauge,
    help: "Configured worker-pool capacity (total permits)",
    labels: &[],
};

/// `dynamo_work_handler_queue_capacity`: configured capacity of the bounded work queue.
pub const WORK_HANDLER_QUEUE_CAPACITY: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_queue_capacity",
    kind: MetricKind::Gauge,
    help: "Configured capacity of the bounded work queue",
    labels: &[],
};

/// `dynamo_work_handler_queue_depth`: current items in the bounded work queue awaiting dispatcher pickup.
pub const WORK_HANDLER_QUEUE_DEPTH: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_queue_depth",
    kind: MetricKind::Gauge,
    help: "Current items in the bounded work queue awaiting dispatcher pickup",
    labels: &[],
};

/// `dynamo_work_handler_time_to_first_response_seconds`: backend processing time from handle_payload entry to prologue sent (seconds).
pub const WORK_HANDLER_TIME_TO_FIRST_RESPONSE_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_work_handler_time_to_first_response_seconds",
    kind: MetricKind::Histogram(buckets::FIRST_RESPONSE_SECONDS),
    help: "Backend processing time from handle_payload entry to prologue sent (seconds)",
    labels: &[],
};
