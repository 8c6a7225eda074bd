//! The publishing side: a PUB socket of one topic.

use super::seat::{self, Seat};
use crate::event_plane::{Envelope, EventError};
use crate::request_plane::socket;
use crate::tasks::Tasks;
use crate::world::{Listener, Stream, World};
use bytes::Bytes;
use parking_lot::Mutex;
use protocol::discovery::Codec;
use protocol::dynamo::{EncodeError, FRAME_BYTES_MAX, FrameError, zmtp};
use protocol::ids::PublisherId;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Connections that one publisher serves: routers and a few observers. Each may hold 64 MiB of waiting events.
const SUBSCRIBERS_MAX: usize = 256;

/// A publisher of one topic. Dropping it closes its port and its connections.
pub(in crate::event_plane) struct Publisher {
    id: PublisherId,
    endpoint: String,
    hall: Arc<Hall>,
    _tasks: Tasks,
}

/// What the publisher shares with its connections.
pub(in crate::event_plane) struct Hall {
    topic: String,
    stage: Mutex<Stage>,
    dropped: AtomicU64,
}

/// Sequence and seats are under one lock, so that every subscriber sees the events in their order.
struct Stage {
    sequence: u64,
    seats: Vec<Arc<Seat>>,
}

impl Hall {
    pub(in crate::event_plane) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Publisher {
    /// On the machine of `world`: listens on `port` of `host` (0 is any free one) and announces itself as
    /// `advertise_host`.
    ///
    /// # Errors
    /// When another program holds the port, or `host` is no address of this machine.
    pub(in crate::event_plane) async fn bind_port(
        world: &World,
        host: &str,
        port: u16,
        advertise_host: &str,
        topic: &str,
    ) -> io::Result<Self> {
        let listener = world.listen(host, port).await?;
        let endpoint = format!("tcp://{}", socket::advertised(&listener, Some(advertise_host))?);
        let stage = Mutex::new(Stage { sequence: 0, seats: Vec::new() });
        let hall = Arc::new(Hall { topic: topic.to_owned(), stage, dropped: AtomicU64::new(0) });
        let tasks = Tasks::new();
        // The connections are a group inside the accepting task: when the publisher goes, that task is dropped, and
        // the group with it.
        let connections = Tasks::under(&tasks.token());
        tasks.spawn("event publisher", admit(listener, hall.clone(), connections));
        let id = PublisherId(world.random() >> 11);
        Ok(Self { id, endpoint, hall, _tasks: tasks })
    }

    /// Who publishes; random, below 2^53.
    pub(in crate::event_plane) fn id(&self) -> PublisherId {
        self.id
    }

    /// Where subscribers dial: `tcp://HOST:PORT`.
    pub(in crate::event_plane) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The topic.
    pub(in crate::event_plane) fn topic(&self) -> &str {
        &self.hall.topic
    }

    /// How many subscribers want the topic now.
    pub(in crate::event_plane) fn subscribers(&self) -> usize {
        self.hall.stage.lock().seats.iter().filter(|seat| seat.is_subscribed()).count()
    }

    /// Events that were lost to a slow subscriber, counted once for each of them.
    pub(in crate::event_plane) fn dropped(&self) -> u64 {
        self.hall.dropped()
    }

    pub(in crate::event_plane) fn hall(&self) -> Arc<Hall> {
        self.hall.clone()
    }

    /// Sends `payload` to whoever is subscribed now. Never waits: a subscriber without room misses the event.
    ///
    /// # Errors
    /// When the payload does not encode, or the event is over [`FRAME_BYTES_MAX`]; nothing is sent then, and no
    /// sequence number used up.
    pub(in crate::event_plane) fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<(), EventError> {
        let mut stage = self.hall.stage.lock();
        let wanted = stage.seats.iter().any(|seat| seat.is_subscribed());
        if wanted {
            let event = self.event(stage.sequence, payload).map_err(|cause| {
                let topic = self.hall.topic.clone();
                EventError::Encode { topic, cause }
            })?;
            let subscribed = stage.seats.iter().filter(|seat| seat.is_subscribed());
            let lost = subscribed.filter(|seat| !seat.offer(&event)).count() as u64;
            self.note_lost(lost);
        }
        stage.sequence += 1;
        Ok(())
    }

    fn event<T: Serialize + ?Sized>(&self, sequence: u64, payload: &T) -> Result<Bytes, EncodeError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let envelope = Envelope {
            publisher_id: self.id,
            sequence,
            published_at_ms: since_1970.as_millis() as u64,
            topic: self.hall.topic.clone(),
            payload: Codec::Msgpack.encode(payload)?,
        };
        let message = zmtp::encode_message(&envelope.to_zmq()?).freeze();
        if message.len() > FRAME_BYTES_MAX {
            let bytes = message.len() as u64;
            return Err(FrameError::TooLarge { part: "event", bytes, bytes_max: FRAME_BYTES_MAX }.into());
        }
        Ok(message)
    }

    fn note_lost(&self, lost: u64) {
        if lost == 0 {
            return;
        }
        let before = self.hall.dropped.fetch_add(lost, Ordering::Relaxed);
        // One line for each doubling: a stuck subscriber loses thousands of events a second.
        if (before + lost).ilog2() != before.checked_ilog2().unwrap_or(u32::MAX) {
            let topic = &self.hall.topic;
            tracing::warn!(topic, dropped = before + lost, "a subscriber is too slow and loses events");
        }
    }
}

async fn admit(listener: Listener, hall: Arc<Hall>, connections: Tasks) {
    socket::accept_each(listener, "event plane", |stream, address| {
        if connections.running() >= SUBSCRIBERS_MAX {
            tracing::warn!(topic = hall.topic, %address, "refused a subscriber: {SUBSCRIBERS_MAX} are connected");
            return;
        }
        connections.spawn("event subscriber", attend(stream, address, hall.clone()));
    })
    .await;
}

async fn attend(stream: Stream, address: SocketAddr, hall: Arc<Hall>) {
    // The seat is given back by drop, so that it is gone when the task is cancelled, too.
    let mut lease = Lease { hall: &hall, seat: None };
    let end = seat::serve(stream, hall.topic.as_bytes(), |seat| {
        hall.stage.lock().seats.push(seat.clone());
        lease.seat = Some(seat);
    })
    .await;
    drop(lease);
    tracing::debug!(topic = hall.topic, %address, end = %end, "a subscriber left");
}

struct Lease<'a> {
    hall: &'a Hall,
    seat: Option<Arc<Seat>>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.hall.stage.lock().seats.retain(|other| !Arc::ptr_eq(other, &seat));
        }
    }
}
