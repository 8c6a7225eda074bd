//! What happens to a worker's events on their way, read when somebody looks.

use crate::metrics::MetricsScope;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use runtime::nats::Nats;
use std::fmt;
use telemetry::{MetricSpec, nats as n};

/// Reads how many events a publisher lost.
pub(crate) type DropCount = Box<dyn Fn() -> u64 + Send + Sync>;

/// The publishers of one worker, by topic, and the connection to NATS when they use it.
pub(crate) struct EventsAtScrape {
    pub(crate) scope: MetricsScope,
    pub(crate) topics: Vec<(String, DropCount)>,
    pub(crate) nats: Option<Nats>,
}

impl fmt::Debug for EventsAtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsAtScrape").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Collector for EventsAtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let EventsAtScrape { scope, topics, nats } = self;
        let dropped = topics.iter().map(|(topic, dropped)| {
            let values = [&scope.endpoint.namespace, &scope.endpoint.component, &scope.worker_id.to_string(), topic];
            (values.map(String::clone).to_vec(), ConstCounter::new(dropped()))
        });
        family(encoder, &n::EVENTS_DROPPED_TOTAL, MetricType::Counter, dropped)?;
        let Some(nats) = nats else { return Ok(()) };
        let connected = ConstGauge::new(i64::from(nats.is_connected()));
        family(encoder, &n::CONNECTED, MetricType::Gauge, [(vec![], connected)])?;
        let connections = ConstCounter::new(nats.counts().sessions());
        family(encoder, &n::CONNECTIONS_TOTAL, MetricType::Counter, [(vec![], connections)])?;
        let unread = ConstCounter::new(nats.unread());
        family(encoder, &n::EVENTS_UNREAD_TOTAL, MetricType::Counter, [(vec![], unread)])?;
        let failures = nats.counts().failures();
        let by_type = n::ERROR_TYPES.map(|error_type| {
            let count = failures.get(error_type).copied().unwrap_or(0);
            (vec![error_type.to_owned()], ConstCounter::new(count))
        });
        family(encoder, &n::TRANSPORT_NATS_ERRORS_TOTAL, MetricType::Counter, by_type)
    }
}

/// One family with its series: label values in the order of the specification, and the value.
fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    spec: &MetricSpec,
    kind: MetricType,
    series: impl IntoIterator<Item = (Vec<String>, M)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(spec.registration_name(), spec.help, None, kind)?;
    for (values, metric) in series {
        if spec.labels.is_empty() {
            metric.encode(family.encode_family(&NO_LABELS)?)?;
        } else {
            let labels: Vec<(&str, String)> = spec.labels.iter().copied().zip(values).collect();
            metric.encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

const NO_LABELS: [(&str, &str); 0] = [];

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use protocol::ids::{EndpointId, InstanceId};
    use runtime::nats::NatsConfig;

    #[tokio::test]
    async fn lost_events_and_the_connection_are_told_by_their_declared_names() {
        let scope = MetricsScope {
            endpoint: EndpointId::new("dynamo", "backend", "generate"),
            worker_id: InstanceId(0xbeef),
            model: "tiny".into(),
        };
        let topics: Vec<(String, DropCount)> = vec![("kv-events".into(), Box::new(|| 7))];
        let nats = Some(Nats::new(&NatsConfig::default()).unwrap());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(EventsAtScrape { scope, topics, nats }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        // Braces around nothing are taken out where the whole text is made.
        let text = text.replace("{} ", " ");
        for line in [
            r#"busbar_events_dropped_total{dynamo_namespace="dynamo",dynamo_component="backend",worker_id="beef",topic="kv-events"} 7"#,
            "busbar_nats_connected 0",
            "busbar_nats_connections_total 0",
            "busbar_nats_events_unread_total 0",
            r#"dynamo_transport_nats_errors_total{error_type="tls"} 0"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }
}
