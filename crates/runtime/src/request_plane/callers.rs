//! The frontends that a worker hears of, and when each was heard last.
//!
//! A frontend that pings vouches for the requests that it has running. When it falls silent, because its process is
//! stopped or the way from it is cut, nobody reads their answers any more and nobody can cancel them: the worker does it
//! by itself, so that the engine's time goes to somebody who is there. A frontend that never pinged, as every stock one,
//! is not missed.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a frontend is suspected: four pings.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// What a suspect has left. The worker may have been held up itself: what waits in its sockets is read meanwhile.
const LAST_CHANCE: Duration = Duration::from_millis(500);

/// Frontends at once. Only those with a connection or a running request are remembered.
const CALLERS_MAX: usize = 1_024;

/// Longest name of a frontend; ours are UUIDs.
const NAME_BYTES_MAX: usize = 64;

/// By name.
#[derive(Debug, Default)]
pub(super) struct Callers {
    by_name: Mutex<HashMap<String, Weak<Caller>>>,
}

/// One frontend.
#[derive(Debug)]
pub(super) struct Caller {
    start: Instant,
    /// Of the last ping, after `start`; 0 before the first.
    pinged_ms: AtomicU64,
}

impl Callers {
    /// The frontend of this name; `None` when its name is none, or too many others are known.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Caller>> {
        let mut by_name = self.by_name.lock();
        if let Some(known) = by_name.get(name).and_then(Weak::upgrade) {
            return Some(known);
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        by_name.retain(|_, caller| caller.strong_count() > 0);
        if by_name.len() >= CALLERS_MAX {
            return None;
        }
        let caller = Arc::new(Caller { start: Instant::now(), pinged_ms: AtomicU64::new(0) });
        by_name.insert(name.to_owned(), Arc::downgrade(&caller));
        Some(caller)
    }
}

impl Caller {
    /// A ping of it came.
    pub(super) fn pinged(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // At least 1: 0 means never.
        self.pinged_ms.fetch_max(ms.max(1), Ordering::Relaxed);
    }

    fn last_ping(&self) -> Option<Instant> {
        let ms = self.pinged_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| self.start + Duration::from_millis(ms))
    }

    /// Resolves when the frontend has pinged once and is silent now.
    pub(super) async fn fell_silent(&self) {
        loop {
            let last = self.last_ping();
            let suspect_at = last.map_or_else(|| Instant::now() + SUSPECT_AFTER, |last| last + SUSPECT_AFTER);
            tokio::time::sleep_until(suspect_at).await;
            if last.is_none() || self.last_ping() != last {
                continue;
            }
            tokio::time::sleep(LAST_CHANCE).await;
            if self.last_ping() == last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frontend_falls_silent_between_two_and_three_seconds_after_its_last_ping() {
        let callers = Callers::default();
        let caller = callers.named("a").unwrap();
        let silent = tokio::spawn({
            let caller = caller.clone();
            async move { caller.fell_silent().await }
        });
        for _ in 0..100 {
            caller.pinged();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(!silent.is_finished());
        let last = Instant::now() - Duration::from_millis(500);
        silent.await.unwrap();
        let after = last.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&after), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_pinged_is_not_missed_and_one_that_comes_late_is_not_either() {
        let callers = Callers::default();
        let stock = callers.named("never").unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3_600), stock.fell_silent()).await.is_err());
        let late = callers.named("late").unwrap();
        let pings = async {
            for _ in 0..100 {
                // Late for suspicion, in time for the last chance.
                tokio::time::sleep(Duration::from_millis(2_400)).await;
                late.pinged();
            }
        };
        tokio::select! {
            () = late.fell_silent() => panic!("it pinged"),
            () = pings => {}
        }
    }

    #[test]
    fn a_name_stands_for_one_frontend_while_anybody_holds_it_and_the_table_is_bounded() {
        let callers = Callers::default();
        let first = callers.named("a").unwrap();
        assert!(Arc::ptr_eq(&first, &callers.named("a").unwrap()));
        assert!(callers.named("").is_none() && callers.named(&"x".repeat(65)).is_none());
        let held: Vec<_> = (1..CALLERS_MAX).map(|at| callers.named(&at.to_string()).unwrap()).collect();
        assert!(callers.named("one too many").is_none());
        drop(held);
        assert!(callers.named("one too many").is_some());
    }
}
