//! Metrics of the operator, by the names of [`telemetry::operator`].

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;
use telemetry::exposition::prometheus_text;
use telemetry::operator as names;

type Labels = [(&'static str, &'static str); 1];

/// All families, and where they are written from.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
    running: Family<Labels, Gauge>,
    writes: Family<Labels, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (reconciles, errors, writes) = (Family::default(), Family::default(), Family::default());
        let (running, leader) = (Family::default(), Gauge::default());
        let seconds: Family<Labels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(names::RECONCILE_SECONDS.buckets().iter().copied()));
        let (r, e, s, u, w, l) =
            (reconciles.clone(), errors.clone(), seconds.clone(), running.clone(), writes.clone(), leader.clone());
        registry.register(names::RECONCILES_TOTAL.registration_name(), names::RECONCILES_TOTAL.help, r);
        registry.register(names::RECONCILE_ERRORS_TOTAL.registration_name(), names::RECONCILE_ERRORS_TOTAL.help, e);
        registry.register(names::RECONCILE_SECONDS.registration_name(), names::RECONCILE_SECONDS.help, s);
        registry.register(names::RECONCILES_RUNNING.registration_name(), names::RECONCILES_RUNNING.help, u);
        registry.register(names::WRITES_TOTAL.registration_name(), names::WRITES_TOTAL.help, w);
        registry.register(names::LEADER.registration_name(), names::LEADER.help, l);
        Self { registry: Mutex::new(registry), reconciles, errors, seconds, running, writes, leader }
    }
}

impl Metrics {
    /// A reconcile begins.
    pub fn begin(&self, controller: &'static str) {
        self.running.get_or_create(&of(controller)).inc();
    }

    /// It ended after `took`.
    pub fn end(&self, controller: &'static str, took: Duration, is_error: bool) {
        let labels = of(controller);
        self.running.get_or_create(&labels).dec();
        self.reconciles.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        if is_error {
            self.errors.get_or_create(&labels).inc();
        }
    }

    /// One write: `apply`, `status` or `delete`.
    pub fn wrote(&self, act: &'static str) {
        self.writes.get_or_create(&[(names::ACT, act)]).inc();
    }

    /// Whether this process leads.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    /// The text of `/metrics`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A `String` takes every write.
        let _ = encode(&mut text, &self.registry.lock());
        prometheus_text(&text, None)
    }
}

fn of(controller: &'static str) -> Labels {
    [(names::CONTROLLER, controller)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_written() {
        let metrics = Metrics::default();
        metrics.begin("graph");
        metrics.end("graph", Duration::from_millis(20), true);
        metrics.wrote("apply");
        metrics.set_leader(true);
        let text = metrics.text();
        for spec in names::ALL {
            assert!(text.contains(&format!("# TYPE {} {}", spec.name, spec.kind.word())), "{}: {text}", spec.name);
        }
        assert!(text.contains("busbar_operator_reconcile_errors_total{controller=\"graph\"} 1\n"), "{text}");
        assert!(text.contains("busbar_operator_leader 1\n"), "{text}");
    }
}
