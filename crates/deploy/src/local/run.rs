//! One run from start to stop: the owner of all its processes.

use super::process::{ProcessEvent, ProcessSpec, StopSignals, supervise};
use super::ready;
use super::state::{Identity, Phase, ProcessState, RunFolder, RunState};
use super::{RunError, port};
use graph::local::Role;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait for the owner: a few for each of at most 64 processes.
const EVENT_QUEUE_LEN: usize = 256;
/// How often a frontend is asked whether it serves, until it does.
const READY_POLL: Duration = Duration::from_millis(50);
/// Ends of one process before the run is ready that make the start fail.
const START_ATTEMPTS: u32 = 3;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The graph's name.
    pub graph: String,
    /// The model's served name.
    pub model: String,
    /// The engine's name.
    pub engine: String,
    /// Addresses of the frontends, in the order of their processes.
    pub endpoints: Vec<SocketAddr>,
    /// The processes.
    pub processes: Vec<ProcessSpec>,
    /// How long the first readiness may take.
    pub ready_timeout: Duration,
    /// How long a process may drain.
    pub drain_timeout: Duration,
}

/// What the owner tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// A process runs.
    Started {
        /// Which.
        name: String,
        /// Its pid.
        pid: u32,
        /// How often it was started again.
        restarts: u32,
    },
    /// A process ended by itself.
    Ended {
        /// Which.
        name: String,
        /// How, and its last words.
        reason: String,
        /// When it is started again; `None`: never.
        restart_in: Option<Duration>,
    },
    /// What is there on the way to ready.
    Progress {
        /// Workers that the frontend knows.
        workers: usize,
        /// Workers of the graph.
        workers_wanted: usize,
        /// The model is listed.
        listed: bool,
    },
    /// The run serves.
    Ready,
    /// The processes drain.
    Draining,
    /// A process ended because it was told to.
    Stopped {
        /// Which.
        name: String,
        /// It had to be killed.
        killed: bool,
    },
}

/// How a run is stopped from outside.
#[derive(Clone, Default)]
pub struct RunStop {
    /// Drain and stop all.
    pub drain: CancellationToken,
    /// Kill what still drains.
    pub kill: CancellationToken,
}

/// The words by which two runs are told apart: what each process is, and where it serves.
pub fn fingerprint(spec: &RunSpec) -> Vec<String> {
    let mut words = vec![format!("engine {}", spec.engine), format!("model {}", spec.model)];
    words.extend(spec.endpoints.iter().map(|address| format!("endpoint {address}")));
    for process in &spec.processes {
        let env: Vec<_> = process.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        words.push(format!("process {}: {} {}", process.name, env.join(" "), process.argv.join(" ")));
    }
    words
}

/// Starts everything, keeps it running until `stop`, then drains frontends first and workers after them.
///
/// # Errors
/// A port that is taken, a run of this name that lives, a process that cannot start; nothing is left running.
pub async fn run(
    folder: &RunFolder,
    spec: RunSpec,
    stop: RunStop,
    on_event: impl FnMut(RunEvent),
) -> Result<(), RunError> {
    if let Some(state) = folder.read().filter(|state| state.supervisor.is_alive()) {
        return Err(RunError::RunsAlready { graph: state.graph, pid: state.supervisor.pid });
    }
    for address in &spec.endpoints {
        port::check_free(*address)?;
    }
    folder.create()?;
    let mut owner = Owner::start(folder, spec, stop, on_event)?;
    let result = owner.until_told().await;
    owner.drain().await;
    folder.forget();
    result
}

struct Owner<'a, F> {
    folder: &'a RunFolder,
    spec: RunSpec,
    state: RunState,
    stop: RunStop,
    stop_frontends: CancellationToken,
    stop_workers: CancellationToken,
    events: mpsc::Receiver<(usize, ProcessEvent)>,
    tasks: tokio::task::JoinSet<()>,
    on_event: F,
}

impl<'a, F: FnMut(RunEvent)> Owner<'a, F> {
    fn start(folder: &'a RunFolder, spec: RunSpec, stop: RunStop, on_event: F) -> Result<Self, RunError> {
        let (sender, events) = mpsc::channel(EVENT_QUEUE_LEN);
        let (stop_frontends, stop_workers) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = tokio::task::JoinSet::new();
        for (index, process) in spec.processes.iter().enumerate() {
            let drain = if process.role == Role::Frontend { &stop_frontends } else { &stop_workers };
            let signals = StopSignals { drain: drain.clone(), kill: stop.kill.clone(), grace: spec.drain_timeout };
            tasks.spawn(supervise(index, process.clone(), folder.log(&process.name), signals, sender.clone()));
        }
        let state = first_state(&spec);
        folder.write(&state)?;
        Ok(Self { folder, spec, state, stop, stop_frontends, stop_workers, events, tasks, on_event })
    }

    /// Until it is told to stop, or cannot go on.
    async fn until_told(&mut self) -> Result<(), RunError> {
        let client = reqwest::Client::new();
        let base_url = self.state.endpoints.first().cloned().unwrap_or_default();
        let deadline = tokio::time::Instant::now() + self.spec.ready_timeout;
        let mut poll = tokio::time::interval(READY_POLL);
        let mut progress = (usize::MAX, false);
        let drain = self.stop.drain.clone();
        loop {
            tokio::select! {
                () = drain.cancelled() => return Ok(()),
                Some((index, event)) = self.events.recv() => self.take(index, event)?,
                _ = poll.tick(), if !self.state.ready => {
                    let answer = ready::ask(&client, &base_url).await.unwrap_or_default();
                    let listed = !answer.models.is_empty() || answer.hidden;
                    if progress != (answer.instances, listed) {
                        progress = (answer.instances, listed);
                        let workers_wanted = self.workers_wanted();
                        (self.on_event)(RunEvent::Progress { workers: answer.instances, workers_wanted, listed });
                    }
                    if listed && answer.instances >= self.workers_wanted() {
                        self.state.ready = true;
                        self.folder.write(&self.state)?;
                        (self.on_event)(RunEvent::Ready);
                    } else if tokio::time::Instant::now() > deadline {
                        return Err(self.not_ready(answer.instances, listed));
                    }
                }
            }
        }
    }

    fn workers_wanted(&self) -> usize {
        self.spec.processes.iter().filter(|p| p.role == Role::Worker).count()
    }

    fn not_ready(&self, workers: usize, listed: bool) -> RunError {
        let wanted = self.workers_wanted();
        let model = if listed { String::new() } else { format!("the model `{}` is not listed, ", self.spec.model) };
        let missing = format!("{model}{workers} of {wanted} workers registered");
        RunError::NotReady { seconds: self.spec.ready_timeout.as_secs(), missing }
    }

    fn take(&mut self, index: usize, event: ProcessEvent) -> Result<(), RunError> {
        let process = &mut self.state.processes[index];
        process.since_ms = now_ms();
        let name = process.name.clone();
        let mut failure = None;
        match event {
            ProcessEvent::Started(identity) => {
                process.restarts += u32::from(process.last_end.is_some());
                (process.identity, process.phase) = (Some(identity), Phase::Running);
                let restarts = process.restarts;
                (self.on_event)(RunEvent::Started { name, pid: identity.pid, restarts });
            }
            ProcessEvent::Ended { reason, restart_in } => {
                process.identity = None;
                process.phase = if restart_in.is_some() { Phase::Backoff } else { Phase::Stopped };
                process.last_end = Some(reason.clone());
                let too_often = !self.state.ready && process.restarts + 1 >= START_ATTEMPTS;
                if too_often || (restart_in.is_none() && (!self.state.ready || self.none_left(index))) {
                    failure = Some(RunError::Ended { name: name.clone(), reason: reason.clone() });
                }
                (self.on_event)(RunEvent::Ended { name, reason, restart_in });
            }
            ProcessEvent::Stopped { killed } => {
                (process.identity, process.phase) = (None, Phase::Stopped);
                (self.on_event)(RunEvent::Stopped { name, killed });
            }
        }
        self.folder.write(&self.state)?;
        failure.map_or(Ok(()), Err)
    }

    /// Whether no process of the same role is left that could serve.
    fn none_left(&self, index: usize) -> bool {
        let role = self.spec.processes[index].role;
        let of_role = self.spec.processes.iter().zip(&self.state.processes).filter(|(spec, _)| spec.role == role);
        of_role.into_iter().all(|(_, state)| state.phase == Phase::Stopped)
    }

    /// Frontends first: they finish their streams while the workers still serve.
    async fn drain(&mut self) {
        (self.on_event)(RunEvent::Draining);
        for role in [Role::Frontend, Role::Worker] {
            let token = if role == Role::Frontend { &self.stop_frontends } else { &self.stop_workers };
            token.cancel();
            while self.any_left(role) {
                let Some((index, event)) = self.events.recv().await else { break };
                // A state file that cannot be written must not keep the processes alive.
                let _ = self.take(index, event);
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn any_left(&self, role: Role) -> bool {
        let states = self.spec.processes.iter().zip(&self.state.processes);
        states.into_iter().any(|(spec, state)| spec.role == role && state.phase != Phase::Stopped)
    }
}

fn first_state(spec: &RunSpec) -> RunState {
    // Our own pid always has an identity; a zero start time would only make `status` call us dead.
    let own = Identity::of(std::process::id()).unwrap_or(Identity { pid: std::process::id(), start_ticks: 0 });
    let processes = spec.processes.iter().map(|process| ProcessState {
        name: process.name.clone(),
        component: process.component.clone(),
        identity: None,
        phase: Phase::Backoff,
        restarts: 0,
        last_end: None,
        since_ms: now_ms(),
    });
    RunState {
        graph: spec.graph.clone(),
        supervisor: own,
        started_ms: now_ms(),
        model: spec.model.clone(),
        engine: spec.engine.clone(),
        endpoints: spec.endpoints.iter().map(|address| format!("http://{address}")).collect(),
        spec: fingerprint(spec),
        ready: false,
        processes: processes.collect(),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
