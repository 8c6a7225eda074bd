//! Handles of one model and of one worker, resolved once: counting a token takes no lock and no lookup.

use super::families::FloatGauge;
use super::{Histogram, Metrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use protocol::ids::WorkerRank;

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
}

impl ModelMetrics {
    pub(super) fn new(all: &Metrics, model: &str) -> Self {
        let label = [model];
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
    pub(crate) fn new(all: &Metrics, model: &str, worker: WorkerRank, mode: &'static str) -> Self {
        let (decimal, hex) = (worker.worker_id.0.to_string(), worker.worker_id.to_string());
        let rank = worker.dp_rank.to_string();
        // Stock gives its frontend gauges decimal worker ids and component metrics hexadecimal ones.
        let stock = [decimal.as_str(), rank.as_str(), AGGREGATED];
        let own = [model, hex.as_str(), rank.as_str()];
        Self {
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
    }
}
