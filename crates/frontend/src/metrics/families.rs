//! Families made from the specifications in `telemetry`: name, help, labels and buckets come from there only.

use super::histogram::Histogram;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use telemetry::MetricSpec;

type LabelPairs = Vec<(&'static str, String)>;

/// A gauge of fractions.
pub(crate) type FloatGauge = Gauge<f64, AtomicU64>;

/// Buckets for a family's histograms.
#[derive(Clone, Debug)]
pub(crate) struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0)
    }
}

/// Series of one specification, by label values in the order of its `labels`.
#[derive(Debug)]
pub(crate) struct Series<M, C = fn() -> M> {
    family: Family<LabelPairs, M, C>,
    labels: &'static [&'static str],
}

impl<M: Clone, C: MetricConstructor<M>> Series<M, C> {
    /// The series of these label values; made when new. Keep the handle: this takes a lock.
    pub(crate) fn with(&self, values: &[&str]) -> M {
        self.family.get_or_create_owned(&self.pairs(values))
    }

    /// Forgets a series, so that labels of workers and models that are gone do not pile up.
    pub(crate) fn remove(&self, values: &[&str]) {
        self.family.remove(&self.pairs(values));
    }

    fn pairs(&self, values: &[&str]) -> LabelPairs {
        debug_assert_eq!(values.len(), self.labels.len(), "one value for each of {:?}", self.labels);
        self.labels.iter().copied().zip(values.iter().map(|value| (*value).to_owned())).collect()
    }
}

pub(crate) type Counters = Series<Counter>;
pub(crate) type Gauges = Series<Gauge>;
pub(crate) type FloatGauges = Series<FloatGauge>;
pub(crate) type Histograms = Series<Histogram, Bounds>;

/// Registers families under their stock names, or under the prefix that the user chose.
pub(crate) struct Registrar<'a> {
    pub(crate) registry: &'a mut Registry,
    pub(crate) prefix: Option<&'a str>,
}

const STOCK_PREFIX: &str = "dynamo_frontend";

impl Registrar<'_> {
    pub(crate) fn counters(&mut self, spec: &'static MetricSpec) -> Counters {
        let family = Family::<LabelPairs, Counter>::default();
        self.registry.register(self.name(spec), spec.help, family.clone());
        Series { family, labels: spec.labels }
    }

    pub(crate) fn gauges(&mut self, spec: &'static MetricSpec) -> Gauges {
        let family = Family::<LabelPairs, Gauge>::default();
        self.registry.register(self.name(spec), spec.help, family.clone());
        Series { family, labels: spec.labels }
    }

    pub(crate) fn float_gauges(&mut self, spec: &'static MetricSpec) -> FloatGauges {
        let family = Family::<LabelPairs, FloatGauge>::default();
        self.registry.register(self.name(spec), spec.help, family.clone());
        Series { family, labels: spec.labels }
    }

    pub(crate) fn histograms(&mut self, spec: &'static MetricSpec) -> Histograms {
        let family = Family::<LabelPairs, Histogram, Bounds>::new_with_constructor(Bounds(spec.buckets()));
        self.registry.register(self.name(spec), spec.help, family.clone());
        Series { family, labels: spec.labels }
    }

    fn name(&self, spec: &MetricSpec) -> String {
        let name = spec.registration_name();
        match (self.prefix, name.strip_prefix(STOCK_PREFIX)) {
            (Some(prefix), Some(rest)) => format!("{prefix}{rest}"),
            _ => name.to_owned(),
        }
    }
}
