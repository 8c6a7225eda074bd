//! A subscriber's seat at a publisher: its queue, its subscriptions, and the connection behind both.

use super::link::{End, Inbox, Link, LinkError};
use crate::world::{Stream, WriteHalf};
use bytes::{BufMut, Bytes, BytesMut};
use protocol::dynamo::zmtp::{Command, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// Events that wait for one subscriber; more are dropped for it. The high-water mark of Dynamo 1.6.1.
pub(super) const QUEUE_EVENTS_MAX: usize = 100_000;

/// Bytes that wait for one subscriber; a full dump of a large cache may be megabytes, 100 000 of which we cannot hold.
pub(super) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Events taken from the queue at once, and bytes put together in one write.
const BATCH_EVENTS: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;

/// What the publisher holds of a subscriber.
pub(super) struct Seat {
    queue: mpsc::Sender<Bytes>,
    queued_bytes: AtomicUsize,
    /// How many of the subscriber's topic prefixes the publisher's topic begins with. Prefixes that do not match are
    /// not kept: a publisher has one topic.
    matching: AtomicUsize,
}

impl Seat {
    /// Whether the subscriber wants the publisher's topic.
    pub(super) fn is_subscribed(&self) -> bool {
        self.matching.load(Ordering::Acquire) > 0
    }

    /// Queues an event; `false` when there is no room and the event is lost to this subscriber.
    pub(super) fn offer(&self, event: &Bytes) -> bool {
        // The publisher adds under its lock; only a pong can come between, and overrun the bound by its few bytes.
        if self.queued_bytes.load(Ordering::Acquire) + event.len() > QUEUE_BYTES_MAX {
            return false;
        }
        self.queued_bytes.fetch_add(event.len(), Ordering::AcqRel);
        let taken = self.queue.try_send(event.clone()).is_ok();
        if !taken {
            self.queued_bytes.fetch_sub(event.len(), Ordering::AcqRel);
        }
        taken
    }

    fn note(&self, incoming: &Incoming, topic: &[u8]) {
        let (prefix, subscribe): (&[u8], bool) = match incoming {
            Incoming::Command(Command::Subscribe(prefix)) => (prefix, true),
            Incoming::Command(Command::Cancel(prefix)) => (prefix, false),
            Incoming::Message(frames) => match frames.first().map(|frame| &frame[..]) {
                Some([1, prefix @ ..]) => (prefix, true),
                Some([0, prefix @ ..]) => (prefix, false),
                _ => return,
            },
            Incoming::Command(_) => return,
        };
        if topic.starts_with(prefix) {
            let change = |count: usize| Some(if subscribe { count + 1 } else { count.saturating_sub(1) });
            let _ = self.matching.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
    }
}

/// Serves one connection until it ends: greets, takes a seat through `sit`, then reads subscriptions and writes events.
///
/// Cancel: the connection is closed and the queue is lost.
pub(super) async fn serve(stream: Stream, topic: &[u8], sit: impl FnOnce(Arc<Seat>)) -> LinkError {
    let link = match Link::greet(stream, End::Publisher).await {
        Ok(link) => link,
        Err(error) => return error,
    };
    let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
    let seat = Arc::new(Seat { queue, queued_bytes: AtomicUsize::new(0), matching: AtomicUsize::new(0) });
    sit(seat.clone());
    tokio::select! {
        biased;
        error = listen(link.inbox, &seat, topic) => error,
        error = deliver(events, link.write, &seat) => error.into(),
    }
}

async fn listen(mut inbox: Inbox, seat: &Seat, topic: &[u8]) -> LinkError {
    loop {
        match inbox.next().await {
            Ok(Incoming::Command(Command::Ping(context))) => {
                let mut pong = BytesMut::new();
                Command::Pong(context).encode_into(&mut pong);
                // A pong that finds no room is a peer that does not read: its heartbeat ends the connection.
                seat.offer(&pong.freeze());
            }
            Ok(Incoming::Command(Command::Error(reason))) => return LinkError::Refused(reason),
            Ok(incoming) => seat.note(&incoming, topic),
            Err(error) => return error,
        }
    }
}

async fn deliver(mut events: mpsc::Receiver<Bytes>, mut write: WriteHalf, seat: &Seat) -> std::io::Error {
    let mut batch = Vec::with_capacity(BATCH_EVENTS);
    let mut bytes = BytesMut::with_capacity(BATCH_BYTES);
    loop {
        events.recv_many(&mut batch, BATCH_EVENTS).await;
        for event in batch.drain(..) {
            seat.queued_bytes.fetch_sub(event.len(), Ordering::AcqRel);
            if !bytes.is_empty()
                && bytes.len() + event.len() > BATCH_BYTES
                && let Err(error) = write.write_all_buf(&mut bytes).await
            {
                return error;
            }
            bytes.put_slice(&event);
        }
        if let Err(error) = write.write_all_buf(&mut bytes).await {
            return error;
        }
    }
}
