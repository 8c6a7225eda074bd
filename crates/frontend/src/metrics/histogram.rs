//! A histogram without a lock: one atomic add for the bucket, one for the count, one for the sum.
//!
//! `prometheus-client`'s own takes a mutex for each observation; between tokens that is most of its cost.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of observations by upper bound; clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One for each bound and one for what is over the last.
    counts: Box<[AtomicU64]>,
    /// Bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }))
    }

    /// Counts one `value`.
    pub(crate) fn observe(&self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts `value` as often as `times` says: the tokens of one chunk share their mean gap.
    pub(crate) fn observe_many(&self, value: f64, times: u64) {
        if times == 0 {
            return;
        }
        let bucket = self.0.bounds.partition_point(|&bound| bound < value);
        self.0.counts[bucket].fetch_add(times, Ordering::Relaxed);
        let add = |bits: u64| Some((f64::from_bits(bits) + value * times as f64).to_bits());
        // The closure never gives `None`, so the update cannot fail.
        let _ = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    #[cfg(test)]
    fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // The count is that of the buckets just read, so that the two always agree.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = f64::from_bits(self.0.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        histogram.observe_many(2.0, 3);
        let mut registry = Registry::default();
        registry.register("h", "help", histogram.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in
            ["h_bucket{le=\"1.0\"} 2", "h_bucket{le=\"2.0\"} 6", "h_bucket{le=\"+Inf\"} 7", "h_count 7", "h_sum 18.0"]
        {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        assert_eq!(histogram.count(), 7);
    }
}
