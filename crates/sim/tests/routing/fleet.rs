//! Engines behind routers in virtual time: the same batch, pool and timing as the mock engine, the same index, bookings
//! and choice as the frontend. What a router learns, it learns late: by events.

use crate::trace::{Conversation, Dice, Shape};
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, PrefillLoadHint};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::{KvChange, KvEvent, StorageTier, WorkerKvEvent};
use protocol::space::Space;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::{
    Booking, BookingId, Index, Loads, Prompt, Request, RouterConfig, RouterMode, Snapshot, WorkerView, select,
};
use sim::batch::{Batch, BatchLimits, NewSequence};
use sim::pool::{Pool, SequenceId};
use sim::timing::Timing;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

pub(crate) const BLOCK: u32 = 16;

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) shape: Shape,
    pub(crate) workers: usize,
    pub(crate) blocks_a_worker: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) timing: Timing,
    pub(crate) router: RouterConfig,
    /// Frontends that take the clients in turn.
    pub(crate) routers: usize,
    /// Whether they tell each other what they book.
    pub(crate) shares: bool,
    /// How late cache events and first tokens reach a router.
    pub(crate) event_delay: Duration,
    /// How late a router hears what another one books.
    pub(crate) told_delay: Duration,
    /// Mean of the exponential pause before a conversation begins; none in a burst.
    pub(crate) apart: Duration,
    pub(crate) seed: u64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    /// Sum over requests of what the router believed to be cached.
    pub(crate) predicted_tokens: u64,
    pub(crate) ttft: Vec<Duration>,
    pub(crate) by_worker: Vec<u64>,
    /// Sum over placements of the requests in flight at the busiest worker, and of the mean over workers.
    pub(crate) busiest: u64,
    pub(crate) mean_busy: f64,
    pub(crate) ended: Duration,
}

impl Played {
    pub(crate) fn hit_rate(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens as f64
    }

    pub(crate) fn ttft_ms(&self, share: f64) -> f64 {
        let mut sorted = self.ttft.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() - 1) as f64 * share) as usize;
        sorted[at].as_secs_f64() * 1e3
    }

    /// Requests at the busiest worker over the mean, averaged over the moments of placement.
    pub(crate) fn imbalance(&self) -> f64 {
        self.busiest as f64 / self.mean_busy
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask { client: usize },
    StepEnds { worker: usize },
    Cache { router: usize, event: usize },
    Told { router: usize, event: usize },
    FirstToken { request: usize },
}

struct Router {
    index: Index,
    loads: Loads,
    views: Vec<WorkerView>,
    rng: SmallRng,
    turn: u64,
}

struct Worker {
    batch: Batch,
    /// Ends of the step that runs: tokens that come then.
    emitted: Option<Vec<SequenceId>>,
    changes: Vec<KvChange>,
    next_event_id: u64,
    in_flight: u64,
}

struct Flight {
    client: usize,
    router: usize,
    worker: usize,
    booking: BookingId,
    asked: Duration,
    tokens_left: u64,
    started: bool,
}

/// The simulation as far as it has come.
pub(crate) struct Fleet {
    scene: Scene,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    routers: Vec<Router>,
    workers: Vec<Worker>,
    clients: Vec<Option<Conversation>>,
    next_conversation: usize,
    flights: HashMap<usize, Flight>,
    next_request: usize,
    cache_events: Vec<WorkerKvEvent>,
    told_events: Vec<ActiveSequenceEvent>,
    played: Played,
}

fn rank(worker: usize) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker as u64 + 1), dp_rank: 0 }
}

/// Plays a scene to its end.
pub(crate) fn play(scene: &Scene) -> Played {
    let mut fleet = Fleet::new(scene.clone());
    for client in 0..scene.shape.clients {
        fleet.begin(client);
    }
    while let Some(Reverse((at, _, event))) = fleet.queue.pop() {
        fleet.now = at;
        fleet.take(&event);
    }
    fleet.played.ended = fleet.now;
    assert!(fleet.flights.is_empty(), "every request is answered");
    assert!(fleet.routers.iter().all(|router| router.loads.is_empty()), "every booking is freed");
    fleet.played
}

impl Fleet {
    fn new(scene: Scene) -> Self {
        let view = |worker: usize| WorkerView {
            total_kv_blocks: Some(scene.blocks_a_worker as u64),
            max_num_batched_tokens: Some(scene.max_num_batched_tokens as u64),
            ..WorkerView::of(rank(worker))
        };
        let router = |number: usize| Router {
            index: Index::default(),
            loads: Loads::new(BLOCK),
            views: (0..scene.workers).map(view).collect(),
            rng: SmallRng::seed_from_u64(scene.seed * 1_000 + number as u64),
            turn: 0,
        };
        let worker = |_| Worker {
            batch: Batch::new(
                BatchLimits::new(256, scene.max_num_batched_tokens),
                Pool::new(BLOCK as usize, scene.blocks_a_worker),
            ),
            emitted: None,
            changes: Vec::new(),
            next_event_id: 1,
            in_flight: 0,
        };
        Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            routers: (0..scene.routers).map(router).collect(),
            workers: (0..scene.workers).map(worker).collect(),
            clients: (0..scene.shape.clients).map(|_| None).collect(),
            next_conversation: 0,
            flights: HashMap::new(),
            next_request: 0,
            cache_events: Vec::new(),
            told_events: Vec::new(),
            played: Played { by_worker: vec![0; scene.workers], ..Played::default() },
            scene,
        }
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + wait, self.order, event)));
    }

    fn begin(&mut self, client: usize) {
        if self.next_conversation == self.scene.shape.conversations {
            return;
        }
        let number = self.next_conversation;
        self.next_conversation += 1;
        let mut conversation = Conversation::new(self.scene.shape, self.scene.seed, number);
        let pause = conversation.pause(self.scene.apart);
        self.clients[client] = Some(conversation);
        self.after(pause, Event::Ask { client });
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::Ask { client } => self.ask(client),
            Event::StepEnds { worker } => self.end_step(worker),
            Event::Cache { router, event } => {
                self.routers[router].index.apply(&self.cache_events[event]);
            }
            Event::Told { router, event } => {
                let own = router as u64 + 1_000;
                self.routers[router].loads.apply(&self.told_events[event], own, self.now);
            }
            Event::FirstToken { request } => {
                let Some(flight) = self.flights.get(&request) else { return };
                self.routers[flight.router].loads.mark_prefill_completed(flight.booking);
                let (router, worker) = (flight.router, flight.worker);
                self.tell(router, request, worker, ActiveSequenceChange::MarkPrefillCompleted);
            }
        }
    }

    fn ask(&mut self, client: usize) {
        let Some(conversation) = &self.clients[client] else { return };
        let tokens = conversation.prompt.clone();
        let prompt = Prompt::new(&tokens, BLOCK, &Space::default());
        let at = client % self.scene.routers;
        let router = &mut self.routers[at];
        let overlaps = match self.scene.router.mode {
            RouterMode::Kv => router.index.overlap(&prompt.tokens_hashes),
            _ => router::Overlaps::default(),
        };
        let snapshot = Snapshot { workers: &router.views, overlaps: &overlaps, loads: &router.loads };
        let placement =
            select(&self.scene.router, &Request::of(&prompt), &snapshot, router.turn, &mut router.rng).unwrap();
        router.turn += 1;
        let request = self.next_request;
        self.next_request += 1;
        let (name, prefill_tokens) = (request.to_string(), placement.prefill_tokens);
        let booking = Booking { request_id: &name, worker: placement.worker, prompt: &prompt, prefill_tokens };
        let booking = router.loads.book(booking, self.now);
        let worker = placement.worker.worker_id.0 as usize - 1;
        let added = ActiveSequenceChange::AddRequest {
            token_sequence: Some(prompt.block_hashes.clone()),
            track_prefill_tokens: true,
            expected_output_tokens: None,
            prefill_load_hint: Some(PrefillLoadHint {
                initial_effective_prefill_tokens: prefill_tokens,
                expected_prefill_duration: None,
            }),
        };
        self.tell(at, request, worker, added);
        let tokens_left = self.scene.shape.output_tokens;
        let (asked, started) = (self.now, false);
        self.flights.insert(request, Flight { client, router: at, worker, booking, asked, tokens_left, started });
        self.played.predicted_tokens += placement.cached_tokens;
        self.played.prompt_tokens += tokens.len() as u64;
        self.played.by_worker[worker] += 1;
        self.workers[worker].in_flight += 1;
        self.note_balance();
        let new = NewSequence { id: SequenceId(request as u64), prompt: tokens, seed: Space::default().seed() };
        self.workers[worker].batch.add(new);
        self.step_if_idle(worker);
    }

    fn note_balance(&mut self) {
        let busy = || self.workers.iter().map(|worker| worker.in_flight);
        self.played.busiest += busy().max().unwrap_or(0);
        self.played.mean_busy += busy().sum::<u64>() as f64 / self.workers.len() as f64;
    }

    fn tell(&mut self, from: usize, request: usize, worker: usize, data: ActiveSequenceChange) {
        if !self.scene.shares || self.scene.routers == 1 {
            return;
        }
        let event = ActiveSequenceEvent {
            request_id: request.to_string(),
            worker: rank(worker),
            data,
            router_id: from as u64 + 1_000,
            lora_name: None,
        };
        self.told_events.push(event);
        let event = self.told_events.len() - 1;
        for router in (0..self.scene.routers).filter(|&router| router != from) {
            self.after(self.scene.told_delay, Event::Told { router, event });
        }
    }

    fn step_if_idle(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if worker.emitted.is_some() || worker.batch.is_idle() {
            return;
        }
        let mut dice = Dice::new(self.order);
        let step = worker.batch.step(&mut |_| dice.draw() as u32);
        for &(_, cached) in &step.started {
            self.played.cached_tokens += cached as u64;
        }
        worker.emitted = Some(step.emitted.iter().map(|&(id, _)| id).collect());
        worker.changes = worker.batch.pool_mut().take_changes();
        let took = self.scene.timing.step(&step.shape).max(Duration::from_micros(1));
        self.after(took, Event::StepEnds { worker: at });
    }

    fn end_step(&mut self, at: usize) {
        self.publish(at);
        for id in self.workers[at].emitted.take().unwrap_or_default() {
            self.token(at, id);
        }
        self.step_if_idle(at);
    }

    fn publish(&mut self, at: usize) {
        for data in std::mem::take(&mut self.workers[at].changes) {
            let event_id = self.workers[at].next_event_id;
            self.workers[at].next_event_id += 1;
            self.cache_events.push(WorkerKvEvent {
                worker_id: rank(at).worker_id,
                storage_tier: StorageTier::Device,
                residency_domain: None,
                event: KvEvent { event_id, data, dp_rank: 0 },
            });
            let event = self.cache_events.len() - 1;
            for router in 0..self.scene.routers {
                self.after(self.scene.event_delay, Event::Cache { router, event });
            }
        }
    }

    fn token(&mut self, at: usize, id: SequenceId) {
        let request = id.0 as usize;
        let Some(flight) = self.flights.get_mut(&request) else { return };
        if !std::mem::replace(&mut flight.started, true) {
            self.played.ttft.push(self.now - flight.asked);
            self.after(self.scene.event_delay, Event::FirstToken { request });
        }
        let Some(flight) = self.flights.get_mut(&request) else { return };
        flight.tokens_left -= 1;
        if flight.tokens_left > 0 {
            return;
        }
        let Some(flight) = self.flights.remove(&request) else { return };
        self.workers[at].batch.end(id);
        self.workers[at].in_flight -= 1;
        self.routers[flight.router].loads.free(flight.booking);
        self.tell(flight.router, request, at, ActiveSequenceChange::Free);
        let client = flight.client;
        match self.clients[client].as_mut().and_then(Conversation::answered) {
            Some(think) => self.after(think, Event::Ask { client }),
            None => self.begin(client),
        }
    }
}
