//! Handles of one model and of one worker, resolved once: counting a token takes no lock and no lookup.

use super::families::FloatGauge;
use super::{Histogram, Metrics, RouterMetrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use protocol::discovery::EndpointRecord;
use protocol::ids::WorkerRank;
use std::sync::Arc;

/// What is counted of one model.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    pub(crate) name: String,
    pub(crate) active: Gauge,
    pub(crate) inflight: Gauge,
    pub(crate) queued: Gauge,
    pub(crate) cached_tokens: Histogram,
    pub(crate) input_tokens: Histogram,
    pub(crate) output_sequence_tokens: Histogram,
    pub(crate) output_tokens: Counter,
    pub(crate) itl: Histogram,
    pub(crate) ttft: Histogram,
    pub(crate) duration: Histogram,
    /// Prompt tokens that the tokenizer's cache had.
    pub(crate) tokens_found: Counter,
    /// Prompt tokens that it had not.
    pub(crate) tokens_made: Counter,
    /// Requests that wait for a worker.
    pub(crate) pending: Gauge,
    /// Attempts that asked for a place.
    pub(crate) received: Counter,
    /// Requests whose wait for a worker was too long.
    pub(crate) waited_too_long: Counter,
    /// Attempts that found every worker busy.
    pub(crate) all_busy: Counter,
    /// Requests that were not tried again because there were too many retries.
    pub(crate) retries_refused: Counter,
    /// Requests refused because workers died on them.
    pub(crate) poison_refused: Counter,
}

/// The one class of the queue policy.
const POLICY_CLASS: &str = "default";

impl ModelMetrics {
    pub(super) fn new(all: &Metrics, model: &str) -> Self {
        let label = [model];
        let queue = [model, AGGREGATED, POLICY_CLASS];
        let refused = |reason: &'static str| [model, AGGREGATED, POLICY_CLASS, reason];
        // What can only be 0 here is told as such, as the stock does: a dashboard that divides by it finds it.
        all.router_rejected.with(&refused("predicted_miss"));
        for reason in ["cached_token_limit", "raw_isl_token_limit"] {
            all.router_backpressure.with(&refused(reason));
        }
        for prompts in [&all.tokenizer_cache_hits, &all.tokenizer_cache_misses] {
            prompts.with(&[]);
        }
        all.router_pending_tokens.with(&queue);
        all.router_pending_cached_tokens.with(&queue);
        Self {
            name: model.to_owned(),
            active: all.active_requests.with(&label),
            inflight: all.inflight_requests.with(&label),
            queued: all.queued_requests.with(&label),
            cached_tokens: all.cached_tokens.with(&label),
            input_tokens: all.input_sequence_tokens.with(&label),
            output_sequence_tokens: all.output_sequence_tokens.with(&label),
            output_tokens: all.output_tokens.with(&label),
            itl: all.inter_token_latency.with(&label),
            ttft: all.time_to_first_token.with(&label),
            duration: all.request_duration.with(&label),
            tokens_found: all.tokenizer_cached_tokens.with(&label),
            tokens_made: all.tokenizer_uncached_tokens.with(&label),
            pending: all.router_pending_requests.with(&queue),
            received: all.router_received.with(&queue),
            waited_too_long: all.router_rejected.with(&refused("due_time_passed")),
            retries_refused: all.retries_refused.with(&label),
            poison_refused: all.poison_refused.with(&label),
            all_busy: all.router_backpressure.with(&refused("request_limit")),
        }
    }
}

/// What is counted of one rank of one worker. The series are forgotten by [`WorkerMetrics::forget`].
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    decimal: String,
    hex: String,
    rank: String,
    model: String,
    mode: &'static str,
    namespace: String,
    component: String,
    router_hex: String,
    /// The figures that all workers of its component share.
    pub(crate) router: Arc<RouterMetrics>,
    pub(crate) active_decode_blocks: Gauge,
    pub(crate) active_prefill_tokens: Gauge,
    pub(crate) last_input_tokens: Gauge,
    pub(crate) last_itl: FloatGauge,
    pub(crate) last_ttft: FloatGauge,
    pub(crate) kv_used_blocks: Gauge,
    pub(crate) kv_total_blocks: Gauge,
    pub(crate) placements: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) index_blocks: Gauge,
    pub(crate) index_gaps: Counter,
}

/// The stock label of a worker that does both prefill and decode.
const AGGREGATED: &str = "decode";

impl WorkerMetrics {
    pub(crate) fn new(
        all: &Metrics,
        model: &str,
        worker: WorkerRank,
        mode: &'static str,
        endpoint: &EndpointRecord,
    ) -> Self {
        let (decimal, hex) = (worker.worker_id.0.to_string(), worker.worker_id.to_string());
        let rank = worker.dp_rank.to_string();
        // Stock gives its frontend gauges decimal worker ids and component metrics hexadecimal ones.
        let stock = [decimal.as_str(), rank.as_str(), AGGREGATED];
        let own = [model, hex.as_str(), rank.as_str()];
        let router_hex = format!("{:x}", all.router_id);
        let (namespace, component) = (endpoint.namespace.clone(), endpoint.component.clone());
        all.router_worker_registered.with(&[&namespace, &component, &router_hex, &decimal, &rank, AGGREGATED]).set(1);
        Self {
            router: Arc::new(RouterMetrics::new(all, model, endpoint)),
            namespace,
            component,
            router_hex,
            active_decode_blocks: all.worker_active_decode_blocks.with(&stock),
            active_prefill_tokens: all.worker_active_prefill_tokens.with(&stock),
            last_input_tokens: all.worker_last_input_tokens.with(&stock),
            last_itl: all.worker_last_itl.with(&stock),
            last_ttft: all.worker_last_ttft.with(&stock),
            kv_used_blocks: all.worker_kv_used_blocks.with(&own),
            kv_total_blocks: all.worker_kv_total_blocks.with(&own),
            placements: all.placements.with(&[model, &hex, &rank, mode]),
            cached_tokens: all.router_cached_tokens.with(&own),
            prompt_tokens: all.router_prompt_tokens.with(&own),
            index_blocks: all.index_blocks.with(&own),
            index_gaps: all.index_gaps.with(&own),
            model: model.to_owned(),
            decimal,
            hex,
            rank,
            mode,
        }
    }

    /// Forgets the series of a worker that is gone.
    pub(crate) fn forget(&self, all: &Metrics) {
        let stock = [self.decimal.as_str(), self.rank.as_str(), AGGREGATED];
        for gauges in
            [&all.worker_active_decode_blocks, &all.worker_active_prefill_tokens, &all.worker_last_input_tokens]
        {
            gauges.remove(&stock);
        }
        for gauges in [&all.worker_last_itl, &all.worker_last_ttft] {
            gauges.remove(&stock);
        }
        let own = [self.model.as_str(), self.hex.as_str(), self.rank.as_str()];
        for gauges in [&all.worker_kv_used_blocks, &all.worker_kv_total_blocks, &all.index_blocks] {
            gauges.remove(&own);
        }
        for counters in [&all.router_cached_tokens, &all.router_prompt_tokens, &all.index_gaps] {
            counters.remove(&own);
        }
        all.placements.remove(&[&self.model, &self.hex, &self.rank, self.mode]);
        let [namespace, component] = [self.namespace.as_str(), self.component.as_str()];
        let registered = [namespace, component, &self.router_hex, &self.decimal, &self.rank, AGGREGATED];
        all.router_worker_registered.remove(&registered);
    }
}
