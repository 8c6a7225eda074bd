//! An engine that does what the first token of the prompt says, and the worker around it.

use parking_lot::Mutex;
use protocol::kv::{BlockHash, KvChange, StoredBlock, StoredBlocks, TokensHash, block_hashes, tokens_hashes};
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::discovery::Discovery;
use runtime::request_plane::{RequestClient, RequestClientConfig, RequestServerConfig};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use worker::card::ServedModel;
use worker::engine::{Engine, EngineError, EngineLoad, EngineProfile, OUTPUT_QUEUE_LEN, StartedEngine};
use worker::{Worker, WorkerConfig};

/// Longest that a condition is waited for; only a broken build waits this long.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// First tokens of a prompt that make the engine misbehave; any other makes it answer.
pub(crate) const INVALID: u32 = 2;
pub(crate) const TOO_LONG: u32 = 3;
pub(crate) const OVERLOADED: u32 = 4;
pub(crate) const UNAVAILABLE: u32 = 5;
pub(crate) const PANIC: u32 = 6;
pub(crate) const NO_END: u32 = 7;

pub(crate) const BLOCK: usize = 4;

/// Answers token `100 + i` at step `i`, one step per permit of `steps`.
pub(crate) struct Scripted {
    pub(crate) steps: Arc<Semaphore>,
    pub(crate) running: watch::Sender<u32>,
    pub(crate) stops: AtomicU32,
    pub(crate) seeds: Mutex<Vec<Option<i64>>>,
    /// What a router should believe.
    pub(crate) stored: Arc<Mutex<BTreeSet<u64>>>,
    changes: Mutex<Option<mpsc::Sender<KvChange>>>,
    /// Whether prompts are cached: reported as changes, and as cached tokens of the next that begins the same.
    pub(crate) caches: AtomicBool,
    /// How far it has come, as it says.
    pub(crate) progress: AtomicU64,
}

impl Scripted {
    /// An engine with `steps` permits to go on with.
    pub(crate) fn start(steps: usize) -> (Arc<Self>, StartedEngine) {
        let (sender, kv_changes) = mpsc::channel(1024);
        let engine = Arc::new(Self {
            steps: Arc::new(Semaphore::new(steps)),
            running: watch::Sender::new(0),
            stops: AtomicU32::new(0),
            seeds: Mutex::default(),
            stored: Arc::default(),
            changes: Mutex::new(Some(sender)),
            caches: AtomicBool::new(false),
            progress: AtomicU64::new(0),
        });
        (engine.clone(), StartedEngine { engine, kv_changes })
    }

    /// The engine's thread is gone, without a word.
    pub(crate) fn die(&self) {
        self.changes.lock().take();
    }

    /// Reports a change as the engine's own.
    pub(crate) async fn change(&self, change: KvChange) {
        {
            let mut stored = self.stored.lock();
            match &change {
                KvChange::Stored(s) => stored.extend(s.blocks.iter().map(|b| b.block_hash.0)),
                KvChange::Removed(r) => r.block_hashes.iter().for_each(|hash| assert!(stored.remove(&hash.0))),
                KvChange::Cleared => stored.clear(),
            }
        }
        let sender = self.changes.lock().clone();
        sender.expect("the engine lives").send(change).await.expect("the worker reads");
    }

    /// Stores a prompt's blocks; gives the tokens that were stored before.
    fn cache(&self, tokens: &[u32]) -> u32 {
        let KvChange::Stored(prompt) = Self::stored_prompt(tokens) else { unreachable!() };
        let mut stored = self.stored.lock();
        let known = prompt.blocks.iter().take_while(|block| stored.contains(&block.block_hash.0)).count();
        let parent_hash = known.checked_sub(1).map(|last| prompt.blocks[last].block_hash);
        let blocks = prompt.blocks[known..].to_vec();
        stored.extend(blocks.iter().map(|block| block.block_hash.0));
        if let Some(sender) = self.changes.lock().as_ref().filter(|_| !blocks.is_empty()) {
            let change = KvChange::Stored(StoredBlocks { parent_hash, start_position: None, blocks });
            sender.try_send(change).expect("the queue has room for a test");
        }
        (known * BLOCK) as u32
    }

    /// The blocks of a prompt, as a change.
    pub(crate) fn stored_prompt(tokens: &[u32]) -> KvChange {
        let hashes = tokens_hashes(tokens, BLOCK);
        let block = |(block_hash, tokens_hash): (BlockHash, TokensHash)| StoredBlock {
            block_hash,
            tokens_hash,
            mm_extra_info: None,
        };
        let blocks = block_hashes(&hashes).into_iter().zip(hashes).map(block).collect();
        KvChange::Stored(StoredBlocks { parent_hash: None, start_position: None, blocks })
    }

    /// Waits until `count` sequences run.
    pub(crate) async fn wait_running(&self, count: u32) {
        let mut running = self.running.subscribe();
        let reached = tokio::time::timeout(CAP, running.wait_for(|&now| now == count)).await;
        reached.unwrap_or_else(|_| panic!("{count} sequences run")).expect("the engine lives");
    }
}

/// Counts a sequence until it is dropped.
struct Running(watch::Sender<u32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Engine for Scripted {
    fn profile(&self) -> EngineProfile {
        EngineProfile {
            engine: "mock",
            device: "cpu",
            context_length: 4096,
            block_size: BLOCK as u32,
            total_kv_blocks: 64,
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
        }
    }

    fn generate(&self, request: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        match request.token_ids[0] {
            INVALID => return Err(EngineError::InvalidRequest("guided_decoding.regex: open bracket".into())),
            TOO_LONG => return Err(EngineError::PromptTooLong { prompt_tokens: 9, context_length: 8 }),
            OVERLOADED => return Err(EngineError::Overloaded { waiting: 7 }),
            UNAVAILABLE => return Err(EngineError::Unavailable("no thread".into())),
            PANIC => panic!("scripted panic"),
            _ => {}
        }
        self.seeds.lock().push(request.sampling_options.seed);
        let cached = if self.caches.load(Ordering::SeqCst) { self.cache(&request.token_ids) } else { 2 };
        let (sender, receiver) = mpsc::channel(OUTPUT_QUEUE_LEN);
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        tokio::spawn(play(request, cached, self.steps.clone(), sender, running));
        Ok(receiver)
    }

    fn load(&self) -> EngineLoad {
        EngineLoad {
            running: *self.running.borrow(),
            kv_used_blocks: self.stored.lock().len() as u64,
            ..EngineLoad::default()
        }
    }

    fn progress(&self) -> u64 {
        self.progress.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stops.fetch_add(1, Ordering::SeqCst);
        self.changes.lock().take();
    }
}

async fn play(
    request: PreprocessedRequest,
    cached: u32,
    steps: Arc<Semaphore>,
    outputs: mpsc::Sender<EngineOutput>,
    running: Running,
) {
    let _running = running;
    let (prompt, count) = (request.token_ids.len() as u32, request.stop_conditions.max_tokens.unwrap_or(1));
    for step in 0..count {
        tokio::select! {
            () = outputs.closed() => return,
            permit = steps.acquire() => permit.expect("never closed").forget(),
        }
        let mut output = EngineOutput::of_tokens(vec![100 + step]);
        if step == 0 {
            output.completion_usage = Some(CompletionUsage::new(prompt, 1, cached));
        }
        if request.token_ids[0] == NO_END && step == 1 {
            return;
        }
        if step + 1 == count {
            output.finish_reason = Some(FinishReason::Length);
            output.completion_usage = Some(CompletionUsage::new(prompt, count, cached));
        }
        if outputs.send(output).await.is_err() {
            return;
        }
    }
}

/// A folder with the files of a model, as small as they may be.
pub(crate) fn model_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [
        ("config.json", r#"{"max_position_embeddings": 4096}"#),
        ("tokenizer.json", r#"{"model": {}}"#),
        ("tokenizer_config.json", r#"{"chat_template": "{{ messages }}"}"#),
    ] {
        std::fs::write(dir.path().join(name), text).expect("a file of the model");
    }
    dir
}

/// A configuration that stays on this machine.
pub(crate) fn on_loopback() -> WorkerConfig {
    WorkerConfig {
        request_server: RequestServerConfig {
            host: "127.0.0.1".into(),
            advertise_host: Some("127.0.0.1".into()),
            ..RequestServerConfig::default()
        },
        event_host: "127.0.0.1".into(),
        drain_timeout: CAP,
        ..WorkerConfig::default()
    }
}

/// A worker around a scripted engine, and a client.
pub(crate) struct Stage {
    pub(crate) engine: Arc<Scripted>,
    pub(crate) worker: Worker,
    pub(crate) discovery: Discovery,
    pub(crate) client: RequestClient,
    pub(crate) _folder: tempfile::TempDir,
}

impl Stage {
    /// `steps` permits for the engine's sequences together.
    pub(crate) async fn with(steps: usize, config: WorkerConfig) -> Self {
        let (engine, started) = Scripted::start(steps);
        let folder = model_folder();
        let discovery = Discovery::memory();
        let model = ServedModel::new("scripted", folder.path());
        let worker = Worker::start(config, started, model, discovery.member()).await.expect("the worker starts");
        let client = RequestClientConfig {
            response_host: "127.0.0.1".into(),
            advertise_host: Some("127.0.0.1".into()),
            ..RequestClientConfig::default()
        };
        let client = RequestClient::start(client).await.expect("the client starts");
        Self { engine, worker, discovery, client, _folder: folder }
    }

    pub(crate) async fn new(steps: usize) -> Self {
        Self::with(steps, on_loopback()).await
    }
}

/// A request whose prompt begins with `first`.
pub(crate) fn request(first: u32, max_tokens: u32) -> PreprocessedRequest {
    let mut request = PreprocessedRequest { token_ids: vec![first, 1, 1], ..PreprocessedRequest::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}
