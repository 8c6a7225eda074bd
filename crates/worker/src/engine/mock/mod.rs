//! The mock engine: deterministic text from a real scheduler and a real block pool, without a model.
//!
//! Each token is a pure function of the seeds and of all tokens before it, never of the worker, so a stream that goes
//! on at another worker continues byte for byte. KV changes and `cached_tokens` come from [`sim::pool`] and agree.

mod core;
mod rules;
#[cfg(test)]
mod tests;

use self::core::{Core, Late};
use super::{Engine, EngineError, EngineLoad, EngineProfile, KV_CHANGE_QUEUE_LEN, OUTPUT_QUEUE_LEN, StartedEngine};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use protocol::kv::KvChange;
use protocol::output::EngineOutput;
use protocol::request::PreprocessedRequest;
use sim::batch::{Batch, BatchLimits};
use sim::pool::Pool;
pub use sim::timing::Timing;
use sim::tokens::{EmptyVocabulary, MockModel, Vocabulary};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Sequences that may wait beside those that run. Beyond, another worker is the better place.
pub const WAITING_MAX: usize = 4096;

/// What a mock engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockConfig {
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub total_kv_blocks: u32,
    /// Sequences at once.
    pub max_num_seqs: u32,
    /// Tokens a step, prompt and decode together.
    pub max_num_batched_tokens: u32,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// Equal seeds give equal answers, at every worker.
    pub seed: u64,
    /// Tokens that it may say: plain text of the tokenizer in use, no special ones.
    pub tokens: Vec<RangeInclusive<u32>>,
    /// One token in so many is an end of sequence; never if absent.
    pub eos_one_in: Option<NonZeroU32>,
    /// Share blocks between sequences, and tell about them.
    pub prefix_caching: bool,
    /// How long a step takes.
    pub timing: Timing,
}

impl Default for MockConfig {
    /// Dynamo's mocker's limits, its vLLM block size apart (16 shows caching on short prompts); as fast as possible.
    fn default() -> Self {
        Self {
            block_size: 16,
            total_kv_blocks: 16_384,
            max_num_seqs: 256,
            max_num_batched_tokens: 8_192,
            context_length: 8_192,
            seed: 0,
            tokens: vec![1_000..=4_999],
            eos_one_in: None,
            prefix_caching: true,
            timing: Timing::Instant,
        }
    }
}

/// A mock engine that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MockError {
    /// A limit is 0.
    #[error("{0} of the mock engine is 0; it must be at least 1")]
    Zero(&'static str),
    /// Nothing to say.
    #[error(transparent)]
    Vocabulary(#[from] EmptyVocabulary),
}

/// Starts a mock engine and its task; call it inside a tokio runtime.
///
/// # Errors
/// A limit of 0, or an empty vocabulary.
pub fn start(config: &MockConfig) -> Result<StartedEngine, MockError> {
    let core = Arc::new(Mutex::new(core_of(config)?));
    let (changes, kv_changes) = mpsc::channel(KV_CHANGE_QUEUE_LEN);
    let (wake, stopped) = (Arc::new(Notify::new()), CancellationToken::new());
    let profile = EngineProfile {
        engine: "mock",
        device: "cpu",
        context_length: core.lock().context_length(),
        block_size: config.block_size,
        total_kv_blocks: u64::from(config.total_kv_blocks),
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
    };
    let steps =
        Steps { core: core.clone(), wake: wake.clone(), stopped: stopped.clone(), changes, timing: config.timing };
    // The task ends with `stop` or when the last handle of the engine is dropped; it has no error to report.
    tokio::spawn(steps.run());
    Ok(StartedEngine { engine: Arc::new(Mock { core, wake, stopped, profile }), kv_changes })
}

fn core_of(config: &MockConfig) -> Result<Core, MockError> {
    let at_least_one = [
        ("block_size", config.block_size),
        ("total_kv_blocks", config.total_kv_blocks),
        ("max_num_seqs", config.max_num_seqs),
        ("max_num_batched_tokens", config.max_num_batched_tokens),
        ("context_length", config.context_length),
    ];
    if let Some((name, _)) = at_least_one.into_iter().find(|&(_, value)| value == 0) {
        return Err(MockError::Zero(name));
    }
    let vocabulary = Vocabulary::new(config.tokens.clone())?;
    let model = MockModel { seed: config.seed, vocabulary, eos_one_in: config.eos_one_in };
    let pool = Pool::new(config.block_size as usize, config.total_kv_blocks as usize);
    let pool = if config.prefix_caching { pool } else { pool.without_prefix_caching() };
    let limits = BatchLimits {
        max_num_seqs: config.max_num_seqs as usize,
        max_num_batched_tokens: config.max_num_batched_tokens as usize,
    };
    let room = config.block_size.saturating_mul(config.total_kv_blocks);
    let sequences_max = config.max_num_seqs as usize + WAITING_MAX;
    Ok(Core::new(model, Batch::new(limits, pool), config.context_length.min(room), sequences_max))
}

struct Mock {
    core: Arc<Mutex<Core>>,
    wake: Arc<Notify>,
    stopped: CancellationToken,
    profile: EngineProfile,
}

impl Engine for Mock {
    fn profile(&self) -> EngineProfile {
        self.profile.clone()
    }

    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        if self.stopped.is_cancelled() {
            return Err(EngineError::Unavailable("the mock engine is stopping".into()));
        }
        let (sender, receiver) = mpsc::channel(OUTPUT_QUEUE_LEN);
        self.core.lock().add(request, sender)?;
        self.wake.notify_one();
        Ok(receiver)
    }

    fn load(&self) -> EngineLoad {
        self.core.lock().load()
    }

    fn stop(&self) {
        self.stopped.cancel();
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// The task that steps the engine. The lock is held for one step and never across an await.
struct Steps {
    core: Arc<Mutex<Core>>,
    wake: Arc<Notify>,
    stopped: CancellationToken,
    changes: mpsc::Sender<KvChange>,
    timing: Timing,
}

impl Steps {
    async fn run(self) {
        // Last outputs whose readers are behind; their number counts against the engine's sequences.
        let mut late: FuturesUnordered<_> = FuturesUnordered::new();
        let mut step_ends = Instant::now();
        while !self.stopped.is_cancelled() {
            let step = self.core.lock().step();
            for change in step.changes {
                // A publisher that is gone takes its routers' index with it: nobody is left to tell.
                if self.changes.send(change).await.is_err() {
                    break;
                }
            }
            late.extend(step.late.into_iter().map(deliver));
            if step.is_idle {
                tokio::select! {
                    () = self.wake.notified() => {}
                    Some(()) = late.next() => self.core.lock().late_delivered(1),
                    () = self.stopped.cancelled() => {}
                }
                step_ends = Instant::now();
            } else {
                step_ends = self.pace(step_ends, self.timing.step(&step.shape)).await;
                let mut delivered = 0;
                while let Some(Some(())) = futures::FutureExt::now_or_never(late.next()) {
                    delivered += 1;
                }
                self.core.lock().late_delivered(delivered);
            }
        }
        self.core.lock().cancel_all();
    }

    /// Waits until the step that began at `start` is over; returns that time. A step that took longer than it should
    /// moves the next one: lost time is not made up by a burst.
    async fn pace(&self, start: Instant, duration: Duration) -> Instant {
        if duration.is_zero() {
            tokio::task::yield_now().await;
            return Instant::now();
        }
        let end = (start + duration).max(Instant::now());
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = self.stopped.cancelled() => {}
        }
        end
    }
}

async fn deliver(late: Late) {
    // The reader may be gone; then nobody waits for this.
    let _ = late.sender.send(late.output).await;
}
