//! One operator acts: a lease in the API server says which.
//!
//! A candidate takes the lease when it is free, or when nobody has renewed it for as long as the lease lasts, counted on
//! the candidate's own monotonic clock from the moment it *saw* the last change. No wall clocks are compared. Who holds
//! the lease gives itself up [`LeaderConfig::give_up`] after it *sent* the last renewal that succeeded, which is before
//! anyone else may count to [`LeaderConfig::duration`]: clocks would have to differ in rate by half for two terms to meet.
//! Every write names the version that it replaces, so of two that write at once one is refused.
//!
//! What it cannot help: someone who deletes the lease while it is held opens it to others at once.
//!
//! Source: Kubernetes, client-go `tools/leaderelection`, whose leases it can share; `coordination.k8s.io/v1`.

mod decide;
mod record;

pub use decide::{Candidate, Seen, Step};

use decide::seen;
use kube::{Api, Client};
use record::{Lease, Outcome};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A lease lasts so long without a renewal, as in client-go: one missed renewal must not cost the leadership.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The leader gives up after so long without a renewal: two thirds of the lease, as in client-go.
pub const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two renewals, and between two looks at a lease of someone else. Four renewals fit into [`GIVE_UP`].
pub const RENEW_EVERY: Duration = Duration::from_secs(2);
/// One call to the API server. Two that hang still leave time for a third before [`GIVE_UP`].
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Candidates look at different moments, spread over so long, or each change would bring a storm of conflicts.
const SPREAD: Duration = Duration::from_millis(500);

/// Which lease, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderConfig {
    /// Name of the lease.
    pub name: String,
    /// Kubernetes namespace of the lease.
    pub k8s_namespace: String,
    /// Who asks; no two processes may say the same (a pod's name and a random part).
    pub identity: String,
    /// How long the lease lasts without a renewal.
    pub duration: Duration,
    /// How long after its last renewal the leader gives up; less than `duration`.
    pub give_up: Duration,
    /// Between two renewals.
    pub renew_every: Duration,
}

impl LeaderConfig {
    /// The usual times.
    pub fn new(name: impl Into<String>, k8s_namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            k8s_namespace: k8s_namespace.into(),
            identity: identity.into(),
            duration: LEASE_DURATION,
            give_up: GIVE_UP,
            renew_every: RENEW_EVERY,
        }
    }
}

/// No term came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    /// It was told to stop first.
    #[error("stopped before the lease was free")]
    Stopped,
    /// The times cannot keep two leaders apart.
    #[error("the leader must renew, then give up, before the lease ends: renew_every < give_up < duration")]
    Times,
}

/// The time in which this process is the leader. Dropping it releases the lease, so drop it after the last write.
#[derive(Debug)]
pub struct Term {
    /// Fires when the term is over: not renewed in time, taken away, or told to stop. No write may follow it.
    pub lost: CancellationToken,
    /// Who leads.
    pub identity: String,
    /// How often the lease changed hands; grows with every term, whoever's it is.
    pub transitions: i32,
    held_until: tokio::sync::watch::Receiver<Instant>,
    keeper: Option<JoinHandle<()>>,
    done: Option<DropGuard>,
}

impl Term {
    /// Whether a write may begin now. Stronger than [`Term::lost`], which needs its turn on a busy thread to fire.
    pub fn is_held(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < *self.held_until.borrow()
    }

    /// Ends the term and waits until the lease is free for others, or cannot be freed.
    pub async fn release(mut self) {
        drop(self.done.take());
        if let Some(keeper) = self.keeper.take() {
            // The keeper never panics by design; if it did, the lease runs out by itself.
            let _ = keeper.await;
        }
    }
}

/// Waits until the lease is ours.
///
/// Cancel-safe: a dropped call may leave the lease written, which then runs out or is taken up by the next call of the
/// same identity. An API server that is away is asked again until `stop`.
///
/// # Errors
/// [`LeaderError::Stopped`] once `stop` fires; [`LeaderError::Times`] for times that cannot work.
pub async fn elect(client: &Client, config: &LeaderConfig, stop: &CancellationToken) -> Result<Term, LeaderError> {
    if !(config.renew_every < config.give_up && config.give_up < config.duration) {
        return Err(LeaderError::Times);
    }
    let api: Api<Lease> = Api::namespaced(client.clone(), &config.k8s_namespace);
    let mut candidate = Candidate::new(&config.identity);
    // Once, not in every round: a candidate that is told the same again and again is no news.
    let mut warned = false;
    loop {
        match attempt(&api, config, &mut candidate).await {
            Ok(Some((lease, sent))) => {
                tracing::info!(lease = %config.name, identity = %config.identity, "leads");
                return Ok(keep(api, config.clone(), lease, sent, stop.clone()));
            }
            Ok(None) => warned = false,
            Err(error) if !warned => {
                tracing::warn!(lease = %config.name, error = %error, "the lease cannot be read or written; tried again");
                warned = true;
            }
            Err(error) => tracing::debug!(lease = %config.name, error = %error, "the lease cannot be read or written"),
        }
        let pause = config.renew_every + spread(&config.identity);
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(LeaderError::Stopped);
        }
    }
}

/// One look at the lease, and one write where it is free. `None`: it is someone else's.
async fn attempt(
    api: &Api<Lease>,
    config: &LeaderConfig,
    candidate: &mut Candidate,
) -> Result<Option<(Lease, Instant)>, record::CallError> {
    let found = record::read(api, &config.name, CALL_TIMEOUT).await?;
    let step = candidate.step(found.as_ref().map(|lease| seen(lease, config.duration)).as_ref(), Instant::now());
    let wanted = match (step, found) {
        (Step::Wait, _) => return Ok(None),
        (Step::Take, Some(lease)) => record::taken(lease, config),
        (Step::Create | Step::Take, _) => record::first(config),
    };
    let sent = Instant::now();
    match record::write(api, &wanted, CALL_TIMEOUT).await? {
        Outcome::Written(lease) => Ok(Some((*lease, sent))),
        // Someone else was quicker.
        Outcome::Conflict | Outcome::Gone => Ok(None),
    }
}

/// Up to [`SPREAD`], the same for the same identity.
fn spread(identity: &str) -> Duration {
    let sum = identity.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    SPREAD * (sum % 1000) / 1000
}

fn keep(api: Api<Lease>, config: LeaderConfig, lease: Lease, sent: Instant, stop: CancellationToken) -> Term {
    let (lost, done) = (CancellationToken::new(), CancellationToken::new());
    let (held, held_until) = tokio::sync::watch::channel(sent + config.give_up);
    let (identity, transitions) = (config.identity.clone(), record::transitions(&lease));
    let keeper = Keeper { api, config, lease, held, lost: lost.clone() };
    let keeper = tokio::spawn(keeper.run(done.clone(), stop));
    Term { lost, identity, transitions, held_until, keeper: Some(keeper), done: Some(done.drop_guard()) }
}

/// Renews the lease until the term is dropped or lost.
struct Keeper {
    api: Api<Lease>,
    config: LeaderConfig,
    lease: Lease,
    held: tokio::sync::watch::Sender<Instant>,
    lost: CancellationToken,
}

/// What one renewal came to.
enum Renewal {
    Held,
    /// Not known, or refused for a reason that may pass.
    Unsure,
    /// Someone else holds it.
    Taken,
}

impl Keeper {
    async fn run(mut self, done: CancellationToken, stop: CancellationToken) {
        let mut next = Instant::now() + self.config.renew_every;
        loop {
            let held_until = *self.held.borrow();
            tokio::select! {
                biased;
                () = done.cancelled() => {
                    self.lost.cancel();
                    record::release(&self.api, self.lease, CALL_TIMEOUT).await;
                    return;
                }
                () = tokio::time::sleep_until(held_until) => {
                    tracing::error!(lease = %self.config.name, "the lease was not renewed in time; leads no more");
                    self.lost.cancel();
                    return;
                }
                // The work is told to stop; the lease is kept until it has, so that nobody begins before.
                () = stop.cancelled(), if !self.lost.is_cancelled() => self.lost.cancel(),
                () = tokio::time::sleep_until(next) => {
                    let renewal = tokio::time::timeout_at(held_until, self.renew()).await;
                    if let Ok(Renewal::Taken) = renewal {
                        tracing::error!(lease = %self.config.name, "someone else holds the lease; leads no more");
                        self.lost.cancel();
                        return;
                    }
                    next = Instant::now() + self.config.renew_every;
                }
            }
        }
    }

    async fn renew(&mut self) -> Renewal {
        let sent = Instant::now();
        match record::write(&self.api, &record::renewed(self.lease.clone(), &self.config), CALL_TIMEOUT).await {
            Ok(Outcome::Written(lease)) => {
                self.lease = *lease;
                self.held.send_replace(sent + self.config.give_up);
                Renewal::Held
            }
            Ok(Outcome::Conflict | Outcome::Gone) => self.look().await,
            Err(error) => {
                tracing::warn!(lease = %self.config.name, error = %error, "the lease could not be renewed; tried again");
                Renewal::Unsure
            }
        }
    }

    /// The lease is not as we left it: an earlier write of ours arrived after all, someone put a label on it, someone
    /// deleted it, or someone took it.
    async fn look(&mut self) -> Renewal {
        match record::read(&self.api, &self.config.name, CALL_TIMEOUT).await {
            Ok(Some(lease)) if record::holder(&lease) == Some(&self.config.identity) => {
                self.lease = lease;
                Renewal::Unsure
            }
            // Deleted: the next one to create it leads, and that may be anyone.
            Ok(_) => Renewal::Taken,
            Err(_) => Renewal::Unsure,
        }
    }
}
