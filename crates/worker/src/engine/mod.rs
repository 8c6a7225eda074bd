//! Engines as guests behind one trait: embedded (llama.cpp), vLLM and mock.
//!
//! An engine owns its scheduling and its KV cache. It takes tokens and gives tokens; text, HTTP and the wire are
//! somebody else's. Dropping the receiver that [`Engine::generate`] gave cancels that sequence within one step.

#[cfg(feature = "engine-llama")]
pub mod embedded;
pub mod mock;
pub mod vllm;

use protocol::events::RequestFigures;
use protocol::kv::KvChange;
use protocol::output::EngineOutput;
use protocol::request::PreprocessedRequest;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Outputs an engine may run ahead of its reader, per sequence. A slow reader stalls its own sequence only: the
/// engine keeps the surplus out of its step loop by merging tokens into one output.
pub const OUTPUT_QUEUE_LEN: usize = 64;

/// Cache changes an engine may run ahead of the publisher. A full queue makes the engine wait, never drop: a lost
/// change would make every router wrong about this worker.
pub const KV_CHANGE_QUEUE_LEN: usize = 4096;

/// Steps an engine may run ahead of who tells them. A step that finds the queue full is not told: figures of steps
/// are a sample, and holding the engine up for them would change what they measure.
pub const FORWARD_PASS_QUEUE_LEN: usize = 256;

/// An engine that is loaded, and the stream of its cache changes.
pub struct StartedEngine {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Every change of its KV cache, in order, exactly once. Closed when the engine stops.
    pub kv_changes: mpsc::Receiver<KvChange>,
}

/// Tokens in, tokens out.
pub trait Engine: Send + Sync + 'static {
    /// What the engine is and what its limits are; constant over its life.
    fn profile(&self) -> EngineProfile;

    /// Starts one sequence (`n` is 1 here; the worker fans out).
    ///
    /// The first output carries `completion_usage` with `cached_tokens`, the last one `finish_reason` and the final
    /// usage; a failure in mid-stream is a last output with [`protocol::output::FinishReason::Error`]. Dropping the
    /// receiver cancels within one step and frees the sequence's blocks.
    ///
    /// # Errors
    /// What can be known before the first step: a request that no retry can help, or an engine that is full.
    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError>;

    /// Load and counters at this moment.
    fn load(&self) -> EngineLoad;

    /// A number that grows while the engine computes, whatever it computes, and stands still when it hangs; when it is
    /// idle it may do either. Asked once a second at most for each request that waits.
    fn progress(&self) -> u64 {
        let load = self.load();
        let computed = load.prompt_tokens_total.saturating_sub(load.active_prefill_tokens);
        [computed, load.generation_tokens_total, load.preemptions_total, load.cancelled_total]
            .iter()
            .fold(0, |sum: u64, part| sum.wrapping_add(*part))
    }

    /// Whether a constrained answer that another worker began can go on here: the engine advances its grammar over
    /// [`PreprocessedRequest::resumed_tokens`]. An engine that cannot is not sent such a request, and refuses it.
    fn resumes_guided(&self) -> bool {
        false
    }

    /// What each step computes from now on; `None` if this engine does not tell, or tells somebody already.
    fn forward_passes(&self) -> Option<mpsc::Receiver<ForwardPass>> {
        None
    }

    /// Stops the engine's thread or process after the running sequences are cancelled. Idempotent.
    fn stop(&self);
}

/// What an engine is and what its limits are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineProfile {
    /// `embedded`, `vllm` or `mock`.
    pub engine: &'static str,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub total_kv_blocks: u64,
    /// Sequences at once.
    pub max_num_seqs: u32,
    /// Tokens a step.
    pub max_num_batched_tokens: u32,
}

/// Load at one moment, and counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Sequences that decode or prefill.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
    /// Blocks in use, cached ones included.
    pub kv_used_blocks: u64,
    /// Blocks of running sequences.
    pub active_decode_blocks: u64,
    /// Prompt tokens accepted and not yet computed.
    pub active_prefill_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens_total: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens_total: u64,
    /// Prompt tokens accepted.
    pub prompt_tokens_total: u64,
    /// Tokens made.
    pub generation_tokens_total: u64,
    /// Sequences preempted for lack of blocks.
    pub preemptions_total: u64,
    /// Sequences cancelled by their caller.
    pub cancelled_total: u64,
}

/// One step of an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardPass {
    /// How long it took.
    pub wall_time: Duration,
    /// What it computed.
    pub scheduled: RequestFigures,
    /// What waited meanwhile.
    pub queued: RequestFigures,
}

/// Why a sequence cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request is wrong; no other worker would take it either. The text names the field.
    #[error("{0}")]
    InvalidRequest(String),
    /// The prompt does not fit.
    #[error("the prompt has {prompt_tokens} tokens, but the context of this model is {context_length} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the context.
        context_length: u32,
    },
    /// Every place is taken; another worker may have one.
    #[error("the engine is full: {waiting} sequences wait already")]
    Overloaded {
        /// Sequences that wait.
        waiting: u32,
    },
    /// The engine is broken or stopping; another worker may serve.
    #[error("the engine is not available: {0}")]
    Unavailable(String),
}
