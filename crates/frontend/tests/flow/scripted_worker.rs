//! A worker that does what the test says. Its tokens are a function of all tokens before them, so an answer that goes on
//! elsewhere is the same text if and only if nothing was lost or doubled.

use crate::stage::model_folder;
use protocol::card::ModelCard;
use protocol::discovery::{
    Codec, EndpointRecord, EventChannelRecord, EventScope, EventSourceMetadata, EventSourceRecord, ModelRecord, Record,
    RequestTransport,
};
use protocol::events::{KV_EVENTS, KV_METRICS, KvMetrics, RecoveryAnswer, RecoveryQuery};
use protocol::ids::{EndpointId, InstanceId, PublisherId, WorkerRank};
use protocol::kv::{
    KvChange, KvEvent, StorageTier, StoredBlock, StoredBlocks, WorkerKvEvent, block_hashes, tokens_hashes,
};
use protocol::output::{Annotated, CompletionUsage, EngineOutput, FinishReason};
use protocol::request::PreprocessedRequest;
use runtime::discovery::Discovery;
use runtime::event_plane::Publisher;
use runtime::nats::Nats;
use runtime::request_plane::{
    ErrorClass, Incoming, RequestServer, RequestServerConfig, Responder, decode_or_refuse, wire_error,
};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

pub(crate) const BLOCK_SIZE: usize = 4;

const BEAT: Duration = Duration::from_secs(1);

/// What a worker does.
#[derive(Clone, Default)]
pub(crate) struct WorkerPlan {
    pub(crate) instance: u64,
    /// Cuts its first stream after so many tokens.
    pub(crate) cut_after: Option<usize>,
    /// Refuses every request so.
    pub(crate) refuse: Option<ErrorClass>,
    /// Takes requests and never says a word.
    pub(crate) silent: bool,
    /// Each token needs a permit from here.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// Fails as an engine after so many tokens.
    pub(crate) engine_error_after: Option<usize>,
    /// What its card says otherwise.
    pub(crate) card: Option<fn(&mut ModelCard)>,
    /// Publishes what it caches.
    pub(crate) kv_events: bool,
    /// Where its record says that it takes requests, if that is not its own port.
    pub(crate) address: Option<String>,
    /// Promises beats, one a second, and sends so many before its first token.
    pub(crate) beats: Option<u32>,
    /// Over this connection in place of sockets of its own.
    pub(crate) nats: Option<Nats>,
    /// Tokens whose blocks it has before anybody hears of it.
    pub(crate) cached: Vec<u32>,
}

/// What it saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) requests: Mutex<Vec<PreprocessedRequest>>,
    pub(crate) running: AtomicUsize,
    pub(crate) cancelled: AtomicUsize,
    pub(crate) queries: Mutex<Vec<RecoveryQuery>>,
    cut: AtomicUsize,
    log: Mutex<Vec<WorkerKvEvent>>,
}

pub(crate) struct ScriptedWorker {
    pub(crate) instance: InstanceId,
    pub(crate) seen: Arc<Seen>,
    pub(crate) discovery: Discovery,
    server: Option<RequestServer>,
    publisher: Option<Arc<Publisher>>,
    load: Option<Publisher>,
    address: Option<String>,
}

impl ScriptedWorker {
    pub(crate) async fn start(store: &Discovery, plan: WorkerPlan) -> Self {
        let config = RequestServerConfig { host: "127.0.0.1".into(), ..RequestServerConfig::default() };
        let server = RequestServer::bind(config).await.unwrap();
        Self::with(server, store, plan).await
    }

    /// Behind a port that was opened before.
    pub(crate) async fn with(server: RequestServer, store: &Discovery, plan: WorkerPlan) -> Self {
        let instance = InstanceId(plan.instance);
        let seen = Arc::new(Seen::default());
        let discovery = store.member();
        let mut worker = Self {
            instance,
            seen: seen.clone(),
            discovery,
            server: None,
            publisher: None,
            load: None,
            address: plan.address.clone(),
        };

        let handler = {
            let plan = Arc::new(plan.clone());
            move |incoming: Incoming, out: Responder| {
                let (plan, seen) = (plan.clone(), seen.clone());
                Box::pin(async move { serve(&plan, &seen, incoming, out).await })
                    as futures::future::BoxFuture<'static, ()>
            }
        };
        if !plan.cached.is_empty() {
            worker.cache(&plan.cached, true).await;
        }
        let generate = worker.endpoint(&server, "generate");
        server.serve(path_of(&generate), Arc::new(handler));
        if plan.kv_events {
            worker.publish_caches(&server, plan.nats.as_ref()).await;
        }
        worker.server = Some(server);
        worker.discovery.register(&Record::Endpoint(generate)).await.unwrap();
        let mut card = card();
        if let Some(change) = plan.card {
            change(&mut card);
        }
        worker.discovery.register(&worker.model_record(card)).await.unwrap();
        worker
    }

    /// Gone like a process after kill -9: every connection breaks, the records stay.
    pub(crate) fn kill(&mut self) {
        self.server = None;
        self.publisher = None;
        self.load = None;
    }

    /// Gone as after SIGTERM.
    pub(crate) async fn leave(&mut self) {
        self.discovery.withdraw_all().await;
    }

    /// Where it takes requests.
    pub(crate) fn server_address(&self) -> String {
        self.server.as_ref().unwrap().address()
    }

    pub(crate) fn requests(&self) -> Vec<PreprocessedRequest> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(crate) fn running(&self) -> usize {
        self.seen.running.load(Ordering::SeqCst)
    }

    pub(crate) fn rank(&self) -> WorkerRank {
        WorkerRank { worker_id: self.instance, dp_rank: 0 }
    }

    /// Stores the full blocks of `tokens`; publishes the event unless it is to be lost.
    pub(crate) async fn cache(&self, tokens: &[u32], lost: bool) {
        let hashes = tokens_hashes(tokens, BLOCK_SIZE);
        let blocks = block_hashes(&hashes).into_iter().zip(hashes);
        let blocks =
            blocks.map(|(block_hash, tokens_hash)| StoredBlock { block_hash, tokens_hash, mm_extra_info: None });
        let stored = StoredBlocks { parent_hash: None, start_position: None, blocks: blocks.collect() };
        let event = {
            let mut log = self.seen.log.lock().unwrap();
            let event = KvEvent { event_id: log.len() as u64 + 1, data: KvChange::Stored(stored), dp_rank: 0 };
            let worker_id = self.instance;
            let event = WorkerKvEvent { worker_id, storage_tier: StorageTier::Device, residency_domain: None, event };
            log.push(event.clone());
            event
        };
        if !lost {
            self.publisher.as_ref().unwrap().publish(&[event]).await.unwrap();
        }
    }

    /// Tells its load.
    pub(crate) async fn tell_load(&self, kv_used_blocks: u64) {
        let report = KvMetrics {
            worker_id: self.instance,
            dp_rank: 0,
            active_decode_blocks: None,
            active_prefill_tokens: None,
            kv_used_blocks: Some(kv_used_blocks),
        };
        self.load.as_ref().unwrap().publish(&report).await.unwrap();
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.publisher.as_ref().unwrap().subscribers()
    }

    fn endpoint(&self, server: &RequestServer, name: &str) -> EndpointRecord {
        let path = format!("{}/dynamo/backend/{name}", self.instance);
        EndpointRecord {
            namespace: "dynamo".into(),
            component: "backend".into(),
            endpoint: name.into(),
            instance_id: self.instance,
            transport: RequestTransport::Tcp(format!("{}/{path}", self.address.clone().unwrap_or(server.address()))),
            device_type: Some("cpu".into()),
            request_plane_codec: Some(Codec::Msgpack),
        }
    }

    fn model_record(&self, card: ModelCard) -> Record {
        Record::Model(ModelRecord {
            namespace: "dynamo".into(),
            component: "backend".into(),
            endpoint: "generate".into(),
            instance_id: self.instance,
            card_json: card,
            model_suffix: None,
        })
    }

    async fn publish_caches(&mut self, server: &RequestServer, nats: Option<&Nats>) {
        let scope = EventScope::Endpoint { endpoint: EndpointId::new("dynamo", "backend", "generate") };
        let open = async |topic: &str| match nats {
            Some(nats) => Publisher::over_nats(nats, &scope, topic).unwrap(),
            None => Publisher::bind("127.0.0.1", "127.0.0.1", topic).await.unwrap(),
        };
        let (publisher, load) = (open(KV_EVENTS).await, open(KV_METRICS).await);
        for publisher in [&publisher, &load] {
            let channel = EventChannelRecord {
                scope: scope.clone(),
                topic: publisher.topic().into(),
                instance_id: publisher.id(),
                transport: publisher.transport(),
            };
            self.discovery.register(&Record::EventChannel(channel)).await.unwrap();
        }
        let recovery = self.endpoint(server, &format!("worker_kv_query_source_{}", publisher.id()));
        let seen = self.seen.clone();
        let answer = move |incoming: Incoming, out: Responder| {
            let seen = seen.clone();
            Box::pin(async move { recover(&seen, incoming, out).await }) as futures::future::BoxFuture<'static, ()>
        };
        server.serve(path_of(&recovery), Arc::new(answer));
        self.register_source(scope, publisher.id(), recovery).await;
        self.publisher = Some(Arc::new(publisher));
        self.load = Some(load);
    }

    async fn register_source(&self, scope: EventScope, publisher_id: PublisherId, recovery_target: EndpointRecord) {
        let metadata = EventSourceMetadata {
            kv_state_endpoint: EndpointId::new("dynamo", "backend", "generate"),
            worker: self.rank(),
            publisher_id,
            recovery_target,
        };
        let source = EventSourceRecord { scope, topic: KV_EVENTS.into(), publisher_id, metadata };
        self.discovery.register(&Record::EventSource(source)).await.unwrap();
    }
}

fn path_of(endpoint: &EndpointRecord) -> String {
    let RequestTransport::Tcp(target) = &endpoint.transport else { unreachable!("made above") };
    target.split_once('/').unwrap().1.to_owned()
}

pub(crate) fn card() -> ModelCard {
    let file = |name: &str| {
        let path = model_folder().join(name);
        let content = std::fs::read(&path).unwrap();
        json!({ "path": path, "checksum": format!("blake3:{}", blake3::hash(&content).to_hex()), "size": content.len() })
    };
    serde_json::from_value(json!({
        "display_name": "m", "slug": "m", "kv_cache_block_size": BLOCK_SIZE, "migration_limit": 0,
        "model_type": "Chat | Completions", "model_input": "Tokens", "context_length": 1024,
        "model_info": { "hf_config_json": file("config.json") },
        "tokenizer": { "hf_tokenizer_json": file("tokenizer.json") },
        "prompt_formatter": { "hf_tokenizer_config_json": file("tokenizer_config.json") },
        "gen_config": { "hf_generation_config_json": file("generation_config.json") },
        "runtime_config": { "total_kv_blocks": 1000 },
    }))
    .unwrap()
}

/// The token after `tokens`: a lower-case letter.
pub(crate) fn next_token(tokens: &[u32]) -> u32 {
    let mixed =
        tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &t| (hash ^ u64::from(t)).wrapping_mul(0x100_0000_01b3));
    67 + ((mixed >> 33) % 26) as u32
}

/// What the undisturbed answer to `prompt` is.
pub(crate) fn expected_text(prompt: &[u32], count: usize) -> String {
    let mut tokens = prompt.to_vec();
    (0..count)
        .map(|_| {
            let token = next_token(&tokens);
            tokens.push(token);
            char::from(b'a' + (token - 67) as u8)
        })
        .collect()
}

struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(plan: &WorkerPlan, seen: &Seen, incoming: Incoming, out: Responder) {
    let Some((request, mut out)) = decode_or_refuse::<PreprocessedRequest>(&incoming, out).await else { return };
    seen.requests.lock().unwrap().push(request.clone());
    let _running = Running::enter(&seen.running);
    let cancelled = out.cancelled();
    if let Some(class) = plan.refuse {
        out.refuse(wire_error(class, "as the test says", Some("the public words"))).await;
        return;
    }
    if plan.silent {
        cancelled.cancelled().await;
        seen.cancelled.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let generate = generate(plan, seen, &request, &mut out);
    let whole = tokio::select! {
        whole = generate => whole,
        () = cancelled.cancelled() => {
            seen.cancelled.fetch_add(1, Ordering::SeqCst);
            return;
        }
    };
    if whole {
        out.finish().await;
    }
}

/// `false` when the stream is to be cut.
async fn generate(plan: &WorkerPlan, seen: &Seen, request: &PreprocessedRequest, out: &mut Responder) -> bool {
    let mut tokens = request.token_ids.clone();
    let prompt = tokens.len() as u32;
    let most = request.stop_conditions.max_tokens.unwrap_or(16);
    let cut = plan.cut_after.filter(|_| seen.cut.fetch_add(1, Ordering::SeqCst) == 0);
    if plan.beats.is_some() {
        out.promise_beats(BEAT);
    }
    if out.accept().await.is_err() {
        return false;
    }
    for _ in 0..plan.beats.unwrap_or(0) {
        tokio::time::sleep(BEAT).await;
        if out.beat().await.is_err() {
            return false;
        }
    }
    for made in 0..most {
        if cut == Some(made as usize) {
            return false;
        }
        if plan.engine_error_after == Some(made as usize) {
            let reason = FinishReason::Error("secret words of the engine".into());
            let output = EngineOutput::finished(reason, CompletionUsage::new(prompt, made, 0));
            return out.item(&Annotated::of(output)).await.is_ok();
        }
        if let Some(gate) = &plan.gate {
            gate.acquire().await.unwrap().forget();
        }
        let token = next_token(&tokens);
        tokens.push(token);
        let mut output = EngineOutput::of_tokens(vec![token]);
        if made == 0 {
            output.completion_usage = Some(CompletionUsage::new(prompt, 1, 3));
        }
        if out.item(&Annotated::of(output)).await.is_err() {
            return false;
        }
    }
    let output = EngineOutput::finished(FinishReason::Length, CompletionUsage::new(prompt, most, 3));
    out.item(&Annotated::of(output)).await.is_ok()
}

async fn recover(seen: &Seen, incoming: Incoming, out: Responder) {
    let Some((query, mut out)) = decode_or_refuse::<RecoveryQuery>(&incoming, out).await else { return };
    seen.queries.lock().unwrap().push(query.clone());
    let log = seen.log.lock().unwrap().clone();
    let last_event_id = log.len() as u64;
    let answer = match query.start_event_id {
        None => RecoveryAnswer::TreeDump { events: log, last_event_id, reset_scope: Some("all".into()) },
        Some(start) => {
            let events = log.into_iter().filter(|event| event.event.event_id >= start).collect();
            RecoveryAnswer::Events { events, last_event_id }
        }
    };
    if out.accept().await.is_ok() && out.raw_item(&answer).await.is_ok() {
        out.finish().await;
    }
}
