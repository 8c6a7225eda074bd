//! The two loops of an etcd store, and what they share with its handle.

use super::super::StoreHealth;
use super::super::backoff::Backoff;
use super::super::outage::Outage;
use super::api::{Etcd, Events, Listing, WatchEvent};
use super::error::{EtcdError, EtcdFault};
use super::mirror::Mirror;
use super::registrar::{Act, Registrar};
use futures::StreamExt;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Longest wait for one answer, a connection included, and the shortest that is useful. A leader election takes one to
/// two seconds.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const ANSWER_MIN: Duration = Duration::from_secs(1);

/// Longest wait for a list: thousands of records, in pages.
const LIST_MAX: Duration = Duration::from_secs(15);

/// Longest pause between two tries: how late we may be when etcd comes back.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Renewals are tried more than once within a lease: pauses and answers are short against it.
const SHARE_OF_TTL: u32 = 4;

/// What the handle and the loops share.
#[derive(Debug)]
pub(super) struct Shared {
    lease: i64,
    ttl: Duration,
    registrar: Mutex<Registrar>,
    /// Something is wanted.
    bell: Notify,
    /// Something was done.
    moved: watch::Sender<()>,
    following: AtomicBool,
    interruptions: AtomicU64,
}

impl Shared {
    pub(super) fn new(lease: i64, ttl: Duration) -> Self {
        Self {
            lease,
            ttl,
            registrar: Mutex::new(Registrar::new(ttl)),
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
            leases_lost: self.ask(|registrar| registrar.leases_lost()),
        }
    }

    fn retry_max(&self) -> Duration {
        RETRY_MAX.min(self.ttl / SHARE_OF_TTL)
    }
}

/// Reads all that lies there.
pub(super) async fn list<E: Etcd>(etcd: &E) -> Result<Listing, EtcdError> {
    within(LIST_MAX, etcd.list()).await
}

async fn within<T>(longest: Duration, call: impl Future<Output = Result<T, EtcdError>> + Send) -> Result<T, EtcdError> {
    tokio::time::timeout(longest, call).await.unwrap_or_else(|_| {
        Err(EtcdError::new(EtcdFault::Unavailable, "", format!("no answer within {:.1} s", longest.as_secs_f64())))
    })
}

/// Brings what lies in etcd to what this process wants there, for ever; ends when the lease was given up.
pub(super) async fn keep<E: Etcd>(etcd: Arc<E>, shared: Arc<Shared>) {
    let mut backoff = Backoff::new(shared.retry_max());
    let mut outage = Outage::new("etcd", "keep our records");
    let answer_max = ANSWER_MAX.min(shared.ttl / SHARE_OF_TTL).max(ANSWER_MIN);
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
            _ => {}
        }
        let began = Instant::now();
        let outcome = within(answer_max, perform(&*etcd, &act, &shared)).await;
        let failed = outcome.as_ref().err().cloned();
        shared.ask(|registrar| registrar.done(&act, began, outcome));
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

async fn perform<E: Etcd>(etcd: &E, act: &Act, shared: &Shared) -> Result<(), EtcdError> {
    match act {
        Act::Grant => etcd.grant(shared.lease, shared.ttl).await,
        Act::KeepAlive => etcd.keep_alive(shared.lease).await,
        Act::Put { key, value } => etcd.put(key, value, shared.lease).await,
        Act::Delete { key } => etcd.delete(key).await,
        Act::Revoke => etcd.revoke(shared.lease).await,
        Act::Wait(_) | Act::End => Ok(()),
    }
}

/// Follows what everybody registers, for ever. `first` is what was read, or why not, when the store was opened.
pub(super) async fn follow<E: Etcd>(
    etcd: Arc<E>,
    shared: Arc<Shared>,
    mut mirror: Mirror,
    first: Result<Listing, EtcdError>,
) {
    let mut backoff = Backoff::new(shared.retry_max());
    let mut outage = Outage::new("etcd", "follow the workers");
    let mut listing = first;
    loop {
        let began = Instant::now();
        let ended = match listing {
            Ok(listing) => one_watch(&*etcd, &shared, &mut mirror, &listing, &mut outage).await,
            Err(error) => error,
        };
        // Nothing is known to have gone: the table stays as it is.
        mirror.interrupt();
        if shared.following.swap(false, Ordering::Relaxed) {
            shared.interruptions.fetch_add(1, Ordering::Relaxed);
        }
        if began.elapsed() > RETRY_MAX {
            backoff.reset();
        }
        outage.failed(&ended, Instant::now());
        tokio::time::sleep(backoff.next(rand::random())).await;
        listing = list(&*etcd).await;
    }
}

/// From a list to the end of the watch that goes on from it; gives why it ended.
async fn one_watch<E: Etcd>(
    etcd: &E,
    shared: &Shared,
    mirror: &mut Mirror,
    listing: &Listing,
    outage: &mut Outage<EtcdError>,
) -> EtcdError {
    mirror.relist(listing, Instant::now());
    if !listing.cut {
        let lies_there = listing.records.iter().map(|r| (r.key.as_slice(), r.value.as_slice())).collect();
        let lost = shared.ask(|registrar| registrar.audit(&lies_there));
        if lost > 0 {
            tracing::warn!(records = lost, "records of ours were not in etcd; writing them again");
            shared.bell.notify_one();
        }
    }
    match within(ANSWER_MAX, etcd.watch(listing.revision + 1)).await {
        Ok(events) => {
            outage.is_over(Instant::now());
            shared.following.store(true, Ordering::Relaxed);
            pump(events, shared, mirror).await
        }
        Err(error) => error,
    }
}

async fn pump(mut events: Events, shared: &Shared, mirror: &mut Mirror) -> EtcdError {
    loop {
        let next = tokio::select! {
            next = events.next() => next,
            () = sleep_until(mirror.next_expiry()) => {
                mirror.expire(Instant::now());
                continue;
            }
        };
        match next {
            Some(Ok(batch)) => batch.iter().for_each(|event| take(event, shared, mirror)),
            Some(Err(error)) => return error,
            None => return EtcdError::new(EtcdFault::Unavailable, "", "the watch ended"),
        }
    }
}

fn take(event: &WatchEvent, shared: &Shared, mirror: &mut Mirror) {
    mirror.apply(event);
    let WatchEvent::Delete { key } = event else { return };
    let ours = std::str::from_utf8(key).is_ok_and(|key| shared.ask(|registrar| registrar.is_gone(key)));
    if ours {
        tracing::warn!(key = %String::from_utf8_lossy(key), "our discovery record was deleted; writing it again");
        shared.bell.notify_one();
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
