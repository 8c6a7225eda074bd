//! An etcd in memory with faults to order: it is away, hangs, is slow, loses its data, a lease or its history.

use super::api::{Etcd, Events, Listing, RawRecord, WatchEvent};
use super::error::{EtcdError, EtcdFault};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often leases are looked at, as in etcd.
const LEASE_TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    /// Connections are refused, and those that were open are closed.
    Down,
    /// Nothing is answered.
    Hangs,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Grows when open watches break.
    life: u64,
    delay: Duration,
    refuses: Option<EtcdFault>,
    revision: i64,
    compacted: i64,
    records: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    history: Vec<(i64, WatchEvent)>,
    leases: BTreeMap<i64, (Duration, Instant)>,
}

impl State {
    fn write(&mut self, event: WatchEvent) {
        self.revision += 1;
        self.history.push((self.revision, event));
    }

    fn delete(&mut self, key: &[u8]) {
        if self.records.remove(key).is_some() {
            self.write(WatchEvent::Delete { key: key.to_vec() });
        }
    }

    fn end_lease(&mut self, lease: i64) {
        self.leases.remove(&lease);
        let keys: Vec<_> =
            self.records.iter().filter(|(_, (_, of))| *of == lease).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.delete(key));
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct MemoryEtcd {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl MemoryEtcd {
    pub(super) fn start() -> Arc<Self> {
        let state = State {
            mode: Mode::Up,
            life: 0,
            delay: Duration::ZERO,
            refuses: None,
            revision: 1,
            compacted: 0,
            records: BTreeMap::new(),
            history: Vec::new(),
            leases: BTreeMap::new(),
        };
        let etcd = Arc::new(Self { state: Mutex::new(state), changed: watch::Sender::new(()) });
        let weak = Arc::downgrade(&etcd);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE_TICK).await;
                let Some(etcd) = weak.upgrade() else { return };
                etcd.order(|state| {
                    let over = |at: &Instant| *at <= Instant::now();
                    let ended: Vec<_> =
                        state.leases.iter().filter(|(_, (_, at))| over(at)).map(|(id, _)| *id).collect();
                    if state.mode == Mode::Up {
                        ended.iter().for_each(|lease| state.end_lease(*lease));
                    }
                });
            }
        });
        etcd
    }

    fn order(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.send_replace(());
    }

    fn set_mode(&self, mode: Mode) {
        self.order(|state| {
            // A leader that is new gives every lease its whole time again.
            if mode == Mode::Up && state.mode != Mode::Up {
                state.leases.values_mut().for_each(|(ttl, at)| *at = Instant::now() + *ttl);
            }
            state.life += u64::from(mode == Mode::Down);
            state.mode = mode;
        });
    }

    pub(super) fn go_down(&self) {
        self.set_mode(Mode::Down);
    }

    pub(super) fn hang(&self) {
        self.set_mode(Mode::Hangs);
    }

    pub(super) fn come_up(&self) {
        self.set_mode(Mode::Up);
    }

    /// Breaks connections without being away.
    pub(super) fn cut(&self) {
        self.order(|state| state.life += 1);
    }

    pub(super) fn be_slow(&self, delay: Duration) {
        self.order(|state| state.delay = delay);
    }

    pub(super) fn refuse(&self, fault: Option<EtcdFault>) {
        self.order(|state| state.refuses = fault);
    }

    /// Comes up with an empty data folder.
    pub(super) fn come_up_empty(&self) {
        self.order(|state| {
            state.records.clear();
            state.history.clear();
            state.leases.clear();
            (state.revision, state.compacted) = (1, 0);
        });
        self.come_up();
    }

    /// Forgets how it came to where it is; open watches break.
    pub(super) fn compact(&self) {
        self.order(|state| {
            state.compacted = state.revision;
            state.history.clear();
            state.life += 1;
        });
    }

    pub(super) fn lose_leases(&self) {
        self.order(|state| {
            let leases: Vec<_> = state.leases.keys().copied().collect();
            leases.iter().for_each(|lease| state.end_lease(*lease));
        });
    }

    /// A stranger deletes a key.
    pub(super) fn delete_by_hand(&self, key: &str) {
        self.order(|state| state.delete(key.as_bytes()));
    }

    /// Keys and the leases they hang on.
    pub(super) fn keys(&self) -> Vec<(String, i64)> {
        let state = self.state.lock();
        state.records.iter().map(|(key, (_, lease))| (String::from_utf8_lossy(key).into_owned(), *lease)).collect()
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        let state = self.state.lock();
        state.records.get(key.as_bytes()).map(|(value, _)| String::from_utf8_lossy(value).into_owned())
    }

    pub(super) fn leases(&self) -> Vec<i64> {
        self.state.lock().leases.keys().copied().collect()
    }

    /// A call: late, refused or never answered, as ordered.
    async fn call<T>(&self, work: impl FnOnce(&mut State) -> Result<T, EtcdError>) -> Result<T, EtcdError> {
        let (mode, delay) = {
            let state = self.state.lock();
            (state.mode, state.delay)
        };
        tokio::time::sleep(delay).await;
        match mode {
            Mode::Down => return Err(fault(EtcdFault::Unavailable)),
            Mode::Hangs => return std::future::pending().await,
            Mode::Up => {}
        }
        let outcome = {
            let mut state = self.state.lock();
            match state.refuses {
                Some(refused) => Err(fault(refused)),
                None => work(&mut state),
            }
        };
        self.changed.send_replace(());
        outcome
    }

    /// What a watch that has told everything before `next` says now.
    fn news(&self, next: i64, life: u64) -> Result<(Vec<WatchEvent>, i64), EtcdError> {
        let state = self.state.lock();
        if state.life != life {
            return Err(fault(EtcdFault::Unavailable));
        }
        if next <= state.compacted {
            return Err(fault(EtcdFault::Compacted));
        }
        if state.mode == Mode::Hangs {
            return Ok((Vec::new(), next));
        }
        let news = state.history.iter().filter(|(revision, _)| *revision >= next).map(|(_, event)| event.clone());
        Ok((news.collect(), next.max(state.revision + 1)))
    }
}

fn fault(fault: EtcdFault) -> EtcdError {
    EtcdError::new(fault, "memory", "as ordered")
}

impl Etcd for Arc<MemoryEtcd> {
    async fn list(&self) -> Result<Listing, EtcdError> {
        self.call(|state| {
            let records = state.records.iter().map(|(k, (v, _))| RawRecord { key: k.clone(), value: v.clone() });
            Ok(Listing { revision: state.revision, records: records.collect(), cut: false })
        })
        .await
    }

    async fn watch(&self, revision: i64) -> Result<Events, EtcdError> {
        let begun = |state: &mut State| {
            // As the real client: a watch from the future would be silent.
            if state.revision + 1 < revision { Err(fault(EtcdFault::Compacted)) } else { Ok(state.life) }
        };
        let life = self.call(begun).await?;
        let (etcd, changed) = (self.clone(), self.changed.subscribe());
        let events = stream::unfold(Some((etcd, changed, revision)), move |open| async move {
            let (etcd, mut changed, next) = open?;
            loop {
                changed.mark_unchanged();
                match etcd.news(next, life) {
                    Err(error) => return Some((Err(error), None)),
                    Ok((news, next)) if !news.is_empty() => return Some((Ok(news), Some((etcd, changed, next)))),
                    Ok(_) => changed.changed().await.ok()?,
                }
            }
        });
        Ok(events.boxed())
    }

    async fn grant(&self, lease: i64, ttl: Duration) -> Result<(), EtcdError> {
        self.call(|state| {
            if state.leases.contains_key(&lease) {
                return Err(fault(EtcdFault::LeaseTaken));
            }
            state.leases.insert(lease, (ttl, Instant::now() + ttl));
            Ok(())
        })
        .await
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), EtcdError> {
        self.call(|state| {
            let (ttl, at) = state.leases.get_mut(&lease).ok_or_else(|| fault(EtcdFault::LeaseGone))?;
            *at = Instant::now() + *ttl;
            Ok(())
        })
        .await
    }

    async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        self.call(|state| {
            state.end_lease(lease);
            Ok(())
        })
        .await
    }

    async fn put(&self, key: &str, value: &[u8], lease: i64) -> Result<(), EtcdError> {
        self.call(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(fault(EtcdFault::LeaseGone));
            }
            let record = RawRecord { key: key.into(), value: value.into() };
            state.records.insert(record.key.clone(), (record.value.clone(), lease));
            state.write(WatchEvent::Put(record));
            Ok(())
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), EtcdError> {
        self.call(|state| {
            state.delete(key.as_bytes());
            Ok(())
        })
        .await
    }
}
