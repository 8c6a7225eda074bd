//! `dynamo_frontend_*`: requests as the HTTP edge sees them.
//!
//! Source: `/metrics` of ai-dynamo 1.6.1, recorded; names, help, labels and buckets are the stock ones.

use crate::{MetricKind, MetricSpec, buckets, labels};

/// Every family of this module, in this order.
pub const ALL: &[MetricSpec] = &[
    ACTIVE_REQUESTS,
    CACHED_TOKENS,
    DETOKENIZE_TOKEN_COUNT,
    DETOKENIZE_TOTAL_US,
    DISCONNECTED_CLIENTS,
    FAILURES_TOTAL,
    INFLIGHT_REQUESTS,
    INPUT_SEQUENCE_TOKENS,
    INTER_TOKEN_LATENCY_SECONDS,
    MODEL_CANCELLATION_TOTAL,
    MODEL_CONTEXT_LENGTH,
    MODEL_KV_CACHE_BLOCK_SIZE,
    MODEL_MAX_NUM_BATCHED_TOKENS,
    MODEL_MAX_NUM_SEQS,
    MODEL_MIGRATION_DURATION_SECONDS,
    MODEL_MIGRATION_LIMIT,
    MODEL_MIGRATION_TOTAL,
    MODEL_READY,
    MODEL_TOTAL_KV_BLOCKS,
    OUTPUT_SEQUENCE_TOKENS,
    OUTPUT_TOKENS_TOTAL,
    QUEUED_REQUESTS,
    REQUEST_DURATION_SECONDS,
    REQUESTS_STARTED_TOTAL,
    REQUESTS_TOTAL,
    STAGE_DURATION_SECONDS,
    STAGE_REQUESTS,
    TEMPLATE_SECONDS,
    TIME_TO_FIRST_TOKEN_SECONDS,
    TOKENIZE_SECONDS,
    TOKENIZER_CACHE_CACHED_TOKENS_TOTAL,
    TOKENIZER_CACHE_HITS_TOTAL,
    TOKENIZER_CACHE_MISSES_TOTAL,
    TOKENIZER_CACHE_UNCACHED_TOKENS_TOTAL,
    TOKENIZER_LATENCY_MS,
    MODEL_REJECTION_TOTAL,
    MODEL_MIGRATION_MAX_SEQ_LEN_EXCEEDED_TOTAL,
];

/// `dynamo_frontend_active_requests`: number of requests currently being handled by the frontend, from HTTP handler entry to response completion.
pub const ACTIVE_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_active_requests",
    kind: MetricKind::Gauge,
    help: "Number of requests currently being handled by the frontend, from HTTP handler entry to response completion",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_cached_tokens`: number of cached tokens (prefix cache hits) per request.
pub const CACHED_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_cached_tokens",
    kind: MetricKind::Histogram(buckets::TOKENS_IN),
    help: "Number of cached tokens (prefix cache hits) per request",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_detokenize_token_count`: total tokens detokenized.
pub const DETOKENIZE_TOKEN_COUNT: MetricSpec = MetricSpec {
    name: "dynamo_frontend_detokenize_token_count",
    kind: MetricKind::Counter,
    help: "Total tokens detokenized",
    labels: &[],
};

/// `dynamo_frontend_detokenize_total_us`: cumulative detokenization time (microseconds).
pub const DETOKENIZE_TOTAL_US: MetricSpec = MetricSpec {
    name: "dynamo_frontend_detokenize_total_us",
    kind: MetricKind::Counter,
    help: "Cumulative detokenization time (microseconds)",
    labels: &[],
};

/// `dynamo_frontend_disconnected_clients`: number of disconnected clients.
pub const DISCONNECTED_CLIENTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_disconnected_clients",
    kind: MetricKind::Gauge,
    help: "Number of disconnected clients",
    labels: &[],
};

/// `dynamo_frontend_failures_total`: total number of terminal semantic request failures.
pub const FAILURES_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_failures_total",
    kind: MetricKind::Counter,
    help: "Total number of terminal semantic request failures",
    labels: &[labels::CLASS, labels::REASON],
};

/// `dynamo_frontend_inflight_requests`: number of inflight requests.
pub const INFLIGHT_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_inflight_requests",
    kind: MetricKind::Gauge,
    help: "Number of inflight requests",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_input_sequence_tokens`: input sequence length in tokens.
pub const INPUT_SEQUENCE_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_input_sequence_tokens",
    kind: MetricKind::Histogram(buckets::TOKENS_IN),
    help: "Input sequence length in tokens",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_inter_token_latency_seconds`: inter-token latency in seconds.
pub const INTER_TOKEN_LATENCY_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_inter_token_latency_seconds",
    kind: MetricKind::Histogram(buckets::ITL_SECONDS),
    help: "Inter-token latency in seconds",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_cancellation_total`: total number of request cancellations.
pub const MODEL_CANCELLATION_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_cancellation_total",
    kind: MetricKind::Counter,
    help: "Total number of request cancellations",
    labels: &[labels::MODEL, labels::ENDPOINT, labels::REQUEST_TYPE],
};

/// `dynamo_frontend_model_context_length`: maximum context length in tokens for a worker serving the model.
pub const MODEL_CONTEXT_LENGTH: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_context_length",
    kind: MetricKind::Gauge,
    help: "Maximum context length in tokens for a worker serving the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_kv_cache_block_size`: KV cache block size in tokens for a worker serving the model.
pub const MODEL_KV_CACHE_BLOCK_SIZE: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_kv_cache_block_size",
    kind: MetricKind::Gauge,
    help: "KV cache block size in tokens for a worker serving the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_max_num_batched_tokens`: maximum number of batched tokens for a worker serving the model.
pub const MODEL_MAX_NUM_BATCHED_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_max_num_batched_tokens",
    kind: MetricKind::Gauge,
    help: "Maximum number of batched tokens for a worker serving the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_max_num_seqs`: maximum number of sequences for a worker serving the model.
pub const MODEL_MAX_NUM_SEQS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_max_num_seqs",
    kind: MetricKind::Gauge,
    help: "Maximum number of sequences for a worker serving the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_migration_duration_seconds`: time from detecting a migratable failure until recovery, terminal failure, or cancellation.
pub const MODEL_MIGRATION_DURATION_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_migration_duration_seconds",
    kind: MetricKind::Histogram(buckets::MIGRATION_SECONDS),
    help: "Time from detecting a migratable failure until recovery, terminal failure, or cancellation",
    labels: &[labels::MODEL, labels::MIGRATION_TYPE, labels::OUTCOME],
};

/// `dynamo_frontend_model_migration_limit`: maximum number of request migrations allowed for the model.
pub const MODEL_MIGRATION_LIMIT: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_migration_limit",
    kind: MetricKind::Gauge,
    help: "Maximum number of request migrations allowed for the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_migration_total`: total number of request migrations due to worker unavailability.
pub const MODEL_MIGRATION_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_migration_total",
    kind: MetricKind::Counter,
    help: "Total number of request migrations due to worker unavailability",
    labels: &[labels::MODEL, labels::MIGRATION_TYPE],
};

/// `dynamo_frontend_model_ready`: whether the frontend can route at least one inference request for the model (1 = ready, 0 = not ready).
pub const MODEL_READY: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_ready",
    kind: MetricKind::Gauge,
    help: "Whether the frontend can route at least one inference request for the model (1 = ready, 0 = not ready)",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_model_total_kv_blocks`: total KV cache blocks available for a worker serving the model.
pub const MODEL_TOTAL_KV_BLOCKS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_total_kv_blocks",
    kind: MetricKind::Gauge,
    help: "Total KV cache blocks available for a worker serving the model",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_output_sequence_tokens`: output sequence length in tokens.
pub const OUTPUT_SEQUENCE_TOKENS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_output_sequence_tokens",
    kind: MetricKind::Histogram(buckets::TOKENS_OUT),
    help: "Output sequence length in tokens",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_output_tokens_total`: total number of output tokens generated (updates in real-time).
pub const OUTPUT_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_output_tokens_total",
    kind: MetricKind::Counter,
    help: "Total number of output tokens generated (updates in real-time)",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_queued_requests`: number of requests in HTTP processing queue.
pub const QUEUED_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_queued_requests",
    kind: MetricKind::Gauge,
    help: "Number of requests in HTTP processing queue",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_request_duration_seconds`: duration of LLM requests.
pub const REQUEST_DURATION_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_request_duration_seconds",
    kind: MetricKind::Histogram(buckets::REQUEST_SECONDS),
    help: "Duration of LLM requests",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_requests_started_total`: total number of LLM requests accepted by the frontend handler.
pub const REQUESTS_STARTED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_requests_started_total",
    kind: MetricKind::Counter,
    help: "Total number of LLM requests accepted by the frontend handler",
    labels: &[labels::MODEL, labels::ENDPOINT, labels::REQUEST_TYPE],
};

/// `dynamo_frontend_requests_total`: total number of LLM requests processed.
pub const REQUESTS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_requests_total",
    kind: MetricKind::Counter,
    help: "Total number of LLM requests processed",
    labels: &[labels::MODEL, labels::ENDPOINT, labels::REQUEST_TYPE, labels::STATUS, labels::ERROR_TYPE],
};

/// `dynamo_frontend_stage_duration_seconds`: pipeline stage duration (seconds).
pub const STAGE_DURATION_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_stage_duration_seconds",
    kind: MetricKind::Histogram(buckets::STAGE_SECONDS),
    help: "Pipeline stage duration (seconds)",
    labels: &[labels::STAGE],
};

/// `dynamo_frontend_stage_requests`: number of requests currently in the given pipeline stage.
pub const STAGE_REQUESTS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_stage_requests",
    kind: MetricKind::Gauge,
    help: "Number of requests currently in the given pipeline stage",
    labels: &[labels::PHASE, labels::STAGE],
};

/// `dynamo_frontend_template_seconds`: template application time in preprocessor (seconds).
pub const TEMPLATE_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_template_seconds",
    kind: MetricKind::Histogram(buckets::TEMPLATE_SECONDS),
    help: "Template application time in preprocessor (seconds)",
    labels: &[],
};

/// `dynamo_frontend_time_to_first_token_seconds`: time to first token in seconds.
pub const TIME_TO_FIRST_TOKEN_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_time_to_first_token_seconds",
    kind: MetricKind::Histogram(buckets::TTFT_SECONDS),
    help: "Time to first token in seconds",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_tokenize_seconds`: tokenization time in preprocessor (seconds).
pub const TOKENIZE_SECONDS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenize_seconds",
    kind: MetricKind::Histogram(buckets::SHORT_SECONDS),
    help: "Tokenization time in preprocessor (seconds)",
    labels: &[],
};

/// `dynamo_frontend_tokenizer_cache_cached_tokens_total`: total tokens returned from the L1 tokenizer prefix cache.
pub const TOKENIZER_CACHE_CACHED_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenizer_cache_cached_tokens_total",
    kind: MetricKind::Counter,
    help: "Total tokens returned from the L1 tokenizer prefix cache",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_tokenizer_cache_hits_total`: cumulative L1 tokenizer prefix-cache hits.
pub const TOKENIZER_CACHE_HITS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenizer_cache_hits_total",
    kind: MetricKind::Counter,
    help: "Cumulative L1 tokenizer prefix-cache hits",
    labels: &[],
};

/// `dynamo_frontend_tokenizer_cache_misses_total`: cumulative L1 tokenizer prefix-cache misses.
pub const TOKENIZER_CACHE_MISSES_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenizer_cache_misses_total",
    kind: MetricKind::Counter,
    help: "Cumulative L1 tokenizer prefix-cache misses",
    labels: &[],
};

/// `dynamo_frontend_tokenizer_cache_uncached_tokens_total`: total tokens freshly encoded after an L1 tokenizer prefix-cache lookup.
pub const TOKENIZER_CACHE_UNCACHED_TOKENS_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenizer_cache_uncached_tokens_total",
    kind: MetricKind::Counter,
    help: "Total tokens freshly encoded after an L1 tokenizer prefix-cache lookup",
    labels: &[labels::MODEL],
};

/// `dynamo_frontend_tokenizer_latency_ms`: tokenizer latency in milliseconds.
pub const TOKENIZER_LATENCY_MS: MetricSpec = MetricSpec {
    name: "dynamo_frontend_tokenizer_latency_ms",
    kind: MetricKind::Histogram(buckets::TOKENIZER_MS),
    help: "Tokenizer latency in milliseconds",
    labels: &[labels::OPERATION],
};

/// `dynamo_frontend_model_rejection_total`: total number of requests rejected because no worker could take them.
pub const MODEL_REJECTION_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_rejection_total",
    kind: MetricKind::Counter,
    help: "Total number of requests rejected because no worker could take them",
    labels: &[labels::MODEL, labels::ENDPOINT],
};

/// `dynamo_frontend_model_migration_max_seq_len_exceeded_total`: total number of migrations not tried because the sequence was longer than the migration limit.
pub const MODEL_MIGRATION_MAX_SEQ_LEN_EXCEEDED_TOTAL: MetricSpec = MetricSpec {
    name: "dynamo_frontend_model_migration_max_seq_len_exceeded_total",
    kind: MetricKind::Counter,
    help: "Total number of migrations not tried because the sequence was longer than the migration limit",
    labels: &[labels::MODEL],
};
