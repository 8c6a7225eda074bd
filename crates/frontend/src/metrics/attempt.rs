//! What the router sees of one attempt: a request on one worker, from its placement to the end of its stream.

use super::{Histogram, Metrics, WorkerMetrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use protocol::discovery::EndpointRecord;
use std::sync::Arc;
use tokio::time::Instant;

/// `phase` of a worker that does both prefill and decode.
const AGGREGATED: &str = "aggregated";

/// The router's figures of one component of workers; every worker of it shares them.
#[derive(Debug)]
pub(crate) struct RouterMetrics {
    pub(crate) hit_rate: Histogram,
    pub(crate) best_cached_tokens: Counter,
    pub(crate) selected_cached_tokens: Counter,
    pub(crate) reused_tokens: Counter,
    input_tokens: Histogram,
    output_tokens: Histogram,
    started: Counter,
    finished: Counter,
    time_to_first_token: Histogram,
    inter_token: Histogram,
    roundtrip: Histogram,
    inflight: Gauge,
}

impl RouterMetrics {
    pub(crate) fn new(all: &Metrics, model: &str, endpoint: &EndpointRecord) -> Self {
        // The stock router is `worker_id` in hexadecimal and `router_id` in decimal.
        let (hex, decimal) = (format!("{:x}", all.router_id), all.router_id.to_string());
        let plain = [endpoint.namespace.as_str(), endpoint.component.as_str(), &hex, &decimal];
        let phased = [plain[0], plain[1], model, &hex, &decimal, AGGREGATED];
        Self {
            hit_rate: all.router_kv_hit_rate.with(&plain),
            best_cached_tokens: all.router_best_cached_tokens.with(&phased),
            selected_cached_tokens: all.router_selected_cached_tokens.with(&phased),
            reused_tokens: all.router_reused_tokens.with(&phased),
            input_tokens: all.router_input_tokens.with(&phased),
            output_tokens: all.router_output_tokens.with(&plain),
            started: all.router_requests_started.with(&plain),
            finished: all.router_requests.with(&plain),
            time_to_first_token: all.router_time_to_first_token.with(&plain),
            inter_token: all.router_inter_token.with(&plain),
            roundtrip: all.plane_roundtrip_ttft.with(&[]),
            inflight: all.plane_inflight.with(&[]),
        }
    }
}

/// Counts one attempt from its placement to its drop.
#[derive(Debug)]
pub(crate) struct AttemptMeter {
    router: Arc<RouterMetrics>,
    placed: Instant,
    sent: Option<Instant>,
    first_token: Option<Instant>,
    /// When the last output came, and how many tokens it completed.
    last: Option<(Instant, u64)>,
}

impl AttemptMeter {
    /// A request of `prompt_tokens` was placed on this worker.
    pub(crate) fn start(worker: &WorkerMetrics, prompt_tokens: usize) -> Self {
        let router = worker.router.clone();
        router.started.inc();
        router.inflight.inc();
        router.input_tokens.observe(prompt_tokens as f64);
        Self { router, placed: Instant::now(), sent: None, first_token: None, last: None }
    }

    /// The request is on its way to the worker.
    pub(crate) fn sent(&mut self, at: Instant) {
        self.sent = Some(at);
    }

    /// The first tokens are here.
    pub(crate) fn first_token(&mut self) {
        let now = Instant::now();
        self.first_token = Some(now);
        self.router.time_to_first_token.observe((now - self.placed).as_secs_f64());
        if let Some(sent) = self.sent {
            self.router.roundtrip.observe((now - sent).as_secs_f64());
        }
    }

    /// So many tokens are here by now.
    pub(crate) fn tokens(&mut self, output_tokens: u64) {
        self.last = Some((Instant::now(), output_tokens));
    }
}

impl Drop for AttemptMeter {
    fn drop(&mut self) {
        let router = &self.router;
        router.inflight.dec();
        router.finished.inc();
        let (Some(first), Some((last, tokens))) = (self.first_token, self.last) else { return };
        router.output_tokens.observe(tokens as f64);
        if tokens > 1 {
            router.inter_token.observe((last - first).as_secs_f64() / (tokens - 1) as f64);
        }
    }
}
