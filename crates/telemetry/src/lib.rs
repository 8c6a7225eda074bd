//! The names by which others watch us: metrics, their labels and buckets, and log fields. Dynamo's names where Dynamo
//! has one, `busbar_` where it has none.
//!
//! **Invariant:** only names and specifications. No client, no registry, no state: who emits a metric takes its
//! [`MetricSpec`] from here, and dashboards and `docs/reference/metrics.md` are checked against [`METRICS`].
//!
//! Start with [`MetricSpec`]; [`exposition`] says how `/metrics` is written; the families are in [`frontend`], [`workers`], [`router`], [`component`], [`transport`],
//! [`operator`] and [`own`].

pub mod buckets;
pub mod component;
pub mod exposition;
pub mod fields;
pub mod frontend;
pub mod labels;
pub mod nats;
pub mod operator;
pub mod own;
pub mod reference;
pub mod router;
pub mod transport;
pub mod workers;

/// What a metric counts, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// A value at this moment.
    Gauge,
    /// Upper bounds of the buckets, ascending, `+Inf` left out.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// The word of a `# TYPE` line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One family of metrics, as `/metrics` shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricSpec {
    /// The whole name, as a query writes it.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// The `# HELP` line, without a full stop.
    pub help: &'static str,
    /// Label names of every series.
    pub labels: &'static [&'static str],
}

impl MetricSpec {
    /// The name to give to `prometheus-client`, which appends `_total` to counters by itself.
    ///
    /// Some stock counters have no `_total` at their end (see [`Self::is_bare_counter`]): as counters their name would come out
    /// wrong, so register them as gauges; [`exposition::prometheus_text`] writes them as what they are.
    pub fn registration_name(&self) -> &'static str {
        match self.kind {
            MetricKind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            MetricKind::Gauge | MetricKind::Histogram(_) => self.name,
        }
    }

    /// A counter whose stock name lacks `_total`.
    pub fn is_bare_counter(&self) -> bool {
        self.kind == MetricKind::Counter && !self.name.ends_with("_total")
    }

    /// The bounds of a histogram; empty for the other kinds.
    pub const fn buckets(&self) -> &'static [f64] {
        match self.kind {
            MetricKind::Histogram(bounds) => bounds,
            MetricKind::Counter | MetricKind::Gauge => &[],
        }
    }
}

/// The families of one module, under one heading of the reference.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Heading.
    pub title: &'static str,
    /// One sentence: which process emits it and where.
    pub about: &'static str,
    /// The families.
    pub metrics: &'static [MetricSpec],
}

/// Every family, by group, in the order of the reference.
pub const GROUPS: &[Group] = &[
    Group { title: "Frontend: requests", about: "On the frontend's `/metrics`.", metrics: frontend::ALL },
    Group {
        title: "Frontend: workers and router queue",
        about: "On the frontend's `/metrics`.",
        metrics: workers::ALL,
    },
    Group {
        title: "Router",
        about: "On the frontend's `/metrics`; `worker_id` is the frontend's own id in lower-case hex.",
        metrics: router::ALL,
    },
    Group {
        title: "Transport",
        about: "`dynamo_request_plane_*` and `dynamo_transport_*` on the frontend, `dynamo_work_handler_*` on a worker's system port.",
        metrics: transport::ALL,
    },
    Group { title: "Component", about: "On a worker's system port.", metrics: component::ALL },
    Group {
        title: "NATS",
        about: "On the frontend's `/metrics` and on a worker's system port; `busbar_events_dropped_total` on the latter.",
        metrics: nats::ALL,
    },
    Group { title: "Operator", about: "On the operator's metrics port.", metrics: operator::ALL },
    Group { title: "Busbar's own", about: "What Dynamo has no name for.", metrics: own::ALL },
];

const METRIC_COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].metrics.len();
        group += 1;
    }
    count
};

/// Every family, in the order of [`GROUPS`].
pub const METRICS: &[MetricSpec] = &flat();

const fn flat() -> [MetricSpec; METRIC_COUNT] {
    let mut all = [frontend::ALL[0]; METRIC_COUNT];
    let (mut at, mut group) = (0, 0);
    while group < GROUPS.len() {
        let metrics = GROUPS[group].metrics;
        let mut i = 0;
        while i < metrics.len() {
            all[at] = metrics[i];
            at += 1;
            i += 1;
        }
        group += 1;
    }
    all
}
