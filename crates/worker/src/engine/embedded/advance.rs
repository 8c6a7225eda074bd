//! How far the engine's thread has come, as anybody may ask at any time.
//!
//! Steps alone do not tell: one step over a full batch of prompt tokens takes ten seconds on a machine whose cores are
//! busy with something else, and must not be taken for a hang. A thread that computes uses processor time, however
//! little it gets; one that waits for ever uses none. So processor time counts as going forward, within bounds: a
//! thread that spins in one step for ever is stuck, too.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest step whose processor time counts: a batch of 2,048 rows at 20 rows a second, which is a large model on one
/// old core.
const STEP_MAX: Duration = Duration::from_secs(120);

/// See the module.
pub(super) struct Advance {
    start: Instant,
    steps: AtomicU64,
    /// When the last step began or ended, milliseconds after `start`.
    marked_ms: AtomicU64,
    /// The kernel's account of the thread; unset before it runs, and where there is no `/proc`.
    schedstat: OnceLock<PathBuf>,
}

impl Advance {
    /// Nothing done yet.
    pub(super) fn new() -> Self {
        let (steps, marked_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), steps, marked_ms, schedstat: OnceLock::new() }
    }

    /// The calling thread is the engine's.
    pub(super) fn enter(&self) {
        // `PID/task/TID`: the link is resolved here, because it means another thread elsewhere.
        if let Ok(own) = std::fs::read_link("/proc/thread-self") {
            let _ = self.schedstat.set(PathBuf::from("/proc").join(own).join("schedstat"));
        }
    }

    /// A step begins.
    pub(super) fn begin(&self) {
        self.mark();
    }

    /// A step is over.
    pub(super) fn end(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.mark();
    }

    /// A number that grows while the thread computes.
    pub(super) fn value(&self) -> u64 {
        let steps = self.steps.load(Ordering::Relaxed);
        let marked = self.start + Duration::from_millis(self.marked_ms.load(Ordering::Relaxed));
        if marked.elapsed() > STEP_MAX {
            return steps;
        }
        // Without an account the time itself stands in for it.
        steps + self.processor_time_ns().unwrap_or_else(|| marked.elapsed().as_millis() as u64)
    }

    fn processor_time_ns(&self) -> Option<u64> {
        // "time on a processor, ns" "time waiting for one, ns" "turns"
        let text = std::fs::read_to_string(self.schedstat.get()?).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    fn mark(&self) {
        self.marked_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_thread_that_computes_goes_forward_within_one_step_and_one_that_waits_does_not() {
        let (advance, computes, ended) =
            (Arc::new(Advance::new()), Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (entered_sender, entered) = std::sync::mpsc::sync_channel(1);
        let (waits_sender, waits) = std::sync::mpsc::sync_channel(1);
        let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
        let (own, still, over) = (advance.clone(), computes.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            own.enter();
            own.begin();
            entered_sender.send(()).unwrap();
            let mut sum = 0u64;
            while still.load(Ordering::Relaxed) {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
            waits_sender.send(()).unwrap();
            let _ = released.recv();
            over.store(true, Ordering::Relaxed);
            own.end();
        });
        entered.recv().unwrap();
        let first = advance.value();
        // It computes, so some day it has got a processor.
        while advance.value() <= first {
            std::thread::yield_now();
        }
        computes.store(false, Ordering::Relaxed);
        waits.recv().unwrap();
        // The thread is on its way to sleep; once it sleeps, the number stands still.
        let mut last = advance.value();
        let mut same = 0;
        while same < 1_000 {
            let now = advance.value();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        assert!(!ended.load(Ordering::Relaxed));
        release.send(()).unwrap();
        thread.join().unwrap();
        assert!(advance.steps.load(Ordering::Relaxed) == 1);
    }
}
