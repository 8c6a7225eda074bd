//! What `/metrics` says, under Dynamo's names. One registry; the status page reads the same text.

mod account;
mod families;
mod histogram;
mod model;

pub(crate) use account::{Account, Outcome, RequestKind, count_failure};
pub(crate) use histogram::Histogram;
pub(crate) use model::{ModelMetrics, WorkerMetrics};

use families::{Counters, FloatGauges, Gauges, Histograms, Registrar};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::sync::Arc;
use telemetry::{frontend as f, own, router as r, workers as w};

/// Label of requests for a model that does not exist, so that clients cannot make labels.
pub(crate) const UNKNOWN_MODEL: &str = "unknown_model";

/// Every family that the frontend emits.
pub(crate) struct Metrics {
    registry: Registry,
    models: Mutex<HashMap<String, Arc<ModelMetrics>>>,
    /// This frontend's id in `router_id` and `worker_id` labels.
    pub(crate) router_id: u64,

    pub(crate) active_requests: Gauges,
    pub(crate) cached_tokens: Histograms,
    pub(crate) disconnected_clients: Gauges,
    pub(crate) failures: Counters,
    pub(crate) inflight_requests: Gauges,
    pub(crate) input_sequence_tokens: Histograms,
    pub(crate) inter_token_latency: Histograms,
    pub(crate) cancellations: Counters,
    pub(crate) model_context_length: Gauges,
    pub(crate) model_block_size: Gauges,
    pub(crate) model_max_batched_tokens: Gauges,
    pub(crate) model_max_seqs: Gauges,
    pub(crate) migration_duration: Histograms,
    pub(crate) model_migration_limit: Gauges,
    pub(crate) migrations: Counters,
    pub(crate) migration_too_long: Counters,
    pub(crate) model_ready: Gauges,
    pub(crate) model_total_kv_blocks: Gauges,
    pub(crate) output_sequence_tokens: Histograms,
    pub(crate) output_tokens: Counters,
    pub(crate) queued_requests: Gauges,
    pub(crate) rejections: Counters,
    pub(crate) request_duration: Histograms,
    pub(crate) requests_started: Counters,
    pub(crate) requests: Counters,
    pub(crate) stage_duration: Histograms,
    pub(crate) stage_requests: Gauges,
    pub(crate) time_to_first_token: Histograms,

    pub(crate) worker_active_decode_blocks: Gauges,
    pub(crate) worker_active_prefill_tokens: Gauges,
    pub(crate) worker_last_input_tokens: Gauges,
    pub(crate) worker_last_itl: FloatGauges,
    pub(crate) worker_last_ttft: FloatGauges,
    pub(crate) worker_kv_used_blocks: Gauges,
    pub(crate) worker_kv_total_blocks: Gauges,

    pub(crate) router_kv_hit_rate: Histograms,
    pub(crate) router_overhead_hashing_ms: Histograms,
    pub(crate) router_overhead_scheduling_ms: Histograms,
    pub(crate) router_overhead_total_ms: Histograms,
    pub(crate) kv_events_applied: Gauges,

    pub(crate) requests_by_key: Counters,
    pub(crate) tokens_by_key: Counters,
    pub(crate) auth_failures: Counters,
    pub(crate) admission_rejected: Counters,
    pub(crate) placements: Counters,
    pub(crate) router_cached_tokens: Counters,
    pub(crate) router_prompt_tokens: Counters,
    pub(crate) index_bytes: Gauges,
    pub(crate) index_blocks: Gauges,
    pub(crate) index_evicted_blocks: Counters,
    pub(crate) index_gaps: Counters,
}

impl Metrics {
    /// Registers everything. `prefix` replaces `dynamo_frontend`.
    pub(crate) fn new(router_id: u64, prefix: Option<&str>) -> Self {
        let mut registry = Registry::default();
        let mut reg = Registrar { registry: &mut registry, prefix };
        reg.gauges(&own::BUILD_INFO).with(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            models: Mutex::default(),
            router_id,
            active_requests: reg.gauges(&f::ACTIVE_REQUESTS),
            cached_tokens: reg.histograms(&f::CACHED_TOKENS),
            disconnected_clients: reg.gauges(&f::DISCONNECTED_CLIENTS),
            failures: reg.counters(&f::FAILURES_TOTAL),
            inflight_requests: reg.gauges(&f::INFLIGHT_REQUESTS),
            input_sequence_tokens: reg.histograms(&f::INPUT_SEQUENCE_TOKENS),
            inter_token_latency: reg.histograms(&f::INTER_TOKEN_LATENCY_SECONDS),
            cancellations: reg.counters(&f::MODEL_CANCELLATION_TOTAL),
            model_context_length: reg.gauges(&f::MODEL_CONTEXT_LENGTH),
            model_block_size: reg.gauges(&f::MODEL_KV_CACHE_BLOCK_SIZE),
            model_max_batched_tokens: reg.gauges(&f::MODEL_MAX_NUM_BATCHED_TOKENS),
            model_max_seqs: reg.gauges(&f::MODEL_MAX_NUM_SEQS),
            migration_duration: reg.histograms(&f::MODEL_MIGRATION_DURATION_SECONDS),
            model_migration_limit: reg.gauges(&f::MODEL_MIGRATION_LIMIT),
            migrations: reg.counters(&f::MODEL_MIGRATION_TOTAL),
            migration_too_long: reg.counters(&f::MODEL_MIGRATION_MAX_SEQ_LEN_EXCEEDED_TOTAL),
            model_ready: reg.gauges(&f::MODEL_READY),
            model_total_kv_blocks: reg.gauges(&f::MODEL_TOTAL_KV_BLOCKS),
            output_sequence_tokens: reg.histograms(&f::OUTPUT_SEQUENCE_TOKENS),
            output_tokens: reg.counters(&f::OUTPUT_TOKENS_TOTAL),
            queued_requests: reg.gauges(&f::QUEUED_REQUESTS),
            rejections: reg.counters(&f::MODEL_REJECTION_TOTAL),
            request_duration: reg.histograms(&f::REQUEST_DURATION_SECONDS),
            requests_started: reg.counters(&f::REQUESTS_STARTED_TOTAL),
            requests: reg.counters(&f::REQUESTS_TOTAL),
            stage_duration: reg.histograms(&f::STAGE_DURATION_SECONDS),
            stage_requests: reg.gauges(&f::STAGE_REQUESTS),
            time_to_first_token: reg.histograms(&f::TIME_TO_FIRST_TOKEN_SECONDS),
            worker_active_decode_blocks: reg.gauges(&w::WORKER_ACTIVE_DECODE_BLOCKS),
            worker_active_prefill_tokens: reg.gauges(&w::WORKER_ACTIVE_PREFILL_TOKENS),
            worker_last_input_tokens: reg.gauges(&w::WORKER_LAST_INPUT_SEQUENCE_TOKENS),
            worker_last_itl: reg.float_gauges(&w::WORKER_LAST_INTER_TOKEN_LATENCY_SECONDS),
            worker_last_ttft: reg.float_gauges(&w::WORKER_LAST_TIME_TO_FIRST_TOKEN_SECONDS),
            worker_kv_used_blocks: reg.gauges(&own::FRONTEND_WORKER_KV_USED_BLOCKS),
            worker_kv_total_blocks: reg.gauges(&own::FRONTEND_WORKER_KV_TOTAL_BLOCKS),
            router_kv_hit_rate: reg.histograms(&r::KV_HIT_RATE),
            router_overhead_hashing_ms: reg.histograms(&r::OVERHEAD_BLOCK_HASHING_MS),
            router_overhead_scheduling_ms: reg.histograms(&r::OVERHEAD_SCHEDULING_MS),
            router_overhead_total_ms: reg.histograms(&r::OVERHEAD_TOTAL_MS),
            kv_events_applied: reg.gauges(&r::KV_CACHE_EVENTS_APPLIED),
            requests_by_key: reg.counters(&own::FRONTEND_REQUESTS_BY_KEY_TOTAL),
            tokens_by_key: reg.counters(&own::FRONTEND_TOKENS_BY_KEY_TOTAL),
            auth_failures: reg.counters(&own::FRONTEND_AUTH_FAILURES_TOTAL),
            admission_rejected: reg.counters(&own::FRONTEND_ADMISSION_REJECTED_TOTAL),
            placements: reg.counters(&own::ROUTER_PLACEMENTS_TOTAL),
            router_cached_tokens: reg.counters(&own::ROUTER_CACHED_TOKENS_TOTAL),
            router_prompt_tokens: reg.counters(&own::ROUTER_PROMPT_TOKENS_TOTAL),
            index_bytes: reg.gauges(&own::ROUTER_INDEX_BYTES),
            index_blocks: reg.gauges(&own::ROUTER_INDEX_BLOCKS),
            index_evicted_blocks: reg.counters(&own::ROUTER_INDEX_EVICTED_BLOCKS_TOTAL),
            index_gaps: reg.counters(&own::ROUTER_INDEX_GAPS_TOTAL),
            registry,
        }
    }

    /// The handles of one model; made when new. Only names of models that are served come here.
    pub(crate) fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock();
        if let Some(known) = models.get(name) {
            return known.clone();
        }
        let made = Arc::new(ModelMetrics::new(self, name));
        models.insert(name.to_owned(), made.clone());
        made
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // A `String` takes every write.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
