//! `/metrics` of a worker: its request handlers, and the load that its engine reports at the scrape.
//!
//! Names, help and labels are those of [`telemetry`].

use crate::engine::{Engine, EngineLoad};
use crate::transport_metrics::EventsAtScrape;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use protocol::dynamo::Headers;
use protocol::ids::{EndpointId, InstanceId};
use runtime::discovery::StoreHealth;
use runtime::request_plane::{RequestServerConfig, ServerLoad};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use telemetry::{MetricSpec, component, labels, own, transport};

/// Header with the wall-clock time at which a frontend sent a request, decimal nanoseconds since 1970.
const SENT_AT: &str = "x-frontend-send-ts-ns";

/// Whose metrics these are.
#[derive(Clone, Debug)]
pub struct MetricsScope {
    /// The worker's endpoint.
    pub endpoint: EndpointId,
    /// The worker's instance.
    pub worker_id: InstanceId,
    /// The served name.
    pub model: String,
}

/// The metrics of one worker.
pub struct WorkerMetrics {
    registry: Registry,
    requests: Family<OfEndpoint, Counter>,
    inflight: Family<OfEndpoint, Gauge>,
    duration: Family<OfEndpoint, Histogram, fn() -> Histogram>,
    errors: Family<OfError, Counter>,
    cancellations: Family<OfEndpoint, Counter>,
    request_bytes: Family<OfEndpoint, Counter>,
    response_bytes: Family<OfEndpoint, Counter>,
    network_transit: Histogram,
    first_response: Histogram,
    permit_wait: Histogram,
    pool_active: Gauge,
    queue_depth: Gauge,
    discovery_connected: Gauge,
    discovery_interruptions: Counter,
    discovery_leases_lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    dynamo_endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfError {
    dynamo_endpoint: String,
    error_type: &'static str,
}

/// Where the work on a request failed; the stock values of `error_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerError {
    /// The body did not decode.
    Deserialization,
    /// The engine refused or failed.
    Generate,
    /// An item could not be sent.
    PublishResponse,
}

impl HandlerError {
    fn label(self) -> &'static str {
        match self {
            Self::Deserialization => "deserialization",
            Self::Generate => "generate",
            Self::PublishResponse => "publish_response",
        }
    }
}

impl WorkerMetrics {
    /// Metrics at zero, with the engine read at each scrape. `started_at` is when the process began to load, and
    /// `loaded_in` how long the model took.
    pub fn new(
        scope: &MetricsScope,
        engine: Arc<dyn Engine>,
        requests: &RequestServerConfig,
        started_at: Instant,
        loaded_in: Duration,
    ) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            inflight: Family::default(),
            duration: Family::new_with_constructor(handler_histogram),
            errors: Family::default(),
            cancellations: Family::default(),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            network_transit: Histogram::new(transport::WORK_HANDLER_NETWORK_TRANSIT_SECONDS.buckets().iter().copied()),
            first_response: Histogram::new(
                transport::WORK_HANDLER_TIME_TO_FIRST_RESPONSE_SECONDS.buckets().iter().copied(),
            ),
            permit_wait: Histogram::new(transport::WORK_HANDLER_PERMIT_WAIT_SECONDS.buckets().iter().copied()),
            pool_active: Gauge::default(),
            queue_depth: Gauge::default(),
            discovery_connected: Gauge::default(),
            discovery_interruptions: Counter::default(),
            discovery_leases_lost: Counter::default(),
        };
        metrics.register_handler(scope);
        let profile = engine.profile();
        metrics.registry.register_collector(Box::new(AtScrape {
            scope: scope.clone(),
            engine_kind: profile.engine,
            total_kv_blocks: profile.total_kv_blocks,
            engine,
            requests_running_max: requests.requests_running_max,
            requests_queued_max: requests.requests_queued_max,
            started_at,
            loaded_in,
        }));
        metrics
    }

    fn register_handler(&mut self, scope: &MetricsScope) {
        let whose = [
            (Cow::Borrowed(labels::DYNAMO_NAMESPACE), Cow::Owned(scope.endpoint.namespace.clone())),
            (Cow::Borrowed(labels::DYNAMO_COMPONENT), Cow::Owned(scope.endpoint.component.clone())),
            (Cow::Borrowed(labels::WORKER_ID), Cow::Owned(scope.worker_id.to_string())),
        ];
        let handler = self.registry.sub_registry_with_labels(whose.into_iter());
        register(handler, &component::REQUESTS_TOTAL, self.requests.clone());
        register(handler, &component::INFLIGHT_REQUESTS, self.inflight.clone());
        register(handler, &component::REQUEST_DURATION_SECONDS, self.duration.clone());
        register(handler, &component::ERRORS_TOTAL, self.errors.clone());
        register(handler, &component::CANCELLATION_TOTAL, self.cancellations.clone());
        register(handler, &component::REQUEST_BYTES_TOTAL, self.request_bytes.clone());
        register(handler, &component::RESPONSE_BYTES_TOTAL, self.response_bytes.clone());
        register(&mut self.registry, &transport::WORK_HANDLER_NETWORK_TRANSIT_SECONDS, self.network_transit.clone());
        register(
            &mut self.registry,
            &transport::WORK_HANDLER_TIME_TO_FIRST_RESPONSE_SECONDS,
            self.first_response.clone(),
        );
        register(&mut self.registry, &transport::WORK_HANDLER_PERMIT_WAIT_SECONDS, self.permit_wait.clone());
        register(&mut self.registry, &transport::WORK_HANDLER_POOL_ACTIVE_TASKS, self.pool_active.clone());
        register(&mut self.registry, &transport::WORK_HANDLER_QUEUE_DEPTH, self.queue_depth.clone());
        register(&mut self.registry, &own::DISCOVERY_CONNECTED, self.discovery_connected.clone());
        register(&mut self.registry, &own::DISCOVERY_INTERRUPTIONS_TOTAL, self.discovery_interruptions.clone());
        register(&mut self.registry, &own::DISCOVERY_LEASES_LOST_TOTAL, self.discovery_leases_lost.clone());
    }

    /// Makes the series of an endpoint visible before its first request.
    pub fn announce(&self, endpoint: &str) {
        let of = OfEndpoint { dynamo_endpoint: endpoint.into() };
        let _ = (self.requests.get_or_create(&of), self.inflight.get_or_create(&of));
        let _ = (self.cancellations.get_or_create(&of), self.request_bytes.get_or_create(&of));
        let _ = self.response_bytes.get_or_create(&of);
    }

    /// Shows `events` at every scrape, with the labels of this worker.
    pub(crate) fn watch_events(&mut self, events: EventsAtScrape) {
        self.registry.register_collector(Box::new(events));
    }

    /// Counts a request in; it is counted out when the result is dropped.
    pub fn begin(self: &Arc<Self>, endpoint: &str, headers: &Headers, body_bytes: usize) -> InHandler {
        let of = OfEndpoint { dynamo_endpoint: endpoint.into() };
        self.requests.get_or_create(&of).inc();
        self.inflight.get_or_create(&of).inc();
        self.request_bytes.get_or_create(&of).inc_by(body_bytes as u64);
        if let Some(transit) = transit(headers, SystemTime::now()) {
            self.network_transit.observe(transit.as_secs_f64());
        }
        InHandler { metrics: self.clone(), of, since: Instant::now() }
    }

    /// The text of `/metrics`, with the requests and the discovery store of this moment.
    pub fn text(&self, requests: ServerLoad, store: StoreHealth) -> String {
        self.discovery_connected.set(i64::from(store.connected));
        for (counter, total) in
            [(&self.discovery_interruptions, store.interruptions), (&self.discovery_leases_lost, store.leases_lost)]
        {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.pool_active.set(i64::try_from(requests.running).unwrap_or(i64::MAX));
        self.queue_depth.set(i64::try_from(requests.queued).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a String cannot fail; a family that refuses to encode would be a bug that the tests see.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// A request in a handler. Dropping it ends the request for the metrics.
pub struct InHandler {
    metrics: Arc<WorkerMetrics>,
    of: OfEndpoint,
    since: Instant,
}

impl InHandler {
    /// The request was accepted: its prologue leaves now.
    pub fn responded(&self) {
        self.metrics.first_response.observe(self.since.elapsed().as_secs_f64());
    }

    /// The request had to wait for its turn.
    pub fn waited(&self, time: Duration) {
        self.metrics.permit_wait.observe(time.as_secs_f64());
    }

    /// Takes the bytes of the answer, write by write.
    pub fn sent(&self) -> impl Fn(usize) + Send + Sync + 'static {
        let total = self.metrics.response_bytes.get_or_create(&self.of).clone();
        move |bytes| {
            total.inc_by(bytes as u64);
        }
    }

    /// The request failed here.
    pub fn failed(&self, error: HandlerError) {
        let of = OfError { dynamo_endpoint: self.of.dynamo_endpoint.clone(), error_type: error.label() };
        self.metrics.errors.get_or_create(&of).inc();
    }

    /// Its caller cancelled it.
    pub fn cancelled(&self) {
        self.metrics.cancellations.get_or_create(&self.of).inc();
    }
}

impl Drop for InHandler {
    fn drop(&mut self) {
        self.metrics.inflight.get_or_create(&self.of).dec();
        self.metrics.duration.get_or_create(&self.of).observe(self.since.elapsed().as_secs_f64());
    }
}

fn handler_histogram() -> Histogram {
    Histogram::new(component::REQUEST_DURATION_SECONDS.buckets().iter().copied())
}

fn register(registry: &mut Registry, spec: &MetricSpec, metric: impl prometheus_client::registry::Metric) {
    registry.register(spec.registration_name(), spec.help, metric);
}

/// How long the request was on its way; `None` without the header, or when the clocks of the two hosts disagree.
fn transit(headers: &Headers, now: SystemTime) -> Option<Duration> {
    let sent = Duration::from_nanos(headers.get(SENT_AT)?.parse().ok()?);
    now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(sent)
}

/// What is read when somebody looks.
struct AtScrape {
    scope: MetricsScope,
    engine: Arc<dyn Engine>,
    engine_kind: &'static str,
    total_kv_blocks: u64,
    requests_running_max: usize,
    requests_queued_max: usize,
    started_at: Instant,
    loaded_in: Duration,
}

impl fmt::Debug for AtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtScrape").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl AtScrape {
    /// Values of the labels that a family has, in its order.
    fn labels(&self, spec: &MetricSpec) -> Vec<(&'static str, String)> {
        let value = |label: &'static str| match label {
            labels::DYNAMO_NAMESPACE => self.scope.endpoint.namespace.clone(),
            labels::DYNAMO_COMPONENT => self.scope.endpoint.component.clone(),
            labels::DYNAMO_ENDPOINT => self.scope.endpoint.name.clone(),
            labels::WORKER_ID => self.scope.worker_id.to_string(),
            labels::MODEL => self.scope.model.clone(),
            labels::DP_RANK => "0".into(),
            labels::ENGINE => self.engine_kind.into(),
            labels::VERSION => env!("CARGO_PKG_VERSION").into(),
            other => unreachable!("no worker metric has the label {other}; a test renders them all"),
        };
        spec.labels.iter().map(|&label| (label, value(label))).collect()
    }

    fn gauge(&self, encoder: &mut DescriptorEncoder, spec: &MetricSpec, value: f64) -> fmt::Result {
        let gauge = ConstGauge::<f64>::new(value);
        self.encode(encoder, spec, &gauge)
    }

    fn counter(&self, encoder: &mut DescriptorEncoder, spec: &MetricSpec, value: u64) -> fmt::Result {
        self.encode(encoder, spec, &ConstCounter::<u64>::new(value))
    }

    fn encode(&self, encoder: &mut DescriptorEncoder, spec: &MetricSpec, metric: &impl EncodeMetric) -> fmt::Result {
        let labels = self.labels(spec);
        let mut family = encoder.encode_descriptor(spec.registration_name(), spec.help, None, metric.metric_type())?;
        metric.encode(family.encode_family(&labels)?)
    }
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let load = self.engine.load();
        let encoder = &mut encoder;
        self.gauge(encoder, &own::BUILD_INFO, 1.0)?;
        self.gauge(encoder, &own::ENGINE_INFO, 1.0)?;
        self.gauge(encoder, &component::UPTIME_SECONDS, self.started_at.elapsed().as_secs_f64())?;
        self.gauge(encoder, &component::MODEL_LOAD_TIME_SECONDS, self.loaded_in.as_secs_f64())?;
        self.gauge(encoder, &component::TOTAL_BLOCKS, self.total_kv_blocks as f64)?;
        self.gauge(encoder, &component::GPU_CACHE_USAGE_PERCENT, share(load.kv_used_blocks, self.total_kv_blocks))?;
        let hit_rate = share(load.prefix_hit_tokens_total, load.prefix_query_tokens_total);
        self.gauge(encoder, &component::KV_CACHE_HIT_RATE, hit_rate)?;
        self.gauge(encoder, &transport::WORK_HANDLER_POOL_CAPACITY, self.requests_running_max as f64)?;
        self.gauge(encoder, &transport::WORK_HANDLER_QUEUE_CAPACITY, self.requests_queued_max as f64)?;
        for (spec, value) in load_gauges(&load) {
            self.gauge(encoder, spec, value as f64)?;
        }
        for (spec, value) in load_counters(&load) {
            self.counter(encoder, spec, value)?;
        }
        Ok(())
    }
}

fn load_gauges(load: &EngineLoad) -> [(&'static MetricSpec, u64); 5] {
    [
        (&own::ENGINE_RUNNING_SEQUENCES, u64::from(load.running)),
        (&own::ENGINE_WAITING_SEQUENCES, u64::from(load.waiting)),
        (&own::ENGINE_KV_USED_BLOCKS, load.kv_used_blocks),
        (&own::ENGINE_ACTIVE_DECODE_BLOCKS, load.active_decode_blocks),
        (&own::ENGINE_ACTIVE_PREFILL_TOKENS, load.active_prefill_tokens),
    ]
}

fn load_counters(load: &EngineLoad) -> [(&'static MetricSpec, u64); 6] {
    [
        (&own::ENGINE_PREFIX_QUERY_TOKENS_TOTAL, load.prefix_query_tokens_total),
        (&own::ENGINE_PREFIX_HIT_TOKENS_TOTAL, load.prefix_hit_tokens_total),
        (&own::ENGINE_PROMPT_TOKENS_TOTAL, load.prompt_tokens_total),
        (&own::ENGINE_GENERATION_TOKENS_TOTAL, load.generation_tokens_total),
        (&own::ENGINE_PREEMPTIONS_TOTAL, load.preemptions_total),
        (&own::ENGINE_CANCELLED_TOTAL, load.cancelled_total),
    ]
}

/// Part of a whole, 0 to 1; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineError, EngineProfile};
    use protocol::output::EngineOutput;
    use protocol::request::PreprocessedRequest;
    use tokio::sync::mpsc;

    const BUSY: ServerLoad = ServerLoad { running: 3, queued: 2 };
    const STORE: StoreHealth = StoreHealth { connected: true, interruptions: 2, leases_lost: 1 };

    struct Busy;

    impl Engine for Busy {
        fn profile(&self) -> EngineProfile {
            EngineProfile {
                engine: "mock",
                device: "cpu",
                context_length: 1024,
                block_size: 16,
                total_kv_blocks: 200,
                max_num_seqs: 8,
                max_num_batched_tokens: 512,
            }
        }

        fn generate(&self, _: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
            unreachable!("only its load is read")
        }

        fn load(&self) -> EngineLoad {
            EngineLoad {
                running: 2,
                waiting: 1,
                kv_used_blocks: 50,
                prefix_query_tokens_total: 100,
                prefix_hit_tokens_total: 25,
                generation_tokens_total: 7,
                ..EngineLoad::default()
            }
        }

        fn stop(&self) {}
    }

    fn metrics() -> Arc<WorkerMetrics> {
        let scope = MetricsScope {
            endpoint: EndpointId::new("dynamo", "backend", "generate"),
            worker_id: InstanceId(0xbeef),
            model: "tiny".into(),
        };
        let requests = RequestServerConfig::default();
        let metrics = WorkerMetrics::new(&scope, Arc::new(Busy), &requests, Instant::now(), Duration::from_secs(2));
        Arc::new(metrics)
    }

    /// The value of the series of `name` whose labels contain all of `with`.
    fn value(text: &str, name: &str, with: &[&str]) -> Option<f64> {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")) && with.iter().all(|label| line.contains(label)))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn a_request_is_counted_in_and_out() {
        let metrics = metrics();
        let generate = &[r#"dynamo_endpoint="generate""#, r#"worker_id="beef""#, r#"dynamo_namespace="dynamo""#];
        let request = metrics.begin("generate", &Headers::default(), 300);
        request.responded();
        request.waited(Duration::from_millis(20));
        request.sent()(700);
        request.sent()(11);
        request.failed(HandlerError::Generate);
        request.cancelled();
        let during = metrics.text(BUSY, STORE);
        drop(request);
        let after = metrics.text(BUSY, STORE);
        assert_eq!(value(&during, "dynamo_component_inflight_requests", generate), Some(1.0));
        assert_eq!(value(&after, "dynamo_component_inflight_requests", generate), Some(0.0));
        assert_eq!(value(&after, "dynamo_component_requests_total", generate), Some(1.0));
        assert_eq!(value(&after, "dynamo_component_request_bytes_total", generate), Some(300.0));
        assert_eq!(value(&after, "dynamo_component_cancellation_total", generate), Some(1.0));
        assert_eq!(value(&after, "dynamo_component_request_duration_seconds_count", generate), Some(1.0));
        assert_eq!(value(&after, "dynamo_component_errors_total", &[r#"error_type="generate""#]), Some(1.0));
        assert_eq!(value(&after, "dynamo_component_response_bytes_total", generate), Some(711.0));
        for line in [
            "time_to_first_response_seconds_count 1",
            "permit_wait_seconds_count 1",
            "permit_wait_seconds_bucket{le=\"0.01\"} 0",
            "pool_active_tasks 3",
            "queue_depth 2",
        ] {
            assert!(after.contains(&format!("dynamo_work_handler_{line}\n")), "{line}\n{after}");
        }
    }

    #[test]
    fn the_engines_load_is_what_it_says_at_the_scrape() {
        let text = metrics().text(BUSY, STORE);
        let ours = &[r#"worker_id="beef""#, r#"model="tiny""#, r#"dp_rank="0""#];
        for (name, expected) in [
            ("busbar_engine_running_sequences", 2.0),
            ("busbar_engine_waiting_sequences", 1.0),
            ("busbar_engine_kv_used_blocks", 50.0),
            ("busbar_engine_generation_tokens_total", 7.0),
            ("dynamo_component_total_blocks", 200.0),
            ("dynamo_component_gpu_cache_usage_percent", 0.25),
            ("dynamo_component_kv_cache_hit_rate", 0.25),
        ] {
            assert_eq!(value(&text, name, ours), Some(expected), "{name}\n{text}");
        }
    }

    #[test]
    fn every_series_has_the_labels_that_its_family_promises() {
        let metrics = metrics();
        metrics.begin("generate", &Headers::default(), 1).failed(HandlerError::Deserialization);
        let text = metrics.text(BUSY, STORE);
        let mut seen = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            let spec = telemetry::METRICS.iter().find(|spec| spec.name == family || spec.name == name);
            let spec = spec.unwrap_or_else(|| panic!("{name} is not a name of `telemetry`"));
            let inside = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let mut got: Vec<&str> = inside.split(',').filter_map(|pair| pair.split_once('=')).map(|p| p.0).collect();
            got.retain(|&label| label != labels::LE);
            let mut expected = spec.labels.to_vec();
            got.sort_unstable();
            expected.sort_unstable();
            assert_eq!(got, expected, "{line}");
            seen += 1;
        }
        assert!(seen > 30, "{seen} series:\n{text}");
    }

    #[test]
    fn transit_needs_a_header_and_agreeing_clocks() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let sent = |text: &str| transit(&[(SENT_AT, text)].into_iter().collect(), now);
        assert_eq!(sent("9500000000"), Some(Duration::from_millis(500)));
        assert_eq!(sent("10500000000"), None);
        assert_eq!(sent("soon"), None);
        assert_eq!(transit(&Headers::default(), now), None);
    }
}
