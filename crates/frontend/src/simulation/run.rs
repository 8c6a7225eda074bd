//! One seed from its first machine to its last task.

use super::audit;
use super::client::{Outcome, ask};
use super::deployment::{Deployment, model_folder};
use super::faults;
use super::oracle;
use super::plan::{Plan, Request};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time, on the clock of the simulation, for every frontend to know every worker.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest life of a request is ten minutes; nothing here may take longer than that and a little.
const PLAY_MAX: Duration = Duration::from_secs(1_200);
/// Time for everything to heal: longest time aside, expiries and probes.
const HEAL: Duration = Duration::from_secs(60);
/// Time for the last events to arrive and to be asked for.
const QUIET: Duration = Duration::from_secs(10);
/// Answers that an outage may give. All say to come again.
const OUTAGE_STATUSES: [u16; 4] = [404, 503, 504, 529];

/// How a refusal as poison begins, and the deaths that it takes: a bystander on which two workers were killed before it
/// made progress is taken for it, see [`crate::poison`].
const POISON_SAYS: &str = "Workers died while they ran this request";
const POISON_DEATHS_MIN: usize = 2;

/// What a seed gave.
pub(super) struct Played {
    /// What happened, in order, with the milliseconds of the simulation's clock.
    pub(super) log: Vec<String>,
    /// What must not happen and did.
    pub(super) violations: Vec<String>,
    pub(super) endings: Endings,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endings {
    pub(super) complete: u32,
    pub(super) failed: u32,
    pub(super) left: u32,
}

impl std::ops::AddAssign for Endings {
    fn add_assign(&mut self, more: Self) {
        self.complete += more.complete;
        self.failed += more.failed;
        self.left += more.left;
    }
}

/// Written by everybody who plays.
#[derive(Clone)]
pub(super) struct Log {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    violations: Arc<Mutex<Vec<String>>>,
    endings: Arc<Mutex<Endings>>,
    /// Workers that were killed until now.
    deaths: Arc<AtomicUsize>,
}

impl Log {
    fn new() -> Self {
        let (lines, violations) = (Arc::default(), Arc::default());
        Self { start: Instant::now(), lines, violations, endings: Arc::default(), deaths: Arc::default() }
    }

    pub(super) fn note(&self, what: impl std::fmt::Display) {
        self.lines.lock().push(format!("{:>7} {what}", self.start.elapsed().as_millis()));
    }

    pub(super) fn death(&self) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn violation(&self, what: impl std::fmt::Display) {
        self.note(format!("VIOLATION {what}"));
        self.violations.lock().push(what.to_string());
    }
}

/// Plays a seed on this thread.
pub(super) fn run(seed: u64) -> Played {
    model_folder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let log = runtime.block_on(async {
        let log = Log::new();
        let plan = Plan::of(seed);
        log.note(format!(
            "{} frontends, {} workers, {} requests, {} faults, {:?}, {:?}",
            plan.frontends,
            plan.step_times.len(),
            plan.requests.len(),
            plan.faults.len(),
            plan.weather,
            plan.events
        ));
        if tokio::time::timeout(PLAY_MAX, play(&plan, &log)).await.is_err() {
            log.violation(format!("not over after {} s", PLAY_MAX.as_secs()));
        }
        log
    });
    let endings = *log.endings.lock();
    Played { log: log.lines.lock().clone(), violations: log.violations.lock().clone(), endings }
}

async fn play(plan: &Plan, log: &Log) {
    let mut deployment = Deployment::start(plan).await;
    if !is_ready(&deployment, READY_MAX).await {
        log.violation("a frontend does not serve all workers");
        return;
    }
    let start = Instant::now();
    let requests = request_all(&deployment, plan, start, log);
    let faults = faults::play(&mut deployment, &plan.faults, start, log);
    tokio::join!(requests, faults);
    tokio::time::sleep(HEAL).await;
    deployment.heal_events();
    request_each_worker(&deployment, plan, log).await;
    tokio::time::sleep(QUIET).await;
    audit::at_rest(&deployment, log);
    let network = deployment.shut_down().await;
    tokio::time::sleep(QUIET).await;
    audit::gone(&network, log);
}

/// Waits until every frontend serves exactly the workers that run.
async fn is_ready(deployment: &Deployment, within: Duration) -> bool {
    let living: Vec<_> = deployment.living().map(|worker| worker.instance).collect();
    let ready = async {
        while !deployment.frontends.iter().all(|front| front.serves(&living)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(within, ready).await.is_ok()
}

/// Starts every request at its time; resolves when all are over. It borrows nothing: the faults change the deployment.
fn request_all(deployment: &Deployment, plan: &Plan, start: Instant, log: &Log) -> impl Future<Output = ()> + use<> {
    let addresses: Vec<_> = deployment.frontends.iter().map(|front| front.address()).collect();
    let mut running = tokio::task::JoinSet::new();
    for (number, request) in plan.requests.iter().cloned().enumerate() {
        let (world, frontend) = (deployment.client.clone(), addresses[request.frontend]);
        let (log, plan) = (log.clone(), plan.clone());
        running.spawn(async move {
            tokio::time::sleep_until(start + request.at).await;
            let outcome = ask(&world, frontend, &request).await;
            judge(&plan, &format!("request {number}"), &request, outcome, !plan.no_error_allowed, &log);
        });
    }
    async move {
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    }
}

/// Asks each worker through each frontend, with a prompt that nobody has asked: it is reached, it answers, and its
/// events tell whether any was missed before.
async fn request_each_worker(deployment: &Deployment, plan: &Plan, log: &Log) {
    let living: Vec<_> = deployment.living().map(|worker| worker.instance).collect();
    if !is_ready(deployment, Duration::from_secs(1)).await {
        log.violation("after the faults a frontend does not serve exactly the workers that run");
        return;
    }
    for (frontend, front) in deployment.frontends.iter().enumerate() {
        for (number, worker) in living.iter().enumerate() {
            let request = Request {
                at: Duration::ZERO,
                frontend,
                is_chat: false,
                prompt: format!("the last of {frontend} to {number}"),
                max_tokens: 4,
                is_streamed: false,
                n: 1,
                seed: None,
                leaves_after: None,
                pinned: Some(worker.0),
            };
            let outcome = ask(&deployment.client, front.address(), &request).await;
            if !matches!(&outcome, Outcome::Complete { worker: by, .. } if *by == format!("{:x}", worker.0)) {
                log.violation(format!("frontend {frontend} does not reach worker {number} after the faults"));
            }
            judge(plan, &format!("last {frontend} {number}"), &request, outcome, false, log);
        }
    }
}

/// Whether a request ended as it must.
fn judge(plan: &Plan, name: &str, request: &Request, outcome: Outcome, may_fail: bool, log: &Log) {
    match outcome {
        Outcome::Complete { texts, usage, worker } => {
            log.endings.lock().complete += 1;
            log.note(format!("{name} is complete, by {worker}: {texts:?} {usage:?}"));
            for (choice, text) in texts.iter().enumerate() {
                let expected = oracle::text(&plan.engine, request, choice as u32);
                if *text != expected {
                    log.violation(format!("{name}, choice {choice}: {text:?} is not {expected:?}"));
                }
            }
            let counted = (oracle::prompt_tokens(request).len() as u64, u64::from(request.n * request.max_tokens));
            if usage != counted {
                log.violation(format!("{name}: usage says {usage:?}, it was {counted:?}"));
            }
        }
        Outcome::Left if request.leaves_after.is_some() => {
            log.endings.lock().left += 1;
            log.note(format!("{name}: its client left"));
        }
        Outcome::Left => log.violation(format!("{name}: left without a reason")),
        Outcome::Failed { status, message } => {
            log.endings.lock().failed += 1;
            log.note(format!("{name} failed: {status} {message}"));
            if message.starts_with(POISON_SAYS) && log.deaths.load(Ordering::Relaxed) >= POISON_DEATHS_MIN {
                return;
            }
            if !may_fail {
                log.violation(format!("{name} failed though a healthy worker was there: {status} {message}"));
            } else if !OUTAGE_STATUSES.contains(&status) && status != 200 {
                log.violation(format!("{name}: an outage is no reason for {status} {message}"));
            }
        }
        Outcome::Broken(why) => log.violation(format!("{name}: {why}")),
    }
}
