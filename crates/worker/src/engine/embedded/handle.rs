//! The engine as its callers hold it.

use super::backend::backend;
use super::config::{EmbeddedConfig, Limits};
use super::device::Device;
use super::error::EmbeddedError;
use super::guided::Guides;
use super::load_model::{can_share_prefixes, load_model, vocabulary};
use super::request::{Job, Vocabulary};
use super::runner::Runner;
use super::shared::{Arrival, Shared};
use crate::engine::{
    Engine, EngineError, EngineLoad, EngineProfile, KV_CHANGE_QUEUE_LEN, OUTPUT_QUEUE_LEN, StartedEngine,
};
use parking_lot::Mutex;
use protocol::output::EngineOutput;
use protocol::request::PreprocessedRequest;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Loads a model and starts its thread. Blocks while the model loads: call it off the async threads.
///
/// # Errors
/// A setting that cannot be, a file that is no model, or too little memory.
pub fn start(config: EmbeddedConfig) -> Result<StartedEngine, EmbeddedError> {
    let asked = Limits::of(&config)?;
    let path = config.model;
    let model = Arc::new(load_model(&path, asked.n_gpu_layers)?);
    let limits = asked.with_model(model.n_ctx_train(), asked.pool_tokens);
    let holders = if can_share_prefixes(&model) {
        limits.max_num_seqs
    } else {
        tracing::warn!(model = %path.display(), "no prefix cache: the model keeps a recurrent state or a sliding window");
        0
    };
    let (entrance, arrivals) = sync_channel(limits.max_waiting as usize);
    let (kv_sender, kv_changes) = mpsc::channel(KV_CHANGE_QUEUE_LEN);
    let shared = Arc::new(Shared::new(entrance, limits.max_waiting));
    let (ready_sender, ready) = sync_channel(1);
    let (thread_model, thread_shared, thread_path) = (model.clone(), shared.clone(), path.clone());
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || match Device::new(&thread_model, &thread_path, &limits, holders) {
            Ok(device) => {
                let cells = device.cells();
                let runner = Runner::new(device, limits, holders, arrivals, thread_shared, kv_sender);
                // The caller may have given up waiting; then the way in is closed and the run ends at once.
                drop(ready_sender.send(Ok(cells)));
                runner.run();
            }
            Err(error) => drop(ready_sender.send(Err(error))),
        })
        .map_err(EmbeddedError::Thread)?;
    let cells = ready.recv().map_err(|_| context_lost(&path, &limits))??;
    let engine = EmbeddedEngine {
        device: device_name(limits.n_gpu_layers),
        limits: limits.with_model(limits.context_length, cells),
        vocabulary: vocabulary(&model),
        guides: Guides::new(model),
        shared,
        thread: Mutex::new(Some(thread)),
    };
    Ok(StartedEngine { engine: Arc::new(engine), kv_changes })
}

fn context_lost(path: &Path, limits: &Limits) -> EmbeddedError {
    let reason = "the engine's thread ended while it made the context".into();
    EmbeddedError::Context { path: PathBuf::from(path), kv_pool_tokens: limits.pool_tokens, reason }
}

fn device_name(n_gpu_layers: u32) -> &'static str {
    match n_gpu_layers > 0 && backend().supports_gpu_offload() {
        true if cfg!(feature = "cuda") => "cuda",
        true if cfg!(feature = "vulkan") => "vulkan",
        _ => "cpu",
    }
}

struct EmbeddedEngine {
    device: &'static str,
    limits: Limits,
    vocabulary: Vocabulary,
    guides: Guides,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine for EmbeddedEngine {
    fn profile(&self) -> EngineProfile {
        EngineProfile {
            engine: "embedded",
            device: self.device,
            context_length: self.limits.context_length,
            block_size: self.limits.block_size,
            total_kv_blocks: u64::from(self.limits.pool_tokens / self.limits.block_size),
            max_num_seqs: self.limits.max_num_seqs,
            max_num_batched_tokens: self.limits.max_num_batched_tokens,
        }
    }

    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        let job = Job::of(request, &self.limits, &self.vocabulary, &self.guides, rand::random())?;
        let (sender, receiver) = mpsc::channel(OUTPUT_QUEUE_LEN);
        self.shared.submit(Arrival { job, sender })?;
        Ok(receiver)
    }

    fn load(&self) -> EngineLoad {
        self.shared.load()
    }

    fn progress(&self) -> u64 {
        self.shared.advance.value()
    }

    fn resumes_guided(&self) -> bool {
        true
    }

    fn stop(&self) {
        self.shared.close();
        // llama.cpp must not compute while the process tears down its globals, so wait: one step at most.
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread ended in a panic");
        }
    }
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.stop();
    }
}
