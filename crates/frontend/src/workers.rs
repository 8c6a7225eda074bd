//! The workers of one model, and the router's state about them: who lives, who is how busy, who has what cached.
//!
//! One mutex owns it all, held for microseconds and never across an await. A task as owner would cost each request two
//! wake-ups, more than the choice itself, and choice and booking must be one step anyway: two requests chosen in the
//! same microsecond would otherwise both see the same idle worker.

mod booking;

pub(crate) use booking::Booked;

use crate::health::{Fault, Health};
use crate::metrics::{AttemptMeter, Metrics, WorkerMetrics};
use crate::replica::Outbox;
use crate::retries::Retries;
use crate::sentry::{Report, Sentry};
use crate::tempo::{self, LOOK_EVERY, Standing};
use parking_lot::Mutex;
use protocol::card::RuntimeConfig;
use protocol::discovery::EndpointRecord;
use protocol::events::{ActiveSequenceEvent, KvMetrics};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::WorkerKvEvent;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use router::index::DEFAULT_INDEX_BYTES;
use router::select::{Pin, Snapshot};
use router::{Applied, Index, Loads, Overlaps, Placement, Prompt, RouterConfig, SelectError, WorkerView};
use runtime::request_plane::RequestClient;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Data-parallel ranks read from one card; more is a mistake in the card.
const RANKS_MAX: u32 = 64;

/// The workers of one model.
pub(crate) struct WorkerSet {
    pub(crate) model: String,
    pub(crate) block_size: u32,
    router: RouterConfig,
    metrics: Arc<Metrics>,
    client: RequestClient,
    epoch: Instant,
    /// One suspect at a time, see [`crate::poison`].
    trial: Arc<Semaphore>,
    state: Mutex<State>,
    /// Where the other frontends are told of bookings, once it is open.
    outbox: OnceLock<Outbox>,
}

struct State {
    members: BTreeMap<InstanceId, Member>,
    views: Vec<WorkerView>,
    index: Index,
    loads: Loads,
    turn: u64,
    rng: SmallRng,
    evicted_seen: u64,
    retries: Retries,
    speeds_looked_at: Instant,
}

struct Member {
    endpoint: Arc<EndpointRecord>,
    limits: RuntimeConfig,
    since: Instant,
    health: Health,
    ranks: Vec<Rank>,
    sentry: Arc<Sentry>,
    speed: Standing,
}

struct Rank {
    worker: WorkerRank,
    reported: Option<KvMetrics>,
    metrics: Arc<WorkerMetrics>,
}

/// What a request asks of the router.
pub(crate) struct Ask<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) prompt: &'a Prompt,
    /// Only these instances, when set.
    pub(crate) allowed: Option<&'a [u64]>,
    /// This instance and rank, when set.
    pub(crate) pinned: Option<Pin>,
    /// Instances that failed this request already: taken only when there is no other.
    pub(crate) avoid: &'a [InstanceId],
    /// Only workers that can go on in the middle of a constrained answer.
    pub(crate) resumes_guided: bool,
}

/// A chosen worker with the load booked on it.
pub(crate) struct Chosen {
    pub(crate) endpoint: Arc<EndpointRecord>,
    pub(crate) booking: Booked,
    pub(crate) placement: Placement,
    /// Whether this worker already failed this request: it is tried again only because there is no other.
    pub(crate) again: bool,
    /// How long it took to look the prompt up in the index.
    pub(crate) matched_in: Duration,
}

/// A worker as the status page shows it.
#[derive(Clone, Debug)]
pub(crate) struct MemberView {
    pub(crate) worker: WorkerRank,
    pub(crate) endpoint: Arc<EndpointRecord>,
    pub(crate) health: &'static str,
    pub(crate) active_requests: u64,
    /// Seconds since it registered here.
    pub(crate) here_s: u64,
    pub(crate) engine: Option<String>,
}

impl WorkerSet {
    pub(crate) fn new(
        model: &str,
        block_size: u32,
        router: RouterConfig,
        metrics: Arc<Metrics>,
        client: RequestClient,
        seed: u64,
    ) -> Arc<Self> {
        let state = State {
            members: BTreeMap::new(),
            views: Vec::new(),
            index: Index::new(DEFAULT_INDEX_BYTES),
            loads: Loads::new(block_size),
            turn: 0,
            rng: SmallRng::seed_from_u64(seed),
            evicted_seen: 0,
            retries: Retries::new(Instant::now()),
            speeds_looked_at: Instant::now(),
        };
        Arc::new(Self {
            model: model.to_owned(),
            block_size,
            router,
            metrics,
            client,
            epoch: Instant::now(),
            trial: Arc::new(Semaphore::new(1)),
            state: Mutex::new(state),
            outbox: OnceLock::new(),
        })
    }

    /// Tells the other frontends of bookings from now on.
    pub(crate) fn share_through(&self, outbox: Outbox) {
        // A set has one outbox all its life.
        let _ = self.outbox.set(outbox);
    }

    /// Takes over what another frontend or a worker says of a booking; true if it changed one.
    pub(crate) fn take_booking(&self, event: &ActiveSequenceEvent) -> bool {
        let now = self.epoch.elapsed();
        let mut state = self.state.lock();
        state.members.contains_key(&event.worker.worker_id) && state.loads.apply(event, self.metrics.router_id, now)
    }

    /// Forgets what another frontend booked; returns how many bookings that were.
    pub(crate) fn forget_router(&self, router_id: u64) -> usize {
        self.state.lock().loads.forget_router(router_id)
    }

    /// The router mode's name.
    pub(crate) fn mode(&self) -> &'static str {
        self.router.mode.name()
    }

    /// Adds a worker, or takes over its new record; a registration also ends its time aside. From now on it is watched.
    pub(crate) fn put(self: &Arc<Self>, endpoint: Arc<EndpointRecord>, limits: &RuntimeConfig) {
        let instance = endpoint.instance_id;
        let set = Arc::downgrade(self);
        let sentry = Sentry::post(self.client.clone(), endpoint.clone(), move |report| match (set.upgrade(), report) {
            (Some(set), Report::Answers) => set.answered(instance),
            (Some(set), Report::Out(fault, why)) => set.out(instance, fault, &why),
            (None, _) => {}
        });
        let mut state = self.state.lock();
        let (first, count) = (limits.data_parallel_start_rank(), limits.data_parallel_size().min(RANKS_MAX));
        let known = state.members.remove(&instance);
        let mut ranks = known.map(|member| member.ranks).unwrap_or_default();
        ranks.retain(|rank| (first..first + count).contains(&rank.worker.dp_rank));
        for dp_rank in first..first + count {
            if !ranks.iter().any(|rank| rank.worker.dp_rank == dp_rank) {
                let worker = WorkerRank { worker_id: instance, dp_rank };
                let metrics = WorkerMetrics::new(&self.metrics, &self.model, worker, self.mode(), &endpoint);
                let metrics = Arc::new(metrics);
                ranks.push(Rank { worker, reported: None, metrics });
            }
        }
        for rank in &ranks {
            rank.metrics.kv_total_blocks.set(limits.total_kv_blocks.unwrap_or(0).try_into().unwrap_or(i64::MAX));
        }
        let (limits, since, health) = (limits.clone(), Instant::now(), Health::default());
        let member = Member { endpoint, limits, since, health, ranks, sentry, speed: Standing::default() };
        state.members.insert(instance, member);
        state.rebuild_views();
    }

    /// Removes a worker with its load and its cached blocks. Running streams are not cut by it.
    pub(crate) fn remove(&self, instance: InstanceId) {
        let mut state = self.state.lock();
        let Some(member) = state.members.remove(&instance) else { return };
        state.index.remove_worker(instance);
        state.loads.remove_worker(instance);
        state.rebuild_views();
        drop(state);
        for rank in &member.ranks {
            rank.metrics.forget(&self.metrics);
        }
    }

    /// Whether `instance` is registered here.
    pub(crate) fn contains(&self, instance: InstanceId) -> bool {
        self.state.lock().members.contains_key(&instance)
    }

    /// Chooses a worker and books the request on it, in one step.
    ///
    /// Workers that are set aside, have no turn because they are slow, or failed this request are taken only when there is no other: first the good
    /// ones, then those that did not fail this request, then any.
    pub(crate) fn choose(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Chosen, SelectError> {
        let now = Instant::now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let overlaps = match self.router.mode {
            router::RouterMode::Kv => state.index.overlap(&ask.prompt.tokens_hashes),
            _ => Overlaps::default(),
        };
        let matched_in = now.elapsed();
        let able = ask.resumes_guided.then(|| state.able_to_resume(ask.allowed));
        let ask = &Ask { allowed: able.as_deref().or(ask.allowed), ..*ask };
        let State { members, rng, .. } = state;
        let aside = members.iter().filter(|(_, member)| {
            let fast = member.speed.is_usual(now) || member.speed.takes_part(now, rng.random());
            !fast || !member.health.is_good(now)
        });
        let mut excluded: Vec<InstanceId> = aside.map(|(&id, _)| id).chain(ask.avoid.iter().copied()).collect();
        let mut placement = self.select(state, ask, &excluded, &overlaps);
        for fewer in [ask.avoid, &[]] {
            let lacks = matches!(placement, Err(SelectError::NoWorkers | SelectError::NoneAllowed));
            if lacks && excluded.len() > fewer.len() {
                excluded = fewer.to_vec();
                placement = self.select(state, ask, &excluded, &overlaps);
            }
        }
        let placement = placement?;
        state.turn = state.turn.wrapping_add(1);
        let booking = router::Booking {
            request_id: ask.request_id,
            worker: placement.worker,
            prompt: ask.prompt,
            prefill_tokens: placement.prefill_tokens,
        };
        let id = state.loads.book(booking, self.epoch.elapsed());
        let member = state.members.get(&placement.worker.worker_id).ok_or(SelectError::NoWorkers)?;
        let rank = member.ranks.iter().find(|rank| rank.worker == placement.worker).ok_or(SelectError::NoWorkers)?;
        let (endpoint, metrics) = (member.endpoint.clone(), rank.metrics.clone());
        let sentry = member.sentry.clone();
        let prefill_ahead = state.loads.of(placement.worker).active_prefill_tokens;
        drop(guard);
        let told = self.outbox.get().is_some_and(|outbox| {
            let prefill_tokens = self.router.track_prefill_tokens.then_some(placement.prefill_tokens);
            outbox.booked(ask.request_id, placement.worker, &ask.prompt.block_hashes, prefill_tokens)
        });
        let told = told.then(|| ask.request_id.into());
        metrics.placements.inc();
        metrics.prompt_tokens.inc_by(ask.prompt.tokens as u64);
        metrics.cached_tokens.inc_by(placement.cached_tokens);
        let router = &metrics.router;
        router.hit_rate.observe(placement.cached_tokens as f64 / ask.prompt.tokens.max(1) as f64);
        router.best_cached_tokens.inc_by(placement.best_cached_tokens);
        router.selected_cached_tokens.inc_by(placement.cached_tokens);
        let meter = AttemptMeter::start(&metrics, ask.prompt.tokens);
        let again = ask.avoid.contains(&placement.worker.worker_id);
        let (set, worker) = (self.clone(), placement.worker);
        let cut = sentry.line.cut();
        let booking = Booked {
            set,
            id,
            worker,
            metrics,
            meter,
            in_prefill: true,
            told,
            sentry,
            cut,
            prefill_tokens: placement.prefill_tokens,
            prefill_ahead,
            booked_at: now,
            unnoted: None,
        };
        Ok(Chosen { endpoint, booking, placement, again, matched_in })
    }

    fn select(
        &self,
        state: &mut State,
        ask: &Ask<'_>,
        excluded: &[InstanceId],
        overlaps: &Overlaps,
    ) -> Result<Placement, SelectError> {
        let request = router::Request { prompt: ask.prompt, allowed: ask.allowed, excluded, pinned: ask.pinned };
        let State { views, loads, turn, rng, .. } = state;
        router::select(&self.router, &request, &Snapshot { workers: views, overlaps, loads }, *turn, rng)
    }

    /// Notes that a worker failed a request. One that may be lost is looked after at once. `true` when it was thought well
    /// until now.
    pub(crate) fn fault(&self, instance: InstanceId, fault: Fault) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(member) = state.members.get_mut(&instance) else { return false };
        let was_good = member.health.is_good(now);
        if member.health.fail(fault, now) {
            member.sentry.kick();
        }
        was_good
    }

    /// The worker's sentry has found it lost, or hanging: it is out of routing until it answers.
    fn out(&self, instance: InstanceId, fault: Fault, why: &str) {
        let mut state = self.state.lock();
        let changed = state.members.get_mut(&instance).is_some_and(|member| member.health.fail(fault, Instant::now()));
        drop(state);
        if changed {
            tracing::warn!(worker_id = %instance, model = self.model, ?fault, why, "a worker is out of routing until it answers");
        }
    }

    /// The worker answered its sentry.
    fn answered(&self, instance: InstanceId) {
        let had_to = self.state.lock().members.get_mut(&instance).is_some_and(|member| member.health.answered());
        if had_to {
            tracing::info!(worker_id = %instance, model = self.model, "a worker answers again");
        }
    }

    /// The worker was registered again: it may be chosen at once, and is looked after.
    pub(crate) fn registered(&self, instance: InstanceId) {
        if let Some(member) = self.state.lock().members.get_mut(&instance) {
            member.health.registered();
            member.sentry.kick();
        }
    }

    /// A stream got `tokens` from a worker within `took`; once a second the workers are compared.
    fn note_speed(&self, instance: InstanceId, tokens: u64, took: Duration, now: Instant) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(member) = state.members.get_mut(&instance) {
            member.speed.tempo.add(tokens, took, now);
        }
        if now.saturating_duration_since(state.speeds_looked_at) < LOOK_EVERY {
            return;
        }
        state.speeds_looked_at = now;
        let (ids, mut speeds): (Vec<InstanceId>, Vec<&mut Standing>) =
            state.members.iter_mut().map(|(&id, member)| (id, &mut member.speed)).unzip();
        let ejected = tempo::look(&mut speeds, now);
        drop(guard);
        for at in ejected {
            tracing::warn!(worker_id = %ids[at], model = self.model, "a worker is far slower than its peers: it gets nothing for a while");
        }
    }

    /// A request comes in.
    pub(crate) fn count_request(&self) {
        self.state.lock().retries.request(Instant::now());
    }

    /// Pays for one more try of a request whose worker is not gone; `false` when there are too many.
    pub(crate) fn pay_for_retry(&self) -> bool {
        self.state.lock().retries.pay(Instant::now())
    }

    /// The turn of a suspect that has to be alone.
    pub(crate) fn trial(&self) -> Arc<Semaphore> {
        self.trial.clone()
    }

    /// Applies one cache event; see [`Index::apply`].
    pub(crate) fn apply(&self, event: &WorkerKvEvent) -> Applied {
        self.state.lock().index.apply(event)
    }

    /// Begins to replace what is known of one rank's cache; see [`Index::begin_dump`].
    pub(crate) fn begin_dump(&self, worker: WorkerRank) {
        self.state.lock().index.begin_dump(worker);
    }

    /// Adds a part of a dump. The lock is held meanwhile, and every request waits for it: keep the part small.
    pub(crate) fn add_dumped(&self, worker: WorkerRank, events: &[WorkerKvEvent]) {
        self.state.lock().index.add_dumped(worker, events);
    }

    /// Gives up on events before `last_event_id`, or ends a dump that holds all of them.
    pub(crate) fn resume_after(&self, worker: WorkerRank, last_event_id: u64) {
        self.state.lock().index.resume_after(worker, last_event_id);
    }

    /// The number of the next event that the index waits for.
    pub(crate) fn next_event_id(&self, worker: WorkerRank) -> u64 {
        self.state.lock().index.next_event_id(worker)
    }

    /// Forgets one rank's cache.
    pub(crate) fn forget_cache(&self, worker: WorkerRank) {
        self.state.lock().index.remove_rank(worker);
    }

    /// Counts a hole in the numbers of a rank's events.
    pub(crate) fn count_gap(&self, worker: WorkerRank) {
        if let Some(metrics) = self.state.lock().rank(worker).map(|rank| rank.metrics.clone()) {
            metrics.index_gaps.inc();
        }
    }

    /// Takes over a load report.
    pub(crate) fn report(&self, report: KvMetrics) {
        let worker = WorkerRank { worker_id: report.worker_id, dp_rank: report.dp_rank };
        let mut state = self.state.lock();
        let Some(rank) = state.rank_mut(worker) else { return };
        rank.reported = Some(report);
        if let Some(used) = report.kv_used_blocks {
            rank.metrics.kv_used_blocks.set(used.try_into().unwrap_or(i64::MAX));
        }
        if let Some(view) = state.views.iter_mut().find(|view| view.worker == worker) {
            view.reported = Some(report);
        }
    }

    /// Brings the gauges up to date; called before `/metrics` is rendered.
    pub(crate) fn refresh_gauges(&self) {
        let mut state = self.state.lock();
        for member in state.members.values() {
            for rank in &member.ranks {
                let load = state.loads.of(rank.worker);
                rank.metrics.active_decode_blocks.set(load.active_decode_blocks as i64);
                rank.metrics.active_prefill_tokens.set(load.active_prefill_tokens as i64);
                rank.metrics.index_blocks.set(state.index.blocks_of(rank.worker) as i64);
            }
        }
        self.metrics.index_bytes.with(&[&self.model]).set(state.index.bytes() as i64);
        self.metrics.remote_bookings.with(&[&self.model]).set(state.loads.remote_len() as i64);
        let evicted = state.index.evicted_blocks_total();
        let new = evicted.saturating_sub(state.evicted_seen);
        state.evicted_seen = evicted;
        drop(state);
        self.metrics.index_evicted_blocks.with(&[&self.model]).inc_by(new);
    }

    /// Every worker, for the status page.
    pub(crate) fn views(&self) -> Vec<MemberView> {
        let now = Instant::now();
        let state = self.state.lock();
        let view = |member: &Member, rank: &Rank| MemberView {
            worker: rank.worker,
            endpoint: member.endpoint.clone(),
            health: match (member.health.word(now), member.speed.word(now)) {
                ("ready", Some(slow)) => slow,
                (word, _) => word,
            },
            active_requests: state.loads.of(rank.worker).active_requests,
            here_s: member.since.elapsed().as_secs(),
            engine: engine_of(&member.limits),
        };
        state.members.values().flat_map(|member| member.ranks.iter().map(move |rank| view(member, rank))).collect()
    }
}

/// Whether the worker can go on in the middle of a constrained answer; stock workers cannot.
fn resumes_guided(limits: &RuntimeConfig) -> bool {
    let told = limits.other.get("runtime_data").and_then(|told| told.get("busbar_resumes_guided"));
    told.and_then(serde_json::Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
impl WorkerSet {
    /// Live bookings.
    pub(crate) fn booked(&self) -> usize {
        self.state.lock().loads.len()
    }

    /// A look at the index.
    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.state.lock().index)
    }
}

/// The kind of engine, when the worker tells it; stock workers do not.
fn engine_of(limits: &RuntimeConfig) -> Option<String> {
    let told = limits.other.get("runtime_data")?.get("busbar_engine")?;
    told.as_str().map(str::to_owned)
}

impl State {
    /// The workers among `allowed` that can go on in the middle of a constrained answer.
    fn able_to_resume(&self, allowed: Option<&[u64]>) -> Vec<u64> {
        let able = self.members.iter().filter(|(_, member)| resumes_guided(&member.limits)).map(|(id, _)| id.0);
        able.filter(|id| allowed.is_none_or(|allowed| allowed.contains(id))).collect()
    }

    fn rebuild_views(&mut self) {
        let view = |member: &Member, rank: &Rank| WorkerView {
            worker: rank.worker,
            total_kv_blocks: member.limits.total_kv_blocks,
            max_num_batched_tokens: member.limits.max_num_batched_tokens,
            reported: rank.reported,
        };
        self.views =
            self.members.values().flat_map(|member| member.ranks.iter().map(move |rank| view(member, rank))).collect();
    }

    fn rank(&self, worker: WorkerRank) -> Option<&Rank> {
        self.members.get(&worker.worker_id)?.ranks.iter().find(|rank| rank.worker == worker)
    }

    fn rank_mut(&mut self, worker: WorkerRank) -> Option<&mut Rank> {
        self.members.get_mut(&worker.worker_id)?.ranks.iter_mut().find(|rank| rank.worker == worker)
    }
}
