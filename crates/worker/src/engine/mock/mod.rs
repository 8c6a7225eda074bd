//! The mock engine: deterministic text from a real scheduler and a real block pool, without a model.
//!
//! Each token is a pure function of the seeds and of all tokens before it, never of the worker or of time, so a stream
//! that goes on at another worker continues byte for byte. KV changes and `cached_tokens` come from [`sim::pool`] and
//! agree. How long a step takes is [`sim::timing`]'s word; a step's tokens leave when it is over.

mod config;
mod core;
mod profile_file;
mod rules;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;

use self::core::Core;
use self::steps::Steps;
use super::{
    Engine, EngineError, EngineLoad, EngineProfile, FORWARD_PASS_QUEUE_LEN, ForwardPass, KV_CHANGE_QUEUE_LEN,
    OUTPUT_QUEUE_LEN, StartedEngine,
};
pub use config::{MockConfig, MockError};
use parking_lot::Mutex;
pub use profile_file::{ProfileFileError, read_profile};
use protocol::output::EngineOutput;
use protocol::request::PreprocessedRequest;
pub use sim::batch::Victim;
pub use sim::cost::Cost;
pub use sim::timing::{Speedup, Timing};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Sequences that may wait beside those that run. Beyond, another worker is the better place.
pub const WAITING_MAX: usize = 4096;

/// Starts a mock engine and its task; call it inside a tokio runtime.
///
/// # Errors
/// A limit of 0, a share or a ratio that is none, or an empty vocabulary.
pub fn start(config: &MockConfig) -> Result<StartedEngine, MockError> {
    let core = Arc::new(Mutex::new(config.core()?));
    let (changes, kv_changes) = mpsc::channel(KV_CHANGE_QUEUE_LEN);
    let (wake, stopped, passes) = (Arc::new(Notify::new()), CancellationToken::new(), Arc::new(OnceLock::new()));
    let progress = Arc::new(AtomicU64::new(0));
    let profile = EngineProfile {
        engine: "mock",
        device: "cpu",
        context_length: core.lock().context_length(),
        block_size: config.block_size,
        total_kv_blocks: u64::from(config.total_kv_blocks),
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
    };
    let steps = Steps {
        core: core.clone(),
        wake: wake.clone(),
        stopped: stopped.clone(),
        changes,
        passes: passes.clone(),
        timing: config.timing.clone(),
        progress: progress.clone(),
    };
    // The task ends with `stop` or when the last handle of the engine is dropped; it has no error to report.
    tokio::spawn(steps.run());
    Ok(StartedEngine { engine: Arc::new(Mock { core, wake, stopped, passes, progress, profile }), kv_changes })
}

struct Mock {
    core: Arc<Mutex<Core>>,
    wake: Arc<Notify>,
    stopped: CancellationToken,
    passes: Arc<OnceLock<mpsc::Sender<ForwardPass>>>,
    progress: Arc<AtomicU64>,
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

    fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    fn forward_passes(&self) -> Option<mpsc::Receiver<ForwardPass>> {
        let (sender, receiver) = mpsc::channel(FORWARD_PASS_QUEUE_LEN);
        self.passes.set(sender).is_ok().then_some(receiver)
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
