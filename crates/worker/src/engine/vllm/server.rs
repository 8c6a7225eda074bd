//! The engine that a vLLM server is to the worker, and the tasks that watch it.

use super::client::{Client, StreamError};
use super::completion::{self, Answer, Dialect};
use super::events;
use super::process;
use super::scrape::{self, Progress};
use crate::engine::{Engine, EngineError, EngineLoad, EngineProfile, OUTPUT_QUEUE_LEN};
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::kv::KvChange;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::tasks::Tasks;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sequences in vLLM beyond those that it runs. Its own queue has no bound, and a request that waits behind this
/// many would be answered sooner elsewhere.
const WAITING_MAX: u32 = 1024;

/// Between two looks at `/metrics` (64 KiB of text).
const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// A server that has not answered for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A server of vLLM.
pub(crate) struct VllmEngine {
    client: Client,
    profile: EngineProfile,
    dialect: Dialect,
    state: Arc<State>,
    tasks: Tasks,
}

/// What the tasks share.
pub(super) struct State {
    /// As of the last look.
    load: Mutex<EngineLoad>,
    /// Blocks that the events say are cached, free ones included, which `/metrics` does not count as used.
    pub(super) cached_blocks: AtomicU64,
    sequences: AtomicU32,
    prefill_tokens: AtomicU64,
    cancelled: AtomicU64,
    /// Fires when the engine was stopped, or is gone.
    stopped: CancellationToken,
}

impl VllmEngine {
    pub(super) fn new(client: Client, profile: EngineProfile, dialect: Dialect) -> Self {
        let stopped = CancellationToken::new();
        let state = State {
            load: Mutex::new(EngineLoad::default()),
            cached_blocks: AtomicU64::new(0),
            sequences: AtomicU32::new(0),
            prefill_tokens: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            stopped,
        };
        Self { client, profile, dialect, state: Arc::new(state), tasks: Tasks::new() }
    }

    /// Starts what follows the server: its events from `source`, its load, and its process. `changes` is closed when
    /// the engine is over.
    pub(super) fn watch(
        &self,
        source: Option<(String, String)>,
        changes: mpsc::Sender<KvChange>,
        child: Option<Child>,
    ) {
        let (state, until_end) = (self.state.clone(), changes.clone());
        self.tasks.spawn_to_end("vllm-process", async move {
            guard(child, &state.stopped).await;
            drop(until_end);
        });
        match source {
            Some((endpoint, topic)) => {
                let following =
                    events::follow(endpoint, topic, self.profile.block_size as usize, changes, self.state.clone());
                let stopped = self.state.stopped.clone();
                self.tasks.spawn("vllm-kv-events", async move {
                    stopped.run_until_cancelled(following).await;
                });
            }
            None => tracing::warn!(
                url = self.client.url(),
                "this vLLM publishes no KV events, so routers cannot see its cache; start it with --kv-events-config"
            ),
        }
        let watching = watch_load(self.client.clone(), self.profile.total_kv_blocks, self.state.clone());
        let stopped = self.state.stopped.clone();
        self.tasks.spawn("vllm-load", async move {
            stopped.run_until_cancelled(watching).await;
        });
    }
}

impl Engine for VllmEngine {
    fn profile(&self) -> EngineProfile {
        self.profile.clone()
    }

    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        if self.state.stopped.is_cancelled() {
            return Err(EngineError::Unavailable("vLLM is stopping or gone".into()));
        }
        let body = completion::body(&request, &self.dialect)?;
        let running = self.state.sequences.load(Ordering::Relaxed);
        let waiting = running.saturating_sub(self.profile.max_num_seqs);
        if waiting >= WAITING_MAX {
            return Err(EngineError::Overloaded { waiting });
        }
        let sequence = Counted::new(self.state.clone(), request.token_ids.len() as u64);
        let (outputs, receiver) = mpsc::channel(OUTPUT_QUEUE_LEN);
        let (client, answer, stopped) = (self.client.clone(), Answer::to(&request), self.state.stopped.clone());
        self.tasks.spawn("vllm-sequence", async move {
            let gone = outputs.clone();
            tokio::select! {
                // Dropping the HTTP stream is what makes vLLM abort the sequence.
                () = gone.closed() => { sequence.state.cancelled.fetch_add(1, Ordering::Relaxed); }
                () = stopped.cancelled() => {}
                () = relay(client, body, answer, outputs, &sequence) => {}
            }
        });
        Ok(receiver)
    }

    fn load(&self) -> EngineLoad {
        let load = *self.state.load.lock();
        EngineLoad {
            active_prefill_tokens: self.state.prefill_tokens.load(Ordering::Relaxed),
            kv_used_blocks: load.kv_used_blocks.max(self.state.cached_blocks.load(Ordering::Relaxed)),
            cancelled_total: self.state.cancelled.load(Ordering::Relaxed),
            ..load
        }
    }

    fn stop(&self) {
        self.state.stopped.cancel();
    }
}

impl Drop for VllmEngine {
    fn drop(&mut self) {
        // The child's guard outlives the group of tasks: it must hear that nobody needs the child any more.
        self.state.stopped.cancel();
    }
}

/// A sequence in the counts, until it is dropped.
struct Counted {
    state: Arc<State>,
    /// Prompt tokens that count as not computed yet.
    prefill_tokens: AtomicU64,
}

impl Counted {
    fn new(state: Arc<State>, prompt_tokens: u64) -> Self {
        state.sequences.fetch_add(1, Ordering::Relaxed);
        state.prefill_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
        Self { state, prefill_tokens: AtomicU64::new(prompt_tokens) }
    }

    fn prefilled(&self) {
        self.state.prefill_tokens.fetch_sub(self.prefill_tokens.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.prefilled();
        self.state.sequences.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One sequence, from the request to its end. A server that breaks off leaves the stream without an end, which lets
/// the caller go on elsewhere; a request that vLLM refuses ends with its text.
async fn relay(
    client: Client,
    body: Value,
    mut answer: Answer,
    outputs: mpsc::Sender<EngineOutput>,
    sequence: &Counted,
) {
    let mut chunks = match client.complete(&body).await {
        Ok(chunks) => chunks,
        Err(StreamError::Refused(text)) => {
            let end = EngineOutput::finished(FinishReason::Error(text), CompletionUsage::default());
            let _ = outputs.send(end).await;
            return;
        }
        Err(error) => return tracing::warn!(%error, "a sequence did not begin"),
    };
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return tracing::warn!(%error, "a sequence broke off"),
        };
        if let Some(output) = answer.chunk(chunk) {
            sequence.prefilled();
            if outputs.send(output).await.is_err() {
                return;
            }
        }
    }
    if let Some(end) = answer.finish() {
        let _ = outputs.send(end).await;
    }
}

/// Looks at `/metrics` until the server is silent for too long, or busy without progress.
async fn watch_load(client: Client, total_kv_blocks: u64, state: Arc<State>) {
    let start = Instant::now();
    let mut heard = start.elapsed();
    let mut progress = Progress::default();
    loop {
        match client.metrics().await {
            Ok(text) => {
                heard = start.elapsed();
                let load = scrape::load(&text, total_kv_blocks);
                *state.load.lock() = load;
                if progress.stalled(&load, heard) {
                    tracing::error!(seconds = scrape::STALL_MAX.as_secs(), "vLLM has work and makes no token");
                    return state.stopped.cancel();
                }
            }
            Err(error) if start.elapsed() - heard > SILENCE_MAX => {
                tracing::error!(%error, seconds = SILENCE_MAX.as_secs(), "vLLM does not answer any more");
                return state.stopped.cancel();
            }
            Err(error) => tracing::debug!(%error, "vLLM did not answer"),
        }
        tokio::time::sleep(LOAD_INTERVAL).await;
    }
}

/// Waits until the engine is stopped, then ends the child; a child that ends by itself stops the engine.
async fn guard(child: Option<Child>, stopped: &CancellationToken) {
    let Some(mut child) = child else { return stopped.cancelled().await };
    tokio::select! {
        ended = child.wait() => {
            tracing::error!(?ended, "`vllm serve` ended by itself");
            stopped.cancel();
        }
        () = stopped.cancelled() => process::end(child).await,
    }
}
