//! The two loops of a Kubernetes store, and what they share with its handle.

use super::super::StoreHealth;
use super::super::backoff::Backoff;
use super::super::outage::Outage;
use super::api::{Cluster, Object, Readiness, Seen};
use super::error::{KubernetesError, KubernetesFault};
use super::feed::{Follower, Heard, RETRY_MAX};
use super::mirror::Mirror;
use super::registrar::{Act, Registrar};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Longest wait for one answer, a connection included.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What the handle and the loops share.
#[derive(Debug)]
pub(super) struct Shared {
    object: String,
    registrar: Mutex<Registrar>,
    /// Something is wanted.
    bell: Notify,
    /// Something was done.
    moved: watch::Sender<()>,
    following: AtomicBool,
    interruptions: AtomicU64,
}

impl Shared {
    /// For the object with this name.
    pub(super) fn new(object: String, registrar: Registrar) -> Self {
        Self {
            object,
            registrar: Mutex::new(registrar),
            bell: Notify::new(),
            moved: watch::Sender::new(()),
            following: AtomicBool::new(false),
            interruptions: AtomicU64::new(0),
        }
    }

    /// Changes what is wanted.
    pub(super) fn change(&self, apply: impl FnOnce(&mut Registrar)) {
        apply(&mut self.registrar.lock());
        self.bell.notify_one();
    }

    pub(super) fn ask<T>(&self, question: impl FnOnce(&mut Registrar) -> T) -> T {
        question(&mut self.registrar.lock())
    }

    /// Changes whenever an act was done.
    pub(super) fn moved(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    pub(super) fn health(&self) -> StoreHealth {
        StoreHealth {
            connected: self.following.load(Ordering::Relaxed),
            interruptions: self.interruptions.load(Ordering::Relaxed),
            leases_lost: self.ask(|registrar| registrar.rewrites()),
        }
    }
}

/// Brings what lies in the cluster to what this process wants there, for ever; ends when the store is left.
pub(super) async fn keep<C: Cluster>(cluster: Arc<C>, shared: Arc<Shared>) {
    let mut backoff = Backoff::new(RETRY_MAX);
    let mut outage = Outage::new("the API server", "keep our records");
    loop {
        let act = shared.ask(|registrar| registrar.next(Instant::now()));
        match act {
            Act::End => {
                shared.moved.send_replace(());
                return;
            }
            Act::Wait(until) => {
                tokio::select! {
                    () = shared.bell.notified() => {}
                    () = sleep_until(until) => {}
                }
                continue;
            }
            Act::Apply { .. } | Act::Delete => {}
        }
        let began = Instant::now();
        let outcome = tokio::time::timeout(ANSWER_MAX, perform(&*cluster, &act)).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", ANSWER_MAX.as_secs());
            Err(KubernetesError::new(KubernetesFault::Unavailable, "write our DynamoWorkerMetadata", cause))
        });
        let failed = outcome.as_ref().err().cloned();
        shared.ask(|registrar| registrar.done(&act, outcome.as_ref().map(Option::as_ref).map_err(Clone::clone)));
        shared.moved.send_replace(());
        match failed {
            None => {
                outage.is_over(began);
                backoff.reset();
            }
            Some(error) => {
                outage.failed(&error, began);
                // What is new is tried at once, whatever failed before it.
                tokio::select! {
                    () = shared.bell.notified() => {}
                    () = tokio::time::sleep(backoff.next(rand::random())) => {}
                }
            }
        }
    }
}

async fn perform<C: Cluster>(cluster: &C, act: &Act) -> Result<Option<Object>, KubernetesError> {
    match act {
        Act::Apply { data, .. } => cluster.apply(data).await.map(Some),
        Act::Delete => cluster.delete().await.map(|()| None),
        Act::Wait(_) | Act::End => Ok(None),
    }
}

/// What a process follows: who is ready, and what they tell.
pub(super) struct Followed {
    mirror: Mirror,
    readiness: Follower<Readiness>,
    objects: Follower<Object>,
}

/// What happens to what is followed.
enum Event {
    Readiness(Heard<Readiness>),
    Object(Heard<Object>),
    Expiry,
}

impl Followed {
    /// Begins to follow.
    pub(super) fn begin<C: Cluster>(cluster: &C, mirror: Mirror) -> Self {
        let now = Instant::now();
        Self {
            mirror,
            readiness: Follower::new("follow which pods are ready", cluster.readiness(), now),
            objects: Follower::new("follow what pods serve", cluster.objects(), now),
        }
    }

    /// Goes on until both lists have been read.
    ///
    /// # Errors
    /// The first of any kind.
    pub(super) async fn read<C: Cluster>(&mut self, cluster: &C, shared: &Shared) -> Result<(), KubernetesError> {
        while !self.follows() {
            if let Some(error) = self.step(cluster, shared).await {
                return Err(error);
            }
        }
        Ok(())
    }

    fn follows(&self) -> bool {
        self.readiness.follows() && self.objects.follows()
    }

    /// One event; gives the fault if it is one.
    async fn step<C: Cluster>(&mut self, cluster: &C, shared: &Shared) -> Option<KubernetesError> {
        let event = tokio::select! {
            heard = self.readiness.next(|| cluster.readiness()) => Event::Readiness(heard),
            heard = self.objects.next(|| cluster.objects()) => Event::Object(heard),
            () = sleep_until(self.mirror.next_expiry()) => Event::Expiry,
        };
        let now = Instant::now();
        let fault = match event {
            Event::Readiness(Heard::Seen(seen)) => {
                self.mirror.take_readiness(seen, now);
                None
            }
            Event::Object(Heard::Seen(seen)) => {
                audit(&seen, shared, now);
                self.mirror.take_object(seen, now);
                None
            }
            Event::Readiness(Heard::Interrupted(error)) | Event::Object(Heard::Interrupted(error)) => {
                // Nothing is known to have gone: the table stays as it is.
                self.mirror.interrupt();
                Some(error)
            }
            Event::Expiry => {
                self.mirror.expire(now);
                None
            }
        };
        let follows = self.follows();
        if shared.following.swap(follows, Ordering::Relaxed) && !follows {
            shared.interruptions.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }
}

/// Follows for ever.
pub(super) async fn follow<C: Cluster>(cluster: Arc<C>, shared: Arc<Shared>, mut followed: Followed) {
    loop {
        // The followers log their faults themselves.
        let _ = followed.step(&*cluster, &shared).await;
    }
}

/// Sees to it that our object is written again where someone removed or changed it.
fn audit(seen: &Seen<Object>, shared: &Shared, now: Instant) {
    let ours = match seen {
        Seen::All(all) => all.iter().find(|object| object.name == shared.object),
        Seen::Put(object) if object.name == shared.object => Some(object),
        Seen::Gone(name) if *name == shared.object => None,
        Seen::Put(_) | Seen::Gone(_) => return,
    };
    if shared.ask(|registrar| registrar.audit(ours, now, rand::random())) {
        tracing::warn!(
            object = shared.object,
            "records of ours are not in the cluster any more; writing them again. If this goes on, another process of \
             this pod writes the same object: give them DYN_KUBE_DISCOVERY_MODE=container"
        );
        shared.bell.notify_one();
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
