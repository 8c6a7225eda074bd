//! Events that wait for the server: bounded, and the oldest go first when there is no room.
//!
//! The newest are kept because they show the hole: a subscriber that sees a later number asks the worker for what is
//! missing, and one that sees nothing cannot know.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Events that wait: as many as a worker's indexer can tell one by one. What is older is asked for as a dump anyway.
const EVENTS_MAX: usize = 1_024;

/// Bytes that wait.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The queue between who publishes, who never waits, and the one task that sends.
#[derive(Default)]
pub(in crate::event_plane) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Bytes>,
    bytes: usize,
    sequence: u64,
}

impl Outbox {
    /// Gives an event its number and queues it; `make` is called under the lock, so that numbers are in order.
    ///
    /// # Errors
    /// Those of `make`; the number is not used up then.
    pub(super) fn put<E>(&self, make: impl FnOnce(u64) -> Result<Bytes, E>) -> Result<(), E> {
        let lost = {
            let mut queue = self.queue.lock();
            let event = make(queue.sequence)?;
            queue.sequence += 1;
            queue.push(event)
        };
        self.note_lost(lost);
        self.filled.notify_one();
        Ok(())
    }

    /// The oldest event; waits for one. Cancel-safe: an event is taken only when it is given.
    pub(super) async fn take(&self) -> Bytes {
        loop {
            let filled = self.filled.notified();
            if let Some(event) = self.queue.lock().pop() {
                return event;
            }
            filled.await;
        }
    }

    /// Counts events that are lost.
    pub(super) fn note_lost(&self, lost: u64) {
        if lost == 0 {
            return;
        }
        let before = self.dropped.fetch_add(lost, Ordering::Relaxed);
        // One line for each doubling: a server that is away loses thousands of events a second.
        if (before + lost).ilog2() != before.checked_ilog2().unwrap_or(u32::MAX) {
            tracing::warn!(dropped = before + lost, "the NATS server is away or too slow, and events are lost");
        }
    }

    pub(in crate::event_plane) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Queue {
    /// Adds an event; gives how many older ones had to go.
    fn push(&mut self, event: Bytes) -> u64 {
        self.bytes += event.len();
        self.events.push_back(event);
        let mut lost = 0;
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            self.pop();
            lost += 1;
        }
        lost
    }

    fn pop(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= event.len();
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn put(outbox: &Outbox, bytes: usize) {
        let made = outbox.put(|sequence| {
            let mut event = vec![0; bytes.max(8)];
            event[..8].copy_from_slice(&sequence.to_be_bytes());
            Ok::<_, Infallible>(event.into())
        });
        made.unwrap();
    }

    async fn number(outbox: &Outbox) -> u64 {
        u64::from_be_bytes(outbox.take().await[..8].try_into().unwrap())
    }

    #[tokio::test]
    async fn the_oldest_make_room_and_are_counted_and_the_newest_shows_the_hole() {
        let outbox = Outbox::default();
        (0..EVENTS_MAX + 10).for_each(|_| put(&outbox, 8));
        assert_eq!(outbox.dropped(), 10);
        for expected in 10..EVENTS_MAX as u64 + 10 {
            assert_eq!(number(&outbox).await, expected);
        }
        put(&outbox, 8);
        assert_eq!(number(&outbox).await, EVENTS_MAX as u64 + 10);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_and_one_large_event_is_never_alone_too_large() {
        let outbox = Outbox::default();
        (0..5).for_each(|_| put(&outbox, BYTES_MAX / 4));
        assert_eq!((outbox.dropped(), number(&outbox).await), (1, 1));
        put(&outbox, BYTES_MAX + 1);
        assert_eq!((outbox.dropped(), number(&outbox).await), (4, 5));
    }

    #[test]
    fn an_event_that_does_not_encode_uses_up_no_number() {
        let outbox = Outbox::default();
        assert!(outbox.put(|_| Err("no")).is_err());
        outbox.put(|sequence| Ok::<_, Infallible>(Bytes::from(sequence.to_string()))).unwrap();
        assert_eq!(outbox.queue.lock().pop().unwrap(), "0");
    }
}
