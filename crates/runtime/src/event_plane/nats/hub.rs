//! One subscription for each subject, however many publishers of it are followed: the server sends each message once,
//! and it is handed to the follower of its publisher.

use crate::event_plane::Envelope;
use crate::nats::{Nats, Session, next_session};
use crate::tasks::Tasks;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use protocol::ids::PublisherId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Events that wait for one follower; when full the newest is dropped, since nothing here may wait: the others'
/// events come over the same connection.
const QUEUE_EVENTS_MAX: usize = 4_096;

/// Bytes that wait for one follower; one event may be as large as the server's `max_payload`.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pause before a subscription that the client refused is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// All subscriptions of one connection, by subject.
#[derive(Default)]
pub(crate) struct Hub {
    subjects: Mutex<HashMap<String, Subject>>,
    dropped: Arc<AtomicU64>,
}

struct Subject {
    board: Arc<Board>,
    _tasks: Tasks,
}

/// Who follows which publisher of one subject, and how the subscription stands.
struct Board {
    subject: String,
    topic: String,
    followers: Mutex<HashMap<PublisherId, Vec<Follower>>>,
    subscriptions: watch::Sender<u64>,
    linked: watch::Sender<bool>,
    dropped: Arc<AtomicU64>,
}

struct Follower {
    /// Tells followers of the same publisher apart.
    number: u64,
    sent: mpsc::Sender<Taken>,
    room: Arc<Semaphore>,
}

/// An event with its share of the follower's room.
type Taken = (Envelope, OwnedSemaphorePermit);

/// A follower's end.
pub(super) struct Followed {
    pub(super) events: mpsc::Receiver<Taken>,
    pub(super) subscriptions: watch::Receiver<u64>,
    pub(super) linked: watch::Receiver<bool>,
    pub(super) _lease: Lease,
}

/// Keeps a follower on its board; the last one takes the subscription along.
pub(super) struct Lease {
    hub: Arc<Hub>,
    subject: String,
    publisher: PublisherId,
    number: u64,
}

impl Hub {
    /// Follows `publisher` on `subject`.
    pub(super) fn follow(nats: &Nats, subject: &str, topic: &str, publisher: PublisherId) -> Followed {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let hub = nats.hub().clone();
        let (sent, events) = mpsc::channel(QUEUE_EVENTS_MAX);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let follower = Follower { number, sent, room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)) };
        let board = {
            let mut subjects = hub.subjects.lock();
            let entry = subjects.entry(subject.to_owned()).or_insert_with(|| {
                let board = Arc::new(Board::new(subject, topic, hub.dropped.clone()));
                let tasks = Tasks::new();
                tasks.spawn("event subscription", listen(nats.sessions(), board.clone()));
                Subject { board, _tasks: tasks }
            });
            entry.board.followers.lock().entry(publisher).or_default().push(follower);
            entry.board.clone()
        };
        let lease = Lease { hub, subject: subject.to_owned(), publisher, number };
        Followed {
            events,
            subscriptions: board.subscriptions.subscribe(),
            linked: board.linked.subscribe(),
            _lease: lease,
        }
    }

    /// Events that a follower had no room for.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut subjects = self.hub.subjects.lock();
        let Some(subject) = subjects.get(&self.subject) else { return };
        let empty = {
            let mut followers = subject.board.followers.lock();
            if let Some(of_publisher) = followers.get_mut(&self.publisher) {
                of_publisher.retain(|follower| follower.number != self.number);
                if of_publisher.is_empty() {
                    followers.remove(&self.publisher);
                }
            }
            followers.is_empty()
        };
        if empty {
            subjects.remove(&self.subject);
        }
    }
}

/// Keeps the subscription in each connection that comes, until its task is dropped.
async fn listen(mut sessions: watch::Receiver<Option<Session>>, board: Arc<Board>) {
    loop {
        let Some(session) = next_session(&mut sessions).await else { return };
        tokio::select! {
            () = board.listen_in(&session) => {}
            changed = sessions.changed() => if changed.is_err() { return },
        }
        board.linked.send_if_modified(|linked| std::mem::replace(linked, false));
    }
}

impl Board {
    fn new(subject: &str, topic: &str, dropped: Arc<AtomicU64>) -> Self {
        Self {
            subject: subject.to_owned(),
            topic: topic.to_owned(),
            followers: Mutex::default(),
            subscriptions: watch::Sender::new(0),
            linked: watch::Sender::new(false),
            dropped,
        }
    }

    /// Until the connection ends; never before it without a pause.
    async fn listen_in(&self, session: &Session) {
        let client = session.client();
        let mut messages = match client.subscribe(self.subject.clone()).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(subject = self.subject, %error, "subscribe to events; trying again");
                return tokio::time::sleep(RETRY).await;
            }
        };
        // On its way to the server before anybody counts on it.
        if client.flush().await.is_err() {
            return tokio::time::sleep(RETRY).await;
        }
        self.linked.send_replace(true);
        self.subscriptions.send_modify(|count| *count += 1);
        while let Some(message) = messages.next().await {
            self.hand_on(&message.payload);
        }
        tokio::time::sleep(RETRY).await;
    }

    fn hand_on(&self, message: &Bytes) {
        let envelope = match Envelope::from_nats(message) {
            Ok(envelope) if envelope.topic == self.topic => envelope,
            Ok(envelope) => {
                tracing::warn!(subject = self.subject, topic = envelope.topic, "skipped an event of another topic");
                return;
            }
            Err(error) => {
                tracing::warn!(subject = self.subject, %error, "skipped a malformed event");
                return;
            }
        };
        let followers = self.followers.lock();
        let Some(followers) = followers.get(&envelope.publisher_id) else { return };
        let lost = followers.iter().filter(|follower| !follower.offer(&envelope)).count() as u64;
        if lost > 0 {
            let before = self.dropped.fetch_add(lost, Ordering::Relaxed);
            if (before + lost).ilog2() != before.checked_ilog2().unwrap_or(u32::MAX) {
                tracing::warn!(
                    subject = self.subject,
                    dropped = before + lost,
                    "events come faster than they are taken"
                );
            }
        }
    }
}

impl Follower {
    /// Whether there was room.
    fn offer(&self, envelope: &Envelope) -> bool {
        let bytes = envelope.payload.len().min(QUEUE_BYTES_MAX) as u32;
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        !matches!(self.sent.try_send((envelope.clone(), room)), Err(mpsc::error::TrySendError::Full(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::NatsConfig;
    use protocol::dynamo::Envelope;

    const SUBJECT: &str = "namespace.n.component.c.endpoint.e.kv-events";

    fn message(publisher: u64, sequence: u64, topic: &str) -> Bytes {
        let envelope = Envelope {
            publisher_id: PublisherId(publisher),
            sequence,
            published_at_ms: 1,
            topic: topic.into(),
            payload: Bytes::from_static(&[0x90]),
        };
        envelope.to_nats().unwrap()
    }

    fn nats() -> Nats {
        // Nobody listens on port 9 of this machine; nothing here needs a server.
        Nats::new(&NatsConfig { servers: "nats://127.0.0.1:9".into(), ..NatsConfig::default() }).unwrap()
    }

    fn board(nats: &Nats) -> Arc<Board> {
        nats.hub().subjects.lock()[SUBJECT].board.clone()
    }

    #[tokio::test]
    async fn each_follower_gets_its_publishers_events_and_garbage_reaches_nobody() {
        let nats = nats();
        let mut one = Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(1));
        let mut two = Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(2));
        let board = board(&nats);
        for (publisher, sequence) in [(1, 0), (2, 0), (3, 0), (1, 1)] {
            board.hand_on(&message(publisher, sequence, "kv-events"));
        }
        board.hand_on(&message(1, 2, "another"));
        board.hand_on(&Bytes::from_static(b"\xc1 no envelope"));
        let numbers = |followed: &mut Followed| {
            std::iter::from_fn(|| followed.events.try_recv().ok().map(|(event, _)| event.sequence)).collect::<Vec<_>>()
        };
        assert_eq!((numbers(&mut one), numbers(&mut two)), (vec![0, 1], vec![0]));
        assert_eq!(nats.hub().dropped(), 0);
    }

    #[tokio::test]
    async fn a_follower_that_does_not_take_loses_the_newest_and_nobody_waits_for_it() {
        let nats = nats();
        let mut slow = Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(1));
        let mut quick = Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(2));
        let board = board(&nats);
        for sequence in 0..QUEUE_EVENTS_MAX as u64 + 5 {
            board.hand_on(&message(1, sequence, "kv-events"));
        }
        board.hand_on(&message(2, 0, "kv-events"));
        assert_eq!(nats.hub().dropped(), 5);
        assert_eq!(quick.events.try_recv().unwrap().0.sequence, 0);
        assert_eq!(slow.events.try_recv().unwrap().0.sequence, 0);
        board.hand_on(&message(1, QUEUE_EVENTS_MAX as u64 + 5, "kv-events"));
        let mut last = 0;
        while let Ok((event, _)) = slow.events.try_recv() {
            last = event.sequence;
        }
        assert_eq!(last, QUEUE_EVENTS_MAX as u64 + 5, "what comes after shows the hole");
    }

    #[tokio::test]
    async fn the_last_follower_takes_the_subscription_along() {
        let nats = nats();
        let (one, two) = (
            Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(1)),
            Hub::follow(&nats, SUBJECT, "kv-events", PublisherId(1)),
        );
        drop(one);
        assert_eq!(board(&nats).followers.lock()[&PublisherId(1)].len(), 1);
        drop(two);
        assert!(nats.hub().subjects.lock().is_empty());
    }
}
