//! The other payloads of the event plane, and the KV recovery query.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.3 and §5.4.

use crate::ids::{InstanceId, WorkerRank};
use crate::kv::{BlockHash, WorkerKvEvent};
use serde::{Deserialize, Serialize};

/// Topic of KV events.
pub const KV_EVENTS: &str = "kv-events";
/// Topic of worker load.
pub const KV_METRICS: &str = "kv_metrics";
/// Topic of booked sequences.
pub const ACTIVE_SEQUENCES_EVENTS: &str = "active_sequences_events";
/// Topic of per-step engine figures.
pub const FORWARD_PASS_METRICS: &str = "forward-pass-metrics";

/// Load of one rank of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvMetrics {
    /// The worker.
    pub worker_id: InstanceId,
    /// Its rank.
    pub dp_rank: u32,
    /// Blocks of running sequences.
    #[serde(default)]
    pub active_decode_blocks: Option<u64>,
    /// Prompt tokens not yet computed.
    #[serde(default)]
    pub active_prefill_tokens: Option<u64>,
    /// Blocks in use, cached ones included.
    #[serde(default)]
    pub kv_used_blocks: Option<u64>,
}

/// A message of [`ACTIVE_SEQUENCES_EVENTS`] over ZMQ. Over NATS each message is one bare [`ActiveSequenceEvent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSequencesMessage {
    /// The events.
    pub events: Vec<ActiveSequenceEvent>,
}

/// A booking, as shared between routers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSequenceEvent {
    /// The request.
    pub request_id: String,
    /// Where it runs.
    pub worker: WorkerRank,
    /// What happened.
    pub data: ActiveSequenceChange,
    /// Who says so; a publisher ignores its own echo. Workers use their worker id.
    pub router_id: u64,
    /// LoRA adapter.
    #[serde(default)]
    pub lora_name: Option<String>,
}

/// What happened to a booking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ActiveSequenceChange {
    /// A request was sent to the worker.
    AddRequest {
        /// Its prompt's full blocks.
        token_sequence: Option<Vec<BlockHash>>,
        /// Whether prompt tokens count as load.
        track_prefill_tokens: bool,
        /// Expected output length.
        expected_output_tokens: Option<u32>,
        /// Prompt tokens to compute.
        prefill_load_hint: Option<PrefillLoadHint>,
    },
    /// Its prompt is computed.
    MarkPrefillCompleted,
    /// It is over.
    Free,
}

/// Prompt work that a request brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrefillLoadHint {
    /// Tokens not in the cache.
    pub initial_effective_prefill_tokens: u64,
    /// Expected time, opaque.
    #[serde(default)]
    pub expected_prefill_duration: Option<serde_json::Value>,
}

/// A message of [`FORWARD_PASS_METRICS`]: one for each step of the engine, and about one a second when idle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardPassMetrics {
    /// 1.
    pub version: u32,
    /// The worker's id as decimal text.
    pub worker_id: String,
    /// Its rank.
    pub dp_rank: u32,
    /// Starts at 1, one up for each message.
    pub counter_id: u64,
    /// Duration of the step, seconds; 0 when idle.
    pub wall_time: f64,
    /// What the step computed.
    pub scheduled_requests: RequestFigures,
    /// What waits.
    pub queued_requests: RequestFigures,
}

/// Requests of one kind in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestFigures {
    /// Requests whose prompt is computed.
    #[serde(default)]
    pub num_prefill_requests: u64,
    /// Their prompt tokens.
    #[serde(default)]
    pub sum_prefill_tokens: u64,
    /// Variance of their prompt lengths, tokens².
    #[serde(default)]
    pub var_prefill_length: f64,
    /// Their tokens already in the cache; only of scheduled requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_prefill_kv_tokens: Option<u64>,
    /// Requests that generate.
    #[serde(default)]
    pub num_decode_requests: u64,
    /// Their tokens in the cache.
    #[serde(default)]
    pub sum_decode_kv_tokens: u64,
    /// Variance of these, tokens².
    #[serde(default)]
    pub var_decode_kv_tokens: f64,
}

/// The question to a worker's KV indexer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryQuery {
    /// The worker.
    pub worker_id: InstanceId,
    /// Its rank.
    pub dp_rank: u32,
    /// First event wanted; `None` asks for a full dump.
    pub start_event_id: Option<u64>,
    /// Last event wanted; `None` is the newest.
    pub end_event_id: Option<u64>,
    /// The asker understands `TreeDumpFailed`.
    #[serde(default)]
    pub supports_tree_dump_failed: bool,
    /// `recovery`.
    pub kind: String,
}

/// The answer of a worker's KV indexer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RecoveryAnswer {
    /// All that is stored (ids may be made up), or the whole history; apply in order, then continue after `last_event_id`.
    TreeDump {
        /// Stored events, parents first.
        events: Vec<WorkerKvEvent>,
        /// The cursor to continue from.
        last_event_id: u64,
        /// `all`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reset_scope: Option<String>,
    },
    /// The events asked for, with their ids.
    Events {
        /// In order.
        events: Vec<WorkerKvEvent>,
        /// The newest that the worker has.
        last_event_id: u64,
    },
    /// The dump failed; continue after `last_event_id`.
    TreeDumpFailed {
        /// The cursor to continue from.
        last_event_id: u64,
        /// Why.
        message: String,
    },
    /// The start is ahead of the worker.
    TooNew {
        /// As asked.
        requested_start: Option<u64>,
        /// As asked.
        requested_end: Option<u64>,
        /// What there is.
        newest_available: u64,
    },
    /// Start after end.
    InvalidRange {
        /// As asked.
        start_id: u64,
        /// As asked.
        end_id: u64,
    },
    /// Anything else.
    Error(String),
}
