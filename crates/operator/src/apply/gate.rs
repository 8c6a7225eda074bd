//! Whether this process may write now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// A write was refused by this process itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Another operator may lead by now.
    #[error("not written: this operator leads no more")]
    NotLeader,
    /// A test asked for an end after so many writes.
    #[error("not written: the writes that a test allowed are used up")]
    Crashed,
}

/// Open while this process leads.
///
/// For tests it can also close after a number of writes, for good: the operator then ends as if it were killed between
/// two of them, and the test compares what a second one makes of what the first one left.
#[derive(Clone)]
pub struct Gate {
    is_held: Arc<dyn Fn() -> bool + Send + Sync>,
    writes_left: Option<Arc<AtomicU64>>,
    crashed: CancellationToken,
}

impl Gate {
    /// Open while `is_held` says so, for no more than `writes_max` writes; `crashed` fires with the first one beyond.
    pub fn new(
        is_held: Arc<dyn Fn() -> bool + Send + Sync>,
        writes_max: Option<u64>,
        crashed: CancellationToken,
    ) -> Self {
        Self { is_held, writes_left: writes_max.map(|max| Arc::new(AtomicU64::new(max))), crashed }
    }

    /// Counts one write.
    ///
    /// # Errors
    /// [`Stopped`] when it must not happen.
    pub fn pass(&self) -> Result<(), Stopped> {
        if !(self.is_held)() {
            return Err(Stopped::NotLeader);
        }
        let Some(left) = &self.writes_left else { return Ok(()) };
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.map(|_| ()).map_err(|_| {
            self.crashed.cancel();
            Stopped::Crashed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn it_closes_with_the_lease_and_after_the_last_write_that_is_allowed() {
        let (held, crashed) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
        let reads = Arc::clone(&held);
        let gate = Gate::new(Arc::new(move || reads.load(Ordering::SeqCst)), Some(2), crashed.clone());
        assert_eq!(gate.pass(), Ok(()));
        held.store(false, Ordering::SeqCst);
        assert_eq!(gate.pass(), Err(Stopped::NotLeader));
        held.store(true, Ordering::SeqCst);
        assert_eq!(gate.clone().pass(), Ok(()));
        assert!(!crashed.is_cancelled());
        assert_eq!((gate.pass(), gate.pass()), (Err(Stopped::Crashed), Err(Stopped::Crashed)));
        assert!(crashed.is_cancelled());
    }
}
