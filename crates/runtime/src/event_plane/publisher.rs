//! The publishing side, over either transport.

use super::{EventError, nats, zmq};
use crate::nats::Nats;
use crate::world::World;
use protocol::discovery::{EventScope, EventTransport};
use protocol::ids::PublisherId;
use serde::Serialize;
use std::io;

/// A publisher of one topic. Dropping it closes its port, or ends its sending.
pub struct Publisher(Over);

enum Over {
    Zmq(zmq::Publisher),
    Nats(nats::Publisher),
}

impl Publisher {
    /// Over ZMQ: listens on any free port of `host` and announces itself as `advertise_host`.
    ///
    /// # Errors
    /// When `host` is no address of this machine.
    pub async fn bind(host: &str, advertise_host: &str, topic: &str) -> io::Result<Self> {
        Self::bind_port(host, 0, advertise_host, topic).await
    }

    /// As [`Publisher::bind`], on the machine of `world`.
    ///
    /// # Errors
    /// As [`Publisher::bind`].
    pub async fn bind_in(world: &World, host: &str, advertise_host: &str, topic: &str) -> io::Result<Self> {
        Ok(Self(Over::Zmq(zmq::Publisher::bind_port(world, host, 0, advertise_host, topic).await?)))
    }

    /// As [`Publisher::bind`], on a given port.
    ///
    /// # Errors
    /// When another program holds the port, or `host` is no address of this machine.
    pub async fn bind_port(host: &str, port: u16, advertise_host: &str, topic: &str) -> io::Result<Self> {
        let world = World::default();
        Ok(Self(Over::Zmq(zmq::Publisher::bind_port(&world, host, port, advertise_host, topic).await?)))
    }

    /// Over NATS: to the subject of `scope` and `topic`. A server that is away is no error; what is published
    /// meanwhile waits in a bounded queue.
    ///
    /// # Errors
    /// [`EventError::Subject`] when a name of the scope cannot be part of a subject.
    pub fn over_nats(nats: &Nats, scope: &EventScope, topic: &str) -> Result<Self, EventError> {
        Ok(Self(Over::Nats(nats::Publisher::new(nats, scope, topic)?)))
    }

    /// Who publishes; random, below 2^53.
    pub fn id(&self) -> PublisherId {
        match &self.0 {
            Over::Zmq(publisher) => publisher.id(),
            Over::Nats(publisher) => publisher.id(),
        }
    }

    /// How subscribers find it, for its discovery record.
    pub fn transport(&self) -> EventTransport {
        match &self.0 {
            Over::Zmq(publisher) => EventTransport::Zmq { endpoint: publisher.endpoint() },
            Over::Nats(publisher) => EventTransport::Nats { subject_prefix: publisher.subject_prefix().to_owned() },
        }
    }

    /// Where it publishes: `tcp://HOST:PORT`, or the NATS subject.
    pub fn endpoint(&self) -> String {
        match &self.0 {
            Over::Zmq(publisher) => publisher.endpoint(),
            Over::Nats(publisher) => publisher.subject().to_owned(),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        match &self.0 {
            Over::Zmq(publisher) => publisher.topic(),
            Over::Nats(publisher) => publisher.topic(),
        }
    }

    /// Whether a broker stands between it and its subscribers, who then cannot be counted.
    pub fn is_brokered(&self) -> bool {
        matches!(self.0, Over::Nats(_))
    }

    /// How many subscribers want the topic now; 0 over NATS, where only the server knows.
    pub fn subscribers(&self) -> usize {
        match &self.0 {
            Over::Zmq(publisher) => publisher.subscribers(),
            Over::Nats(_) => 0,
        }
    }

    /// Events that were lost: over ZMQ to a slow subscriber, counted once for each of them; over NATS because the
    /// server was away or too slow for longer than the queue lasts, or takes no event of this size.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            Over::Zmq(publisher) => publisher.dropped(),
            Over::Nats(publisher) => publisher.dropped(),
        }
    }

    /// A reader of [`Publisher::dropped`] that may outlive the publisher.
    pub fn drop_count(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let (zmq, nats) = match &self.0 {
            Over::Zmq(publisher) => (Some(publisher.hall()), None),
            Over::Nats(publisher) => (None, Some(publisher.outbox())),
        };
        move || zmq.as_ref().map_or(0, |hall| hall.dropped()) + nats.as_ref().map_or(0, |outbox| outbox.dropped())
    }

    /// Sends `payload`. Never waits: a subscriber or server without room misses an event, which its subscribers see
    /// by the hole in the sequence.
    ///
    /// # Errors
    /// When the payload does not encode, or the event is over the frame limit; nothing is sent then, and no sequence
    /// number used up.
    // Async so that callers need not change when a transport comes that one has to wait for.
    pub async fn publish<T: Serialize + ?Sized>(&self, payload: &T) -> Result<(), EventError> {
        match &self.0 {
            Over::Zmq(publisher) => publisher.publish(payload),
            Over::Nats(publisher) => publisher.publish(payload),
        }
    }
}
