//! The engine that a vLLM server is to the worker, and the tasks that watch it.

use super::answer::Answer;
use super::client::{Client, EventSource, StreamError};
use super::completion::{self, Api, Dialect};
use super::process::Server;
use super::progress::Counters;
use super::{events, watch};
use crate::engine::{Engine, EngineError, EngineLoad, EngineProfile, OUTPUT_QUEUE_LEN};
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::kv::KvChange;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::tasks::Tasks;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sequences in vLLM beyond those that it runs. Its own queue has no bound, and a request that waits behind this
/// many would be answered sooner elsewhere.
const WAITING_MAX: u32 = 1024;

/// A server of vLLM.
pub(crate) struct VllmEngine {
    client: Client,
    profile: EngineProfile,
    dialect: Dialect,
    state: Arc<State>,
    /// How often somebody asked whether it goes forward.
    looks: AtomicU64,
    tasks: Tasks,
}

/// Sums of the prefills that an engine tells of: tokens, seconds.
type PrefillSums = (f64, f64);

/// What the tasks share.
pub(super) struct State {
    /// As of the last look.
    pub(super) load: Mutex<EngineLoad>,
    /// As of the last look: what only a living engine moves, and the sums of its prefills (tokens, seconds).
    pub(super) engine_signs: Mutex<(Option<Counters>, Option<PrefillSums>)>,
    /// Blocks that the events say are cached, free ones included, which `/metrics` does not count as used.
    pub(super) cached_blocks: AtomicU64,
    /// Sequences of ours that are not over.
    pub(super) sequences: AtomicU32,
    /// Tokens that our sequences brought.
    pub(super) tokens: AtomicU64,
    /// Prompt tokens of each of our sequences that has no token yet, by its number.
    prefills: Mutex<HashMap<u64, u64>>,
    next_number: AtomicU64,
    cancelled: AtomicU64,
    /// Fires when the engine was stopped, or is gone.
    pub(super) stopped: CancellationToken,
    /// Why it is gone, when nobody stopped it.
    failure: Mutex<Option<&'static str>>,
}

impl State {
    fn new() -> Self {
        Self {
            load: Mutex::new(EngineLoad::default()),
            engine_signs: Mutex::new((None, None)),
            cached_blocks: AtomicU64::new(0),
            sequences: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
            prefills: Mutex::new(HashMap::new()),
            next_number: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            stopped: CancellationToken::new(),
            failure: Mutex::new(None),
        }
    }

    /// The engine is gone: its streams break off, so that they go on elsewhere.
    pub(super) fn fail(&self, why: &'static str) {
        self.failure.lock().get_or_insert(why);
        self.stopped.cancel();
    }

    /// Why the engine is gone by itself.
    pub(super) fn failed(&self) -> Option<&'static str> {
        *self.failure.lock()
    }

    /// Prompt tokens that may have to be computed before anything moves: the longest prompt, or a step full of short
    /// ones. What is behind them waits for their tokens, which are a sign.
    pub(super) fn prefill_ahead(&self, step_tokens_max: u64) -> u64 {
        let prefills = self.prefills.lock();
        let longest = prefills.values().max().copied().unwrap_or(0);
        longest.max(prefills.values().sum::<u64>().min(step_tokens_max))
    }
}

impl VllmEngine {
    pub(super) fn new(client: Client, profile: EngineProfile, dialect: Dialect) -> Self {
        let state = Arc::new(State::new());
        Self { client, profile, dialect, state, looks: AtomicU64::new(0), tasks: Tasks::new() }
    }

    /// Starts what follows the server: its events from `source`, its load, its progress, and its process. `pace` is
    /// how fast it computed a prompt, tokens a second. `changes` is closed when the engine is over.
    pub(super) fn watch(
        &self,
        source: Option<EventSource>,
        pace: f64,
        changes: mpsc::Sender<KvChange>,
        child: Option<Server>,
    ) {
        let (state, until_end) = (self.state.clone(), changes.clone());
        self.tasks.spawn_to_end("vllm-process", async move {
            watch::process(child, state).await;
            drop(until_end);
        });
        match source {
            Some(source) => {
                let block_size = self.profile.block_size as usize;
                self.until_stopped("vllm-kv-events", events::follow(source, block_size, changes, self.state.clone()));
            }
            None => tracing::warn!(
                url = self.client.url(),
                "this vLLM publishes no KV events, so routers cannot see its cache; start it with --kv-events-config"
            ),
        }
        let load = watch::load(self.client.clone(), self.profile.total_kv_blocks, self.state.clone());
        self.until_stopped("vllm-load", load);
        let step_tokens_max = u64::from(self.profile.max_num_batched_tokens);
        self.until_stopped("vllm-progress", watch::progress(pace, step_tokens_max, self.state.clone()));
    }

    fn until_stopped(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.state.stopped.clone();
        self.tasks.spawn(name, async move {
            stopped.run_until_cancelled(task).await;
        });
    }
}

impl Engine for VllmEngine {
    fn profile(&self) -> EngineProfile {
        self.profile.clone()
    }

    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        if self.state.stopped.is_cancelled() {
            return Err(EngineError::Unavailable(self.state.failed().unwrap_or("vLLM is stopping").into()));
        }
        let body = completion::request_body(&request, &self.dialect)?;
        let running = self.state.sequences.load(Ordering::Relaxed);
        let waiting = running.saturating_sub(self.profile.max_num_seqs);
        if waiting >= WAITING_MAX {
            return Err(EngineError::Overloaded { waiting });
        }
        let sequence = Counted::new(self.state.clone(), request.token_ids.len() as u64);
        let (outputs, receiver) = mpsc::channel(OUTPUT_QUEUE_LEN);
        let (client, answer, stopped) = (self.client.clone(), Answer::to(&request), self.state.stopped.clone());
        let api = self.dialect.api;
        self.tasks.spawn("vllm-sequence", async move {
            let gone = outputs.clone();
            tokio::select! {
                // Dropping the HTTP stream is what makes vLLM abort the sequence.
                () = gone.closed() => { sequence.state.cancelled.fetch_add(1, Ordering::Relaxed); }
                () = stopped.cancelled() => {}
                () = relay(client, api, body, answer, outputs, &sequence) => {}
            }
        });
        Ok(receiver)
    }

    fn load(&self) -> EngineLoad {
        let load = *self.state.load.lock();
        EngineLoad {
            active_prefill_tokens: self.state.prefills.lock().values().sum(),
            kv_used_blocks: load.kv_used_blocks.max(self.state.cached_blocks.load(Ordering::Relaxed)),
            cancelled_total: self.state.cancelled.load(Ordering::Relaxed),
            ..load
        }
    }

    /// A hang of vLLM is found by this engine's own watch, which knows its counters and its pace and ends every
    /// sequence then; until then it counts as going forward.
    fn progress(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed)
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
    number: u64,
}

impl Counted {
    fn new(state: Arc<State>, prompt_tokens: u64) -> Self {
        state.sequences.fetch_add(1, Ordering::Relaxed);
        let number = state.next_number.fetch_add(1, Ordering::Relaxed);
        state.prefills.lock().insert(number, prompt_tokens);
        Self { state, number }
    }

    /// Tokens came; the first of them say that the prompt is computed.
    fn brought(&self, tokens: usize, first: bool) {
        self.state.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        if first {
            self.state.prefills.lock().remove(&self.number);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.state.prefills.lock().remove(&self.number);
        self.state.sequences.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One sequence, from the request to its end. A server that breaks off leaves the stream without an end, which lets
/// the caller go on elsewhere; a request that vLLM refuses ends with its text.
async fn relay(
    client: Client,
    api: Api,
    body: Value,
    mut answer: Answer,
    outputs: mpsc::Sender<EngineOutput>,
    sequence: &Counted,
) {
    let mut chunks = match client.complete(api, &body).await {
        Ok(chunks) => chunks,
        Err(StreamError::Refused(text)) => {
            let end = EngineOutput::finished(FinishReason::Error(text), CompletionUsage::default());
            let _ = outputs.send(end).await;
            return;
        }
        Err(error) => return tracing::warn!(%error, "a sequence did not begin"),
    };
    let mut first = true;
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return tracing::warn!(%error, "a sequence broke off"),
        };
        if let Some(output) = answer.chunk(chunk) {
            sequence.brought(output.token_ids.len(), std::mem::take(&mut first));
            if outputs.send(output).await.is_err() {
                return;
            }
        }
    }
    if let Some(why) = answer.broken() {
        return tracing::warn!(why, "vLLM gave up a sequence");
    }
    if let Some(end) = answer.finish() {
        let _ = outputs.send(end).await;
    }
}
