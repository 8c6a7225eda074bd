//! Whose turn it is on each connection: the client's, of whom the next request's head is awaited, or ours.
//!
//! While it is the client's turn a clock runs. A connection that costs only its place may idle for long, because the
//! proxies before us keep theirs open; once a head has begun, or on a new connection, its end is due soon. When every
//! place is taken, the connection that has idled longest gives its own up.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long clients may take their time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a head: from the connection's start, or from the head's first byte.
    pub(super) head: Duration,
    /// Between an answer and the next head's first byte.
    pub(super) idle: Duration,
}

/// Every connection on which it is the client's turn, longest first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    next_number: u64,
    /// By when it became the client's turn; the token closes the connection.
    clients: BTreeMap<u64, CancellationToken>,
    /// Somebody waits for a place: the next connection that falls idle gives its own up.
    wanted: bool,
}

/// The turn on one connection.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    patience: Patience,
    state: Mutex<State>,
    closed: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The client's; the head is due at this time. `begun`: some of it has come.
    Client { number: u64, due: Instant, begun: bool },
    /// A request is being read or answered: its own limits hold.
    Ours,
    /// The answer is made, and being written: a client that does not take it stalls the socket.
    Answered,
}

impl Turns {
    /// A new connection: the client's turn.
    pub(super) fn begin(self: &Arc<Self>, patience: Patience) -> Arc<Turn> {
        let closed = CancellationToken::new();
        let number = self.note(closed.clone());
        // A client connects because it has something to say: the whole head is due.
        let state = State::Client { number, due: Instant::now() + patience.head, begun: true };
        Arc::new(Turn { turns: self.clone(), patience, state: Mutex::new(state), closed })
    }

    /// Closes the connection on which it has been the client's turn for longest; if there is none, the next on which it
    /// becomes so, unless [`Turns::settled`] is called before.
    pub(super) fn want_place(&self) {
        let mut board = self.board.lock();
        match board.clients.pop_first() {
            Some((_, closed)) => closed.cancel(),
            None => board.wanted = true,
        }
    }

    /// Whoever wanted a place has one.
    pub(super) fn settled(&self) {
        self.board.lock().wanted = false;
    }

    fn note(&self, closed: CancellationToken) -> u64 {
        let mut board = self.board.lock();
        let number = board.next_number;
        board.next_number += 1;
        board.clients.insert(number, closed);
        number
    }

    fn strike(&self, number: u64) {
        self.board.lock().clients.remove(&number);
    }
}

impl Turn {
    /// Resolves when the connection is to be closed to make room.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// By when the client must have said more; `None` while the turn is ours.
    pub(super) fn due(&self) -> Option<Instant> {
        match *self.state.lock() {
            State::Client { due, .. } => Some(due),
            State::Ours | State::Answered => None,
        }
    }

    /// Bytes came: if they begin a head, its end is due soon.
    pub(super) fn heard(&self) {
        if let State::Client { due, begun, .. } = &mut *self.state.lock()
            && !*begun
        {
            (*due, *begun) = (Instant::now() + self.patience.head, true);
        }
    }

    /// The head is complete.
    pub(super) fn take(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Ours);
        if let State::Client { number, .. } = before {
            self.turns.strike(number);
        }
    }

    /// The answer is made, or dropped.
    pub(super) fn answered(&self) {
        *self.state.lock() = State::Answered;
    }

    /// All that there was to write is written. `true` when it thereby became the client's turn.
    pub(super) fn flushed(&self) -> bool {
        let mut state = self.state.lock();
        if !matches!(*state, State::Answered) {
            return false;
        }
        let number = self.turns.note(self.closed.clone());
        *state = State::Client { number, due: Instant::now() + self.patience.idle, begun: false };
        drop(state);
        self.make_room();
        true
    }

    /// Gives the place up if somebody waits for one.
    fn make_room(&self) {
        let wanted = std::mem::take(&mut self.turns.board.lock().wanted);
        if wanted {
            self.closed.cancel();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let State::Client { number, .. } = *self.state.lock() {
            self.turns.strike(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), idle: Duration::from_secs(75) };

    fn due_in(turn: &Turn) -> Option<u64> {
        turn.due().map(|due| (due - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_due_soon_an_idle_connection_later_and_nothing_while_we_work() {
        let turn = Arc::new(Turns::default()).begin(PATIENCE);
        assert_eq!(due_in(&turn), Some(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        turn.heard();
        assert_eq!(due_in(&turn), Some(6), "bytes in drops do not put it off");
        turn.take();
        turn.heard();
        assert_eq!(due_in(&turn), None);
        turn.answered();
        assert_eq!(due_in(&turn), None, "it is not written yet");
        assert!(turn.flushed());
        assert_eq!(due_in(&turn), Some(75));
        assert!(!turn.flushed(), "once is enough");
        tokio::time::advance(Duration::from_secs(70)).await;
        turn.heard();
        assert_eq!(due_in(&turn), Some(10), "the first byte begins a head");
        turn.heard();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(due_in(&turn), Some(7));
    }

    #[tokio::test]
    async fn the_connection_that_has_idled_longest_makes_room_and_a_busy_one_never() {
        let turns = Arc::new(Turns::default());
        let [first, second, third] = [(); 3].map(|()| turns.begin(PATIENCE));
        first.take();
        third.take();
        third.answered();
        third.flushed();
        turns.want_place();
        assert!(second.closed.is_cancelled() && !first.closed.is_cancelled() && !third.closed.is_cancelled());
        drop(third);
        turns.want_place();
        assert!(!first.closed.is_cancelled(), "it works");
        first.answered();
        assert!(!first.closed.is_cancelled(), "its answer is not written yet");
        first.flushed();
        assert!(first.closed.is_cancelled(), "the place was wanted");
    }

    #[tokio::test]
    async fn a_place_that_was_had_otherwise_is_no_longer_wanted() {
        let turns = Arc::new(Turns::default());
        let turn = turns.begin(PATIENCE);
        turn.take();
        turns.want_place();
        turns.settled();
        turn.answered();
        turn.flushed();
        assert!(!turn.closed.is_cancelled());
    }
}
