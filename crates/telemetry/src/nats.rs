//! `busbar_nats_*` and `busbar_events_*`: the connection to NATS, and events that were lost on the way.

use crate::{MetricKind, MetricSpec, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] =
    &[CONNECTED, CONNECTIONS_TOTAL, EVENTS_UNREAD_TOTAL, EVENTS_DROPPED_TOTAL, TRANSPORT_NATS_ERRORS_TOTAL];

/// `busbar_nats_connected`: 1 while there is a connection to NATS.
pub const CONNECTED: MetricSpec = MetricSpec {
    name: "busbar_nats_connected",
    kind: MetricKind::Gauge,
    help: "1 while there is a connection to NATS; 0 while it is away, or nothing needs it",
    labels: &[],
};

/// `busbar_nats_connections_total`: connections made to NATS; each one after the first follows a loss.
pub const CONNECTIONS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_nats_connections_total",
    kind: MetricKind::Counter,
    help: "Connections made to NATS; each one after the first follows a loss",
    labels: &[],
};

/// `busbar_nats_events_unread_total`: messages of NATS that came faster than this process took them.
pub const EVENTS_UNREAD_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_nats_events_unread_total",
    kind: MetricKind::Counter,
    help: "Messages of NATS that came faster than this process took them, and were dropped",
    labels: &[],
};

/// `busbar_events_dropped_total`: events that a worker published and the event plane had no room for.
pub const EVENTS_DROPPED_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_events_dropped_total",
    kind: MetricKind::Counter,
    help: "Events that were published and dropped: a slow subscriber, or a NATS server that is away",
    labels: &[labels::DYNAMO_NAMESPACE, labels::DYNAMO_COMPONENT, labels::WORKER_ID, labels::TOPIC],
};

/// `dynamo_transport_nats_errors_total`: failed tries to connect to NATS and errors that its server sent.
pub const TRANSPORT_NATS_ERRORS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_transport_nats_errors_total",
    kind: MetricKind::Counter,
    help: "Total NATS errors by type",
    labels: &[labels::ERROR_TYPE],
};

/// Values of `error_type` of [`TRANSPORT_NATS_ERRORS_TOTAL`].
pub const ERROR_TYPES: [&str; 6] = ["unreachable", "timeout", "authorization", "tls", "io", "server"];
