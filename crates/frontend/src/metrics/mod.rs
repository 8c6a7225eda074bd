//! What `/metrics` says, under Dynamo's names. One registry; the status page reads the same text.

mod account;
mod attempt;
mod families;
mod histogram;
mod model;

pub(crate) use account::{Account, Outcome, RequestKind, count_failure};
pub(crate) use attempt::{AttemptMeter, RouterMetrics};
pub(crate) use histogram::Histogram;
pub(crate) use model::{ModelMetrics, WorkerMetrics};

use crate::preprocess::TextTiming;
use crate::text::Reuse;
use families::{Counters, FloatGauges, Gauges, Histograms, Registrar};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::discovery::StoreHealth;
use runtime::nats::Nats;
use runtime::request_plane::Traffic;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use telemetry::{exposition, frontend as f, nats as n, own, router as r, transport as t, workers as w};

/// Label of requests for a model that does not exist, so that clients cannot make labels.
pub(crate) const UNKNOWN_MODEL: &str = "unknown_model";

/// Every family that the frontend emits.
pub(crate) struct Metrics {
    registry: Registry,
    prefix: Option<String>,
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
    pub(crate) router_best_cached_tokens: Counters,
    pub(crate) router_selected_cached_tokens: Counters,
    pub(crate) router_reused_tokens: Counters,
    pub(crate) router_input_tokens: Histograms,
    pub(crate) router_output_tokens: Histograms,
    pub(crate) router_requests_started: Counters,
    pub(crate) router_requests: Counters,
    pub(crate) router_time_to_first_token: Histograms,
    pub(crate) router_inter_token: Histograms,
    pub(crate) router_worker_registered: Gauges,
    pub(crate) router_source_mismatch: Gauges,
    pub(crate) router_overhead_hashing_ms: Histograms,
    pub(crate) router_overhead_seq_hashing_ms: Histograms,
    pub(crate) router_overhead_matching_ms: Histograms,
    pub(crate) router_overhead_scheduling_ms: Histograms,
    pub(crate) router_overhead_total_ms: Histograms,
    pub(crate) kv_events_applied: Gauges,
    pub(crate) router_received: Counters,
    pub(crate) router_rejected: Counters,
    pub(crate) router_backpressure: Counters,
    pub(crate) router_pending_requests: Gauges,
    pub(crate) router_pending_tokens: Gauges,
    pub(crate) router_pending_cached_tokens: Gauges,

    pub(crate) plane_inflight: Gauges,
    pub(crate) plane_queue: Histograms,
    pub(crate) plane_roundtrip_ttft: Histograms,
    pub(crate) plane_send: Histograms,
    transport_accept_backoff: Counters,
    transport_bytes_received: Counters,
    transport_bytes_sent: Counters,
    transport_errors: Counters,
    nats_connected: Gauges,
    nats_connections: Counters,
    nats_unread: Counters,
    nats_errors: Counters,

    pub(crate) template_seconds: Histograms,
    pub(crate) tokenize_seconds: Histograms,
    pub(crate) tokenizer_latency_ms: Histograms,
    tokenizer_cache_hits: Counters,
    tokenizer_cache_misses: Counters,
    pub(crate) tokenizer_cached_tokens: Counters,
    pub(crate) tokenizer_uncached_tokens: Counters,
    pub(crate) detokenize_us: Gauges,
    pub(crate) detokenized_tokens: Gauges,

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
    pub(crate) retries_refused: Counters,
    pub(crate) poison_refused: Counters,
    pub(crate) remote_bookings: Gauges,
    pub(crate) bookings_untold: Counters,
    discovery_connected: Gauges,
    discovery_interruptions: Counters,
    discovery_leases_lost: Counters,
}

impl Metrics {
    /// Registers everything. `prefix` replaces `dynamo_frontend`.
    pub(crate) fn new(router_id: u64, prefix: Option<&str>) -> Self {
        let mut registry = Registry::default();
        let mut reg = Registrar { registry: &mut registry, prefix };
        reg.gauges(&own::BUILD_INFO).with(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            models: Mutex::default(),
            prefix: prefix.map(str::to_owned),
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
            router_best_cached_tokens: reg.counters(&r::KV_BEST_ELIGIBLE_CACHED_PREFIX_TOKENS_TOTAL),
            router_selected_cached_tokens: reg.counters(&r::KV_SELECTED_CACHED_PREFIX_TOKENS_TOTAL),
            router_reused_tokens: reg.counters(&r::KV_WORKER_REUSED_TOKENS_TOTAL),
            router_input_tokens: reg.histograms(&r::INPUT_SEQUENCE_TOKENS),
            router_output_tokens: reg.histograms(&r::OUTPUT_SEQUENCE_TOKENS),
            router_requests_started: reg.counters(&r::REQUESTS_STARTED_TOTAL),
            router_requests: reg.counters(&r::REQUESTS_TOTAL),
            router_time_to_first_token: reg.histograms(&r::TIME_TO_FIRST_TOKEN_SECONDS),
            router_inter_token: reg.histograms(&r::INTER_TOKEN_LATENCY_SECONDS),
            router_worker_registered: reg.gauges(&r::WORKER_REGISTERED),
            router_source_mismatch: reg.gauges(&r::KV_EVENT_SOURCE_MISMATCH_WORKERS),
            router_overhead_seq_hashing_ms: reg.histograms(&r::OVERHEAD_SEQ_HASHING_MS),
            router_overhead_matching_ms: reg.histograms(&r::OVERHEAD_INDEXER_FIND_MATCHES_MS),
            router_overhead_hashing_ms: reg.histograms(&r::OVERHEAD_BLOCK_HASHING_MS),
            router_overhead_scheduling_ms: reg.histograms(&r::OVERHEAD_SCHEDULING_MS),
            router_overhead_total_ms: reg.histograms(&r::OVERHEAD_TOTAL_MS),
            kv_events_applied: reg.gauges(&r::KV_CACHE_EVENTS_APPLIED),
            router_received: reg.counters(&w::ROUTER_ADMISSION_RECEIVED_TOTAL),
            router_rejected: reg.counters(&w::ROUTER_ADMISSION_REJECTED_TOTAL),
            router_backpressure: reg.counters(&w::ROUTER_QUEUE_BACKPRESSURE_TOTAL),
            router_pending_requests: reg.gauges(&w::ROUTER_QUEUE_PENDING_REQUESTS),
            router_pending_tokens: reg.gauges(&w::ROUTER_QUEUE_PENDING_ISL_TOKENS),
            router_pending_cached_tokens: reg.gauges(&w::ROUTER_QUEUE_PENDING_CACHED_TOKENS),
            plane_inflight: reg.gauges(&t::REQUEST_PLANE_INFLIGHT_REQUESTS),
            plane_queue: reg.histograms(&t::REQUEST_PLANE_QUEUE_SECONDS),
            plane_roundtrip_ttft: reg.histograms(&t::REQUEST_PLANE_ROUNDTRIP_TTFT_SECONDS),
            plane_send: reg.histograms(&t::REQUEST_PLANE_SEND_SECONDS),
            transport_accept_backoff: reg.counters(&t::TRANSPORT_TCP_ACCEPT_BACKOFF_TOTAL),
            transport_bytes_received: reg.counters(&t::TRANSPORT_TCP_BYTES_RECEIVED_TOTAL),
            transport_bytes_sent: reg.counters(&t::TRANSPORT_TCP_BYTES_SENT_TOTAL),
            transport_errors: reg.counters(&t::TRANSPORT_TCP_ERRORS_TOTAL),
            nats_connected: reg.gauges(&n::CONNECTED),
            nats_connections: reg.counters(&n::CONNECTIONS_TOTAL),
            nats_unread: reg.counters(&n::EVENTS_UNREAD_TOTAL),
            nats_errors: reg.counters(&n::TRANSPORT_NATS_ERRORS_TOTAL),
            template_seconds: reg.histograms(&f::TEMPLATE_SECONDS),
            tokenize_seconds: reg.histograms(&f::TOKENIZE_SECONDS),
            tokenizer_latency_ms: reg.histograms(&f::TOKENIZER_LATENCY_MS),
            tokenizer_cache_hits: reg.counters(&f::TOKENIZER_CACHE_HITS_TOTAL),
            tokenizer_cache_misses: reg.counters(&f::TOKENIZER_CACHE_MISSES_TOTAL),
            tokenizer_cached_tokens: reg.counters(&f::TOKENIZER_CACHE_CACHED_TOKENS_TOTAL),
            tokenizer_uncached_tokens: reg.counters(&f::TOKENIZER_CACHE_UNCACHED_TOKENS_TOTAL),
            detokenize_us: reg.gauges(&f::DETOKENIZE_TOTAL_US),
            detokenized_tokens: reg.gauges(&f::DETOKENIZE_TOKEN_COUNT),
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
            retries_refused: reg.counters(&own::FRONTEND_RETRIES_REFUSED_TOTAL),
            poison_refused: reg.counters(&own::FRONTEND_POISON_REFUSED_TOTAL),
            remote_bookings: reg.gauges(&own::ROUTER_REMOTE_BOOKINGS),
            bookings_untold: reg.counters(&own::ROUTER_BOOKINGS_UNTOLD_TOTAL),
            discovery_connected: reg.gauges(&own::DISCOVERY_CONNECTED),
            discovery_interruptions: reg.counters(&own::DISCOVERY_INTERRUPTIONS_TOTAL),
            discovery_leases_lost: reg.counters(&own::DISCOVERY_LEASES_LOST_TOTAL),
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

    /// Takes over what the request plane and the discovery store have counted themselves.
    pub(crate) fn catch_up(&self, traffic: &Traffic, store: StoreHealth) {
        self.discovery_connected.with(&[]).set(i64::from(store.connected));
        for (counters, total) in [
            (&self.discovery_interruptions, store.interruptions),
            (&self.discovery_leases_lost, store.leases_lost),
            (&self.transport_accept_backoff, traffic.accept_backoffs()),
            (&self.transport_bytes_received, traffic.bytes_received()),
            (&self.transport_bytes_sent, traffic.bytes_sent()),
            (&self.transport_errors, traffic.errors()),
        ] {
            self.raise(counters, &[], total);
        }
    }

    /// Takes over what the connection to NATS has counted itself.
    pub(crate) fn catch_up_nats(&self, nats: &Nats) {
        self.nats_connected.with(&[]).set(i64::from(nats.is_connected()));
        self.raise(&self.nats_connections, &[], nats.counts().sessions());
        self.raise(&self.nats_unread, &[], nats.unread());
        let failures = nats.counts().failures();
        for error_type in n::ERROR_TYPES {
            self.raise(&self.nats_errors, &[error_type], failures.get(error_type).copied().unwrap_or(0));
        }
    }

    /// Brings a counter to a total that is counted elsewhere.
    fn raise(&self, counters: &Counters, labels: &[&str], total: u64) {
        let counter = counters.with(labels);
        // Two renderings at once may count the same growth twice only if both read the counter before either adds to
        // it: the lock keeps them apart.
        let _one_at_a_time = self.models.lock();
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// Counts the text work of one prompt.
    pub(crate) fn text_took(&self, timing: TextTiming) {
        if let Some(template) = timing.template {
            self.template_seconds.with(&[]).observe(template.as_secs_f64());
        }
        if let Some(tokenize) = timing.tokenize {
            self.tokenize_seconds.with(&[]).observe(tokenize.as_secs_f64());
            self.tokenizer_latency_ms.with(&["tokenize"]).observe(tokenize.as_secs_f64() * 1e3);
        }
    }

    /// Counts what of one prompt of a model was known already.
    pub(crate) fn tokens_looked_up(&self, model: &ModelMetrics, reuse: Reuse) {
        let prompts = if reuse.cached_tokens > 0 { &self.tokenizer_cache_hits } else { &self.tokenizer_cache_misses };
        prompts.with(&[]).inc();
        model.tokens_found.inc_by(reuse.cached_tokens as u64);
        model.tokens_made.inc_by(reuse.encoded_tokens as u64);
    }

    /// Counts the text work of one answer.
    pub(crate) fn detokenizing_took(&self, took: Duration, tokens: u32) {
        self.tokenizer_latency_ms.with(&["detokenize"]).observe(took.as_secs_f64() * 1e3);
        self.detokenize_us.with(&[]).inc_by(took.as_micros().try_into().unwrap_or(i64::MAX));
        self.detokenized_tokens.with(&[]).inc_by(i64::from(tokens));
    }

    /// Counts a request that waits for a worker of `model`, until dropped.
    pub(crate) fn wait_in_router(&self, model: &str) -> Waiting {
        let pending = self.model(model).pending.clone();
        pending.inc();
        Waiting(pending)
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // A `String` takes every write.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        exposition::prometheus_text(&text, self.prefix.as_deref())
    }
}

/// A request that waits for a worker.
pub(crate) struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}
