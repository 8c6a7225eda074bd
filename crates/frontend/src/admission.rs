//! The first step of a request: a place, or a refusal that says when to come back.
//!
//! A permit is held to the end of the answer, its stream included. Waiting is bounded in number and in time. The queue
//! is first come, first served, until it has stood for [`STANDING_AFTER`]; from then on the newest goes first, because
//! in a queue that does not empty the oldest have clients that are about to give up, and an answer that nobody awaits
//! any more is work lost. `docs/decisions/0006-edge.md` has the figures.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A queue that was not empty for so long is no burst: more comes in than goes out. Bursts of a second are usual.
const STANDING_AFTER: Duration = Duration::from_secs(2);
/// Longest base of a `Retry-After`; the spread triples it at most.
const COME_BACK_MAX: Duration = Duration::from_secs(20);

/// The places of this frontend and the queue before them. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    waiting_max: usize,
    wait_max: Duration,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Oldest first. Never filled while a place is free.
    queue: VecDeque<Waiter>,
    next_ticket: u64,
    /// Since when somebody waits, without a pause.
    stands_since: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    turn: oneshot::Sender<Permit>,
}

/// A place, given on to the next on drop.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Gate>>);

/// No place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full: 429.
    QueueFull,
    /// The wait was too long: 503.
    WaitedTooLong,
}

impl Admission {
    pub(crate) fn new(places: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let state = State { free: places, queue: VecDeque::new(), next_ticket: 0, stands_since: None };
        Self(Arc::new(Gate { state: Mutex::new(state), waiting_max, wait_max }))
    }

    /// A place now, or after a bounded wait. Dropping the future leaves the queue.
    pub(crate) async fn admit(&self) -> Result<Permit, Refusal> {
        let (ticket, mut turn) = match self.0.enter() {
            Entry::Place(permit) => return Ok(permit),
            Entry::Full => return Err(Refusal::QueueFull),
            Entry::Queued { ticket, turn } => (ticket, turn),
        };
        // Leaves the queue however this ends; a place that comes at the same moment falls out of `turn` and is given on.
        let _leave = Leave { gate: &self.0, ticket };
        match tokio::time::timeout(self.0.wait_max, &mut turn).await {
            Ok(Ok(permit)) => Ok(permit),
            // The sender is dropped only with the queue itself; no queue is no place either.
            Ok(Err(_)) | Err(_) => Err(Refusal::WaitedTooLong),
        }
    }

    /// Whether a request that came now would be refused at once: asked before its body is read.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.0.state.lock();
        state.free == 0 && state.queue.len() >= self.0.waiting_max
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.0.state.lock().queue.len()
    }

    /// The least time after which a refused client should come back: as long as the queue has stood already, 1 s to
    /// [`COME_BACK_MAX`]. What has lasted for long will last for long.
    pub(crate) fn come_back(&self) -> Duration {
        let stood = self.0.state.lock().stands_since.map_or(Duration::ZERO, |since| since.elapsed());
        stood.clamp(Duration::from_secs(1), COME_BACK_MAX)
    }
}

enum Entry {
    Place(Permit),
    Full,
    Queued { ticket: u64, turn: oneshot::Receiver<Permit> },
}

impl Gate {
    fn enter(self: &Arc<Self>) -> Entry {
        let mut state = self.state.lock();
        if state.free > 0 {
            state.free -= 1;
            return Entry::Place(Permit(Some(self.clone())));
        }
        if state.queue.len() >= self.waiting_max {
            return Entry::Full;
        }
        if state.queue.is_empty() {
            state.stands_since = Some(Instant::now());
        }
        let (sender, turn) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.queue.push_back(Waiter { ticket, turn: sender });
        Entry::Queued { ticket, turn }
    }

    fn leave(&self, ticket: u64) {
        let mut state = self.state.lock();
        // The queue is sorted by ticket: they are given in order, and taken from both ends only.
        if let Ok(at) = state.queue.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            state.queue.remove(at);
        }
        state.note_empty();
    }

    /// Gives the place to whoever is next.
    fn give_on(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let mut permit = Permit(Some(self.clone()));
        while let Some(waiter) = state.next() {
            match waiter.turn.send(permit) {
                Ok(()) => return state.note_empty(),
                // It left between our lock and its own: the place is still ours to give.
                Err(refused) => permit = refused,
            }
        }
        state.note_empty();
        state.free += 1;
        // Not dropped as a place: that would come here again, under the lock.
        permit.0 = None;
    }
}

impl State {
    fn next(&mut self) -> Option<Waiter> {
        let stands = self.stands_since.is_some_and(|since| since.elapsed() >= STANDING_AFTER);
        if stands { self.queue.pop_back() } else { self.queue.pop_front() }
    }

    fn note_empty(&mut self) {
        if self.queue.is_empty() {
            self.stands_since = None;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.give_on();
        }
    }
}

struct Leave<'a> {
    gate: &'a Gate,
    ticket: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.ticket);
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
