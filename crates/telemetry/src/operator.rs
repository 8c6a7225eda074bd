//! `busbar_operator_*`: the operator's control loops.

use crate::{MetricKind, MetricSpec};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] =
    &[RECONCILES_TOTAL, RECONCILE_ERRORS_TOTAL, RECONCILE_SECONDS, RECONCILES_RUNNING, WRITES_TOTAL, LEADER];

/// Upper bounds of a reconcile, in seconds: one without a write takes a millisecond, one with a full render tens of them.
const RECONCILE_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Label: `graph` or `component`.
pub const CONTROLLER: &str = "controller";
/// Label: `apply`, `create`, `status` or `delete`.
pub const ACT: &str = "act";

/// `busbar_operator_reconciles_total`.
pub const RECONCILES_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_operator_reconciles_total",
    kind: MetricKind::Counter,
    help: "Objects that a control loop looked at",
    labels: &[CONTROLLER],
};

/// `busbar_operator_reconcile_errors_total`.
pub const RECONCILE_ERRORS_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_operator_reconcile_errors_total",
    kind: MetricKind::Counter,
    help: "Reconciles that did not come to their end and are tried again",
    labels: &[CONTROLLER],
};

/// `busbar_operator_reconcile_duration_seconds`.
pub const RECONCILE_SECONDS: MetricSpec = MetricSpec {
    name: "busbar_operator_reconcile_duration_seconds",
    kind: MetricKind::Histogram(RECONCILE_BUCKETS),
    help: "Time of one reconcile, all writes included",
    labels: &[CONTROLLER],
};

/// `busbar_operator_reconciles_running`.
pub const RECONCILES_RUNNING: MetricSpec = MetricSpec {
    name: "busbar_operator_reconciles_running",
    kind: MetricKind::Gauge,
    help: "Reconciles under way; at their bound, objects wait",
    labels: &[CONTROLLER],
};

/// `busbar_operator_writes_total`.
pub const WRITES_TOTAL: MetricSpec = MetricSpec {
    name: "busbar_operator_writes_total",
    kind: MetricKind::Counter,
    help: "Writes to the API server; a cluster in which nothing changes has none",
    labels: &[ACT],
};

/// `busbar_operator_leader`.
pub const LEADER: MetricSpec = MetricSpec {
    name: "busbar_operator_leader",
    kind: MetricKind::Gauge,
    help: "1 while this process is the one that acts",
    labels: &[],
};
