//! Bugs on purpose: what the simulation must find. They exist in this crate's own test binary and nowhere else.

use std::cell::Cell;

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A client that leaves before its first token leaves its booking behind.
    LostBooking,
    /// The event behind a hole is thrown away, and the hole with it.
    DroppedEvent,
    /// The last token before a migration is asked for again.
    TokenTwice,
}

thread_local! {
    /// A seed is played on one thread from its beginning to its end.
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether this thread plays with that bug.
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plays `play` with a bug.
pub(super) fn with_bug<T>(bug: Option<Bug>, play: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let result = play();
    PLANTED.set(None);
    result
}
