//! What is between a worker and the frontends: discovery with its delays and expiries, and a broker of KV events that
//! loses some and repeats others.

use super::plan::EventLosses;
use parking_lot::Mutex;
use protocol::discovery::{EventTransport, Record};
use protocol::events::KV_EVENTS;
use protocol::kv::WorkerKvEvent;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use runtime::discovery::{Change, Discovery, RecordKey};
use runtime::event_plane::{Publisher, Subscriber};
use runtime::tasks::Tasks;
use runtime::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest way of a record from a worker to a frontend.
const LAG_MS_MAX: u64 = 50;

/// Changes on their way; a worker has seven records.
const LANE_LEN: usize = 64;

/// Where events are lost, and how.
#[derive(Clone)]
pub(super) struct Broker {
    pub(super) world: World,
    pub(super) address: IpAddr,
    pub(super) losses: EventLosses,
    /// Once set, every event arrives, once.
    pub(super) is_healed: Arc<AtomicBool>,
}

/// Carries one worker's records to every frontend.
pub(super) struct Bridge {
    lanes: Vec<mpsc::Sender<Step>>,
    known: Arc<Mutex<BTreeMap<RecordKey, Record>>>,
    /// How long a record outlives its worker.
    expires_in: Arc<Mutex<Duration>>,
    brokers: Arc<Tasks>,
    _tasks: Tasks,
}

struct Step {
    at: Instant,
    change: Change,
}

impl Bridge {
    /// `worker` is the store that the worker announces itself in, `frontends` those that the frontends look at.
    pub(super) fn new(worker: &Discovery, frontends: &[Discovery], broker: Broker, seed: u64) -> Self {
        let tasks = Tasks::new();
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut lanes = Vec::new();
        for frontend in frontends {
            let (sender, steps) = mpsc::channel(LANE_LEN);
            tasks.spawn("discovery lane", carry(steps, frontend.member()));
            lanes.push((sender, Duration::from_millis(rng.random_range(0..=LAG_MS_MAX))));
        }
        let known: Arc<Mutex<BTreeMap<RecordKey, Record>>> = Arc::default();
        let expires_in = Arc::new(Mutex::new(Duration::ZERO));
        let brokers = Arc::new(Tasks::new());
        let follower = Follower {
            lanes: lanes.clone(),
            known: known.clone(),
            expires_in: expires_in.clone(),
            brokers: Arc::downgrade(&brokers),
            broker,
            rng: SmallRng::seed_from_u64(rng.random()),
        };
        let mut watch = worker.watch();
        tasks.spawn("discovery bridge", async move {
            let mut follower = follower;
            while let Some(change) = watch.next().await {
                follower.pass(change).await;
            }
        });
        Self { lanes: lanes.into_iter().map(|lane| lane.0).collect(), known, expires_in, brokers, _tasks: tasks }
    }

    /// The worker is killed: its broker goes with it, its records only after `expires_in`.
    pub(super) fn orphan(&self, expires_in: Duration) {
        *self.expires_in.lock() = expires_in;
        self.brokers.cancel();
    }

    /// For one frontend, every record of the worker is gone for a while.
    pub(super) async fn hide(&self, frontend: usize, lasts: Duration) {
        let known = self.known.lock().clone();
        let now = Instant::now();
        let gone = known.keys().map(|key| Step { at: now, change: Change::Delete { key: key.clone() } });
        let put = |(key, record): (&RecordKey, &Record)| Change::Put { key: key.clone(), record: record.clone() };
        let back = known.iter().map(|entry| Step { at: now + lasts, change: put(entry) });
        for step in gone.chain(back) {
            // The lane ends with the bridge only.
            let _ = self.lanes[frontend].send(step).await;
        }
    }
}

/// Applies changes in order, each not before its time.
async fn carry(mut steps: mpsc::Receiver<Step>, frontend: Discovery) {
    while let Some(Step { at, change }) = steps.recv().await {
        tokio::time::sleep_until(at).await;
        let result = match change {
            Change::Put { record, .. } => frontend.register(&record).await,
            Change::Delete { key } => frontend.withdraw(&key).await,
        };
        result.unwrap();
    }
}

struct Follower {
    lanes: Vec<(mpsc::Sender<Step>, Duration)>,
    known: Arc<Mutex<BTreeMap<RecordKey, Record>>>,
    expires_in: Arc<Mutex<Duration>>,
    brokers: std::sync::Weak<Tasks>,
    broker: Broker,
    rng: SmallRng,
}

impl Follower {
    async fn pass(&mut self, change: Change) {
        let (change, later) = match change {
            Change::Put { key, record } => {
                let record = self.brokered(record).await;
                self.known.lock().insert(key.clone(), record.clone());
                (Change::Put { key, record }, Duration::ZERO)
            }
            Change::Delete { key } => {
                self.known.lock().remove(&key);
                (Change::Delete { key }, *self.expires_in.lock())
            }
        };
        for (lane, lag) in &self.lanes {
            let _ = lane.send(Step { at: Instant::now() + *lag + later, change: change.clone() }).await;
        }
    }

    /// A channel of KV events goes through the broker, if there is one; everything else stays what it is.
    async fn brokered(&mut self, mut record: Record) -> Record {
        let (Record::EventChannel(channel), Some(tasks)) = (&mut record, self.brokers.upgrade()) else { return record };
        let EventTransport::Zmq { endpoint } = &mut channel.transport else { return record };
        if channel.topic != KV_EVENTS || !self.broker.losses.any() {
            return record;
        }
        let (world, host) = (&self.broker.world, self.broker.address.to_string());
        let publisher = Publisher::bind_in(world, &host, &host, KV_EVENTS).await.unwrap();
        let subscriber = Subscriber::connect_in(world, endpoint, KV_EVENTS).await.unwrap();
        *endpoint = publisher.endpoint();
        let rng = SmallRng::seed_from_u64(self.rng.random());
        tasks.spawn("event broker", relay(subscriber, publisher, self.broker.clone(), rng));
        record
    }
}

/// Passes messages on: some not, some twice.
async fn relay(mut subscriber: Subscriber, publisher: Publisher, broker: Broker, mut rng: SmallRng) {
    while let Some(envelope) = subscriber.next().await {
        let events: Vec<WorkerKvEvent> = envelope.decode().unwrap();
        let mut happens = |one_in: Option<u32>| {
            let hit = one_in.is_some_and(|one_in| rng.random_ratio(1, one_in));
            hit && !broker.is_healed.load(Ordering::Relaxed)
        };
        let (lost, twice) = (happens(broker.losses.lost_one_in), happens(broker.losses.twice_one_in));
        for _ in 0..if lost { 0 } else { 1 + u32::from(twice) } {
            publisher.publish(&events).await.unwrap();
        }
    }
}
