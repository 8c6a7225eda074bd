//! The machines of one seed: frontends, workers with their engines, and the network between them.

use super::bridge::{Bridge, Broker};
use super::plan::{EventLosses, Plan};
use crate::config::{FrontendConfig, RouterMode};
use crate::frontend::Frontend;
use crate::workers::WorkerSet;
use parking_lot::Mutex;
use protocol::ids::InstanceId;
use runtime::discovery::Discovery;
use runtime::request_plane::RequestServerConfig;
use runtime::world::{MemoryNetwork, World};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::card::ServedModel;
use worker::engine::Engine;
use worker::engine::mock::{self, MockConfig, Timing};
use worker::indexer::Mirror;
use worker::{Worker, WorkerConfig};

/// Port of a worker that comes back under its old address.
const WORKER_PORT: u16 = 9_000;

pub(super) struct Deployment {
    pub(super) network: MemoryNetwork,
    pub(super) frontends: Vec<Front>,
    pub(super) workers: Vec<Slot>,
    pub(super) client: World,
    engine: MockConfig,
    losses: EventLosses,
    seed: u64,
    events_healed: Arc<AtomicBool>,
    /// Bridges of workers that are gone: their records outlive them.
    bridges: Vec<Bridge>,
}

/// A frontend and the discovery store that it looks at.
pub(super) struct Front {
    pub(super) frontend: Frontend,
    pub(super) ip: IpAddr,
    discovery: Discovery,
}

/// A machine for a worker, and what runs there.
pub(super) struct Slot {
    pub(super) ip: IpAddr,
    step_time: Duration,
    starts: u64,
    pub(super) running: Option<Running>,
    /// Processes that drain.
    leaving: Vec<(JoinHandle<()>, Bridge, Arc<dyn Engine>)>,
}

/// A worker process.
pub(super) struct Running {
    pub(super) instance: InstanceId,
    pub(super) mirror: Arc<Mutex<Mirror>>,
    pub(super) engine: Arc<dyn Engine>,
    worker: Worker,
    bridge: Bridge,
}

impl Deployment {
    pub(super) async fn start(plan: &Plan) -> Self {
        let network = MemoryNetwork::new(plan.weather, plan.seed);
        let mut frontends = Vec::new();
        for number in 0..plan.frontends {
            frontends.push(Front::start(&network, number as u8, plan.seed).await);
        }
        let slot = |(number, &step_time): (usize, &Duration)| Slot {
            ip: address(1, number as u8),
            step_time,
            starts: 0,
            running: None,
            leaving: Vec::new(),
        };
        let mut deployment = Self {
            client: network.machine(address(2, 0), mixed(plan.seed, 2_000)),
            network,
            frontends,
            workers: plan.step_times.iter().enumerate().map(slot).collect(),
            engine: plan.engine.clone(),
            losses: plan.events,
            seed: plan.seed,
            events_healed: Arc::default(),
            bridges: Vec::new(),
        };
        for worker in 0..deployment.workers.len() {
            deployment.start_worker(worker, true).await;
        }
        deployment
    }

    /// Starts a process on a machine that has none.
    pub(super) async fn start_worker(&mut self, number: usize, same_port: bool) {
        let slot = &mut self.workers[number];
        slot.starts += 1;
        let seed = mixed(self.seed, number as u64 * 100 + slot.starts);
        let host = slot.ip.to_string();
        let free = slot.leaving.iter().all(|(process, ..)| process.is_finished());
        let request_server = RequestServerConfig {
            host: host.clone(),
            port: if same_port && free { WORKER_PORT } else { 0 },
            world: self.network.machine(slot.ip, seed),
            ..RequestServerConfig::default()
        };
        let config = WorkerConfig { request_server, event_host: host, ..WorkerConfig::default() };
        let engine = MockConfig { timing: Timing::PerStep(slot.step_time), ..self.engine.clone() };
        let started = mock::start(&engine).unwrap();
        let engine = started.engine.clone();
        let store = Discovery::memory();
        let stores: Vec<Discovery> = self.frontends.iter().map(|front| front.discovery.clone()).collect();
        let broker = Broker {
            world: self.network.machine(address(3, 0), mixed(seed, 3)),
            address: address(3, 0),
            losses: self.losses,
            is_healed: self.events_healed.clone(),
        };
        let bridge = Bridge::new(&store, &stores, broker, mixed(seed, 4));
        let model = ServedModel::new(worker::model::BYTE_MODEL, model_folder());
        let worker = Worker::start(config, started, model, store).await.unwrap();
        let (instance, mirror) = (worker.instance_id(), worker.mirror().clone());
        slot.running = Some(Running { instance, mirror, engine, worker, bridge });
    }

    /// Ends whatever runs on a machine, at once.
    pub(super) fn kill_worker(&mut self, number: usize, expires_in: Duration) {
        let slot = &mut self.workers[number];
        self.network.kill(slot.ip);
        for (process, bridge, engine) in slot.leaving.drain(..) {
            process.abort();
            bridge.orphan(expires_in);
            engine.stop();
            self.bridges.push(bridge);
        }
        if let Some(Running { worker, bridge, engine, .. }) = slot.running.take() {
            bridge.orphan(expires_in);
            drop(worker);
            engine.stop();
            self.bridges.push(bridge);
        }
    }

    /// Lets a worker drain and go.
    pub(super) fn leave(&mut self, number: usize) {
        let slot = &mut self.workers[number];
        let Some(Running { worker, bridge, engine, .. }) = slot.running.take() else { return };
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let process = tokio::spawn(async move {
            // It leaves because it was told to; nothing else can come of it.
            worker.run_until(shutdown).await.unwrap();
        });
        slot.leaving.push((process, bridge, engine));
    }

    /// Hides a running worker's records from one frontend for a while.
    pub(super) async fn hide(&self, frontend: usize, worker: usize, lasts: Duration) {
        if let Some(running) = &self.workers[worker].running {
            running.bridge.hide(frontend, lasts).await;
        }
    }

    /// From now on every event arrives.
    pub(super) fn heal_events(&self) {
        self.events_healed.store(true, Ordering::Relaxed);
    }

    /// The workers that run.
    pub(super) fn living(&self) -> impl Iterator<Item = &Running> {
        self.workers.iter().filter_map(|slot| slot.running.as_ref())
    }

    /// Engines of processes that drain, or have.
    pub(super) fn leaving_engines(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        self.workers.iter().flat_map(|slot| slot.leaving.iter().map(|(.., engine)| engine))
    }

    /// Ends everything: frontends gently, then the workers.
    pub(super) async fn shut_down(mut self) -> MemoryNetwork {
        for front in self.frontends {
            front.frontend.shutdown().await;
        }
        for slot in &mut self.workers {
            for (process, ..) in slot.leaving.drain(..) {
                process.await.unwrap();
            }
            if let Some(Running { worker, engine, .. }) = slot.running.take() {
                drop(worker);
                engine.stop();
            }
        }
        self.network
    }
}

impl Front {
    async fn start(network: &MemoryNetwork, number: u8, seed: u64) -> Self {
        let ip = address(0, number);
        let discovery = Discovery::memory();
        let mut config = FrontendConfig {
            world: network.machine(ip, mixed(seed, 1_000 + u64::from(number))),
            response_host: Some(ip.to_string()),
            event_host: Some(ip.to_string()),
            ..FrontendConfig::default()
        };
        config.http.host = ip;
        config.http.allow_open = true;
        config.router.mode = RouterMode::Kv;
        let frontend = crate::frontend::start(config, discovery.clone()).await.unwrap();
        Self { frontend, ip, discovery }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.frontend.address()
    }

    /// The worker sets of the one model, or of none.
    pub(super) fn sets(&self) -> Vec<Arc<WorkerSet>> {
        self.frontend.app().catalog.snapshot().sets.clone()
    }

    /// Whether the model can be asked, and its workers are exactly `expected`.
    pub(super) fn serves(&self, expected: &[InstanceId]) -> bool {
        let catalog = &self.frontend.app().catalog;
        let ready = matches!(catalog.find(worker::model::BYTE_MODEL), Some(crate::models::Entry::Ready(_)));
        let mut here: Vec<InstanceId> =
            self.sets().iter().flat_map(|set| set.views()).map(|view| view.worker.worker_id).collect();
        let mut expected = expected.to_vec();
        here.sort_unstable();
        expected.sort_unstable();
        here == expected && (ready || expected.is_empty())
    }
}

/// The byte model's files, written once for all seeds. Call it outside of a runtime first.
pub(super) fn model_folder() -> &'static Path {
    static FOLDER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let written = FOLDER.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let cache = worker::model::ModelCache::at(root.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let model = runtime.block_on(worker::model::byte_model(&cache, &worker::model::NoProgress));
        (root, model.unwrap().hf_folder)
    });
    &written.1
}

fn address(network: u8, machine: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, network, machine + 1))
}

/// Another seed for another purpose.
fn mixed(seed: u64, purpose: u64) -> u64 {
    (seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd134_2543_de82_ef95).rotate_left(31)
}
