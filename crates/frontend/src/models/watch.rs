//! The one task that follows discovery: it owns the ledger, loads tokenizers, keeps worker sets and feeds in step, and
//! publishes the [`Catalog`].

use super::files::FileStore;
use super::ledger::{Group, Identity, Ledger, LeftOut, Scope};
use super::namespaces::Namespaces;
use super::{Catalog, Entry, ServedModel, Snapshot};
use crate::config::{FrontendConfig, MIGRATION_LIMIT};
use crate::feed::Feeds;
use crate::metrics::Metrics;
use crate::preprocess::ModelText;
use crate::replica::Sharing;
use crate::workers::WorkerSet;
use futures::FutureExt;
use protocol::card::ModelCard;
use protocol::discovery::Record;
use protocol::ids::InstanceId;
use runtime::discovery::{Change, Discovery, RecordKey, Watch};
use runtime::request_plane::RequestClient;
use runtime::tasks::Tasks;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Loads that may wait to be taken over; each model has one at a time.
const LOADED_QUEUE_LEN: usize = 16;
/// First wait after a failed load; doubles to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the watcher works with.
pub(crate) struct WatcherParts {
    pub(crate) config: Arc<FrontendConfig>,
    pub(crate) discovery: Discovery,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) client: RequestClient,
    pub(crate) feeds: Feeds,
    /// Tells other frontends what is booked; `None` does not.
    pub(crate) sharing: Option<Arc<Sharing>>,
    pub(crate) model_cache: std::path::PathBuf,
}

/// See the module.
pub(crate) struct Watcher {
    config: Arc<FrontendConfig>,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    client: RequestClient,
    watch: Watch,
    /// Held, because a watch ends with the last handle of its discovery.
    _discovery: Discovery,
    ledger: Ledger,
    files: FileStore,
    feeds: Feeds,
    sharing: Option<Arc<Sharing>>,
    models: BTreeMap<String, Tracked>,
    texts: HashMap<(String, Identity), Weak<ModelText>>,
    /// Names that were served until their last worker left, and until when they are known.
    departed: BTreeMap<String, Instant>,
    left_out: Vec<LeftOut>,
    loads: Tasks,
    loaded: (mpsc::Sender<Loaded>, mpsc::Receiver<Loaded>),
}

struct Tracked {
    identity: Identity,
    workers: Arc<WorkerSet>,
    members: HashMap<InstanceId, (Arc<protocol::discovery::EndpointRecord>, Arc<ModelCard>)>,
    had_workers: usize,
    text: TextState,
    served: Option<Arc<ServedModel>>,
    /// Tells other frontends what is booked here; ends with the model.
    sharing: Option<Tasks>,
}

enum TextState {
    Loading { attempt: u32 },
    Failed { attempt: u32, why: String, retry_at: Instant },
    Ready(Arc<ModelText>),
}

struct Loaded {
    model: String,
    identity: Identity,
    result: Result<Arc<ModelText>, String>,
}

enum Event {
    Change(Box<Change>),
    Loaded(Loaded),
    Retry,
    Closed,
}

impl Watcher {
    pub(crate) fn new(parts: WatcherParts) -> Result<Self, reqwest::Error> {
        let WatcherParts { config, discovery, catalog, metrics, client, feeds, sharing, model_cache } = parts;
        let (exact, prefix) = (config.namespace.as_deref(), config.namespace_prefix.as_deref());
        let scope = Scope {
            namespaces: Namespaces::of(exact, prefix, config.namespace_prefix_strict),
            model_name: config.model_name.clone(),
        };
        Ok(Self {
            files: FileStore::new(config.world.clone(), model_cache, config.model_path.clone())?,
            ledger: Ledger::new(scope),
            watch: discovery.watch(),
            _discovery: discovery,
            models: BTreeMap::new(),
            texts: HashMap::new(),
            departed: BTreeMap::new(),
            left_out: Vec::new(),
            loads: Tasks::new(),
            loaded: mpsc::channel(LOADED_QUEUE_LEN),
            config,
            catalog,
            metrics,
            client,
            feeds,
            sharing,
        })
    }

    /// Follows discovery until it closes or the task is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::Closed => return,
                Event::Loaded(loaded) => self.take_over(loaded),
                Event::Retry => {}
                Event::Change(change) => {
                    self.note(*change);
                    // A worker writes 8 records at once: put them in order once, not 8 times.
                    while let Some(Some(change)) = self.watch.next().now_or_never() {
                        self.note(change);
                    }
                }
            }
            self.reconcile();
        }
    }

    async fn next_event(&mut self) -> Event {
        let retry_at = self.models.values().filter_map(|tracked| match tracked.text {
            TextState::Failed { retry_at, .. } => Some(retry_at),
            TextState::Loading { .. } | TextState::Ready(_) => None,
        });
        let retry_at = retry_at.chain(self.departed.values().copied()).min();
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The rare before the frequent.
            biased;
            Some(loaded) = self.loaded.1.recv() => Event::Loaded(loaded),
            change = self.watch.next() => change.map_or(Event::Closed, |change| Event::Change(Box::new(change))),
            () = retry => Event::Retry,
        }
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Put { key, record } => match record {
                Record::Endpoint(record) => {
                    // A registration, even of the same record, ends a worker's time aside.
                    for tracked in self.models.values() {
                        tracked.workers.registered(record.instance_id);
                    }
                    self.ledger.put_endpoint(key.name, record);
                }
                Record::Model(record) => self.ledger.put_model(key.name, record),
                Record::EventChannel(record) => self.feeds.put_channel(key.name, record),
                Record::EventSource(record) => self.feeds.put_source(key.name, record),
            },
            Change::Delete { key } => self.forget(&key),
        }
    }

    fn forget(&mut self, key: &RecordKey) {
        match key.bucket.as_str() {
            "instances" => self.ledger.remove_endpoint(&key.name),
            "mdc" => self.ledger.remove_model(&key.name),
            "event_channels" => self.feeds.remove_channel(&key.name),
            "event_sources" => self.feeds.remove_source(&key.name),
            _ => {}
        }
    }

    fn take_over(&mut self, loaded: Loaded) {
        let Some(tracked) = self.models.get_mut(&loaded.model) else { return };
        let TextState::Loading { attempt } = tracked.text else { return };
        if tracked.identity != loaded.identity {
            return;
        }
        tracked.text = match loaded.result {
            Ok(text) => {
                self.texts.retain(|_, text| text.strong_count() > 0);
                self.texts.insert((loaded.model, loaded.identity), Arc::downgrade(&text));
                TextState::Ready(text)
            }
            Err(why) => {
                let wait = (RETRY_FIRST * 2u32.pow(attempt.min(10))).min(RETRY_MAX);
                tracing::warn!(
                    model = loaded.model,
                    error = why,
                    retry_in_s = wait.as_secs(),
                    "load the model's files"
                );
                TextState::Failed { attempt, why, retry_at: Instant::now() + wait }
            }
        };
    }

    /// Brings worker sets, loads, catalog and feeds in step with the ledger.
    fn reconcile(&mut self) {
        let (groups, left_out) = self.ledger.groups();
        self.log_left_out(left_out);
        let gone: Vec<String> = self
            .models
            .iter()
            .filter(|(name, tracked)| groups.get(*name).is_none_or(|group| group.identity != tracked.identity))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.drop_model(&name);
        }
        for (name, group) in &groups {
            self.track(name, group);
        }
        self.publish(&groups);
        let sets: Vec<Arc<WorkerSet>> = self.models.values().map(|tracked| tracked.workers.clone()).collect();
        self.feeds.reconcile(&sets);
    }

    fn log_left_out(&mut self, left_out: Vec<LeftOut>) {
        for one in left_out.iter().filter(|one| !self.left_out.contains(one)) {
            tracing::error!(model = one.model, worker_id = one.worker_id, reason = one.reason, "a worker is left out");
        }
        self.left_out = left_out;
    }

    fn drop_model(&mut self, name: &str) {
        let Some(tracked) = self.models.remove(name) else { return };
        if let Some(served) = &tracked.served {
            // A worker that restarts takes its records along: what is asked meanwhile waits and is not refused.
            let until = Instant::now() + self.config.limits.worker_wait_max;
            for name in served.card.aliases.iter().chain([&served.name]) {
                self.departed.insert(name.clone(), until);
            }
        }
        for instance in tracked.members.keys() {
            tracked.workers.remove(*instance);
        }
        self.metrics.model_ready.with(&[name]).set(0);
        tracing::info!(model = name, "a model is gone: its last worker left");
    }

    fn track(&mut self, name: &str, group: &Group) {
        if !self.models.contains_key(name) {
            let block_size = self.config.kv_cache_block_size.unwrap_or(group.card.kv_cache_block_size);
            let (metrics, client, seed) = (self.metrics.clone(), self.client.clone(), self.config.world.random());
            let workers = WorkerSet::new(name, block_size, self.config.router, metrics, client, seed);
            let tracked = Tracked {
                identity: group.identity,
                workers,
                sharing: None,
                members: HashMap::new(),
                had_workers: 0,
                text: TextState::Failed {
                    attempt: 0,
                    why: "its files are not loaded yet".into(),
                    retry_at: Instant::now(),
                },
                served: None,
            };
            self.models.insert(name.to_owned(), tracked);
        }
        let Some(tracked) = self.models.get_mut(name) else { return };
        let present: HashSet<InstanceId> = group.members.iter().map(|(endpoint, _)| endpoint.instance_id).collect();
        tracked.members.retain(|instance, _| {
            let stays = present.contains(instance);
            if !stays {
                tracked.workers.remove(*instance);
                tracing::info!(model = name, worker_id = %instance, "a worker is gone");
            }
            stays
        });
        for (endpoint, card) in &group.members {
            let known = tracked.members.get(&endpoint.instance_id);
            if known.is_none_or(|(old, old_card)| old != endpoint || old_card != card) {
                tracing::info!(model = name, worker_id = %endpoint.instance_id, "a worker is here");
                tracked.workers.put(endpoint.clone(), &card.runtime_config);
                tracked.members.insert(endpoint.instance_id, (endpoint.clone(), card.clone()));
            }
        }
        if let (Some(sharing), None, Some((endpoint, _))) = (&self.sharing, &tracked.sharing, group.members.first()) {
            tracked.sharing = Some(sharing.start(&tracked.workers, endpoint.endpoint_id()));
        }
        tracked.had_workers = tracked.had_workers.max(tracked.members.len());
        self.load_if_due(name, group);
    }

    fn load_if_due(&mut self, name: &str, group: &Group) {
        let Some(tracked) = self.models.get_mut(name) else { return };
        let TextState::Failed { attempt, retry_at, .. } = &tracked.text else { return };
        let attempt = *attempt;
        if *retry_at > Instant::now() {
            return;
        }
        let cached = self.texts.get(&(name.to_owned(), group.identity)).and_then(Weak::upgrade);
        if let Some(text) = cached {
            tracked.text = TextState::Ready(text);
            return;
        }
        tracked.text = TextState::Loading { attempt: attempt + 1 };
        // Each worker's card has its own URLs of the same files: a retry asks the next worker.
        let cards: Vec<&Arc<ModelCard>> = group.members.iter().map(|(_, card)| card).chain([&group.card]).collect();
        let card = cards[attempt as usize % cards.len()].clone();
        let (model, identity, files) = (name.to_owned(), group.identity, self.files.clone());
        let (done, cache_bytes) = (self.loaded.0.clone(), self.config.tokenizer_cache_bytes);
        self.loads.spawn("load model files", async move {
            let result = load(&files, &model, card, cache_bytes).await;
            // The watcher is gone only when everything is.
            let _ = done.send(Loaded { model, identity, result }).await;
        });
    }

    fn publish(&mut self, groups: &BTreeMap<String, Group>) {
        let now = Instant::now();
        self.departed.retain(|_, until| *until > now);
        let mut names = BTreeMap::new();
        for (name, group) in groups {
            let Some(tracked) = self.models.get_mut(name) else { continue };
            let entry = entry_of(name, group, tracked, &self.config, &self.metrics);
            let ready = matches!(entry, Entry::Ready(_));
            self.metrics.model_ready.with(&[name]).set(i64::from(ready));
            for alias in &group.card.aliases {
                names.entry(alias.clone()).or_insert_with(|| entry.clone());
            }
            names.insert(name.clone(), entry);
        }
        for name in self.departed.keys() {
            let left = || Entry::NotReady("its last worker has just left".into());
            names.entry(name.clone()).or_insert_with(left);
        }
        let sets = self.models.values().map(|tracked| tracked.workers.clone()).collect();
        self.catalog.replace(Snapshot { names, sets, left_out: self.left_out.clone() });
    }
}

/// Fetches and loads; off the I/O threads.
async fn load(
    store: &FileStore,
    model: &str,
    card: Arc<ModelCard>,
    cache_bytes: usize,
) -> Result<Arc<ModelText>, String> {
    let files = store.files_of(&card).await.map_err(|e| e.to_string())?;
    let context = card.runtime_config.context_length.or((card.context_length > 0).then_some(card.context_length));
    let model = model.to_owned();
    let mdc_sum = Some(protocol::dynamo::card_sum::card_sum(&card));
    let read = move || {
        let text = ModelText::load(&model, &files, context, mdc_sum).map_err(|e| e.to_string())?;
        Ok(Arc::new(text.with_token_cache(cache_bytes)))
    };
    store.world().off_thread(read).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// What the catalog says of a name.
fn entry_of(
    name: &str,
    group: &Group,
    tracked: &mut Tracked,
    config: &FrontendConfig,
    metrics: &Arc<Metrics>,
) -> Entry {
    let text = match &tracked.text {
        TextState::Ready(text) => text,
        TextState::Loading { .. } => return Entry::NotReady("its files are being loaded".into()),
        TextState::Failed { why, .. } => return Entry::NotReady(why.clone()),
    };
    if tracked.members.is_empty() {
        return Entry::NotReady("it has no worker at the moment".into());
    }
    if tracked.had_workers < config.min_initial_workers {
        let wanted = config.min_initial_workers;
        return Entry::NotReady(format!("it has had {} of {wanted} workers yet", tracked.had_workers));
    }
    if let Some(served) = &tracked.served {
        return Entry::Ready(served.clone());
    }
    let migration_limit = config.migration_limit.unwrap_or(group.card.migration_limit.max(MIGRATION_LIMIT));
    let served = Arc::new(ServedModel {
        name: name.to_owned(),
        card: group.card.clone(),
        text: text.clone(),
        workers: tracked.workers.clone(),
        metrics: metrics.model(name),
        migration_limit,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    });
    set_model_gauges(metrics, &served);
    tracing::info!(model = name, workers = tracked.members.len(), "a model is served");
    tracked.served = Some(served.clone());
    Entry::Ready(served)
}

fn set_model_gauges(metrics: &Metrics, model: &ServedModel) {
    let label = [model.name.as_str()];
    let wide = |value: Option<u64>| value.unwrap_or(0).try_into().unwrap_or(i64::MAX);
    let limits = &model.card.runtime_config;
    metrics.model_context_length.with(&label).set(i64::from(model.context_length()));
    metrics.model_block_size.with(&label).set(i64::from(model.card.kv_cache_block_size));
    metrics.model_max_batched_tokens.with(&label).set(wide(limits.max_num_batched_tokens));
    metrics.model_max_seqs.with(&label).set(wide(limits.max_num_seqs));
    metrics.model_migration_limit.with(&label).set(i64::from(model.migration_limit));
    metrics.model_total_kv_blocks.with(&label).set(wide(limits.total_kv_blocks));
}
