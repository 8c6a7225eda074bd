//! The subscribing side, over either transport.

use super::{Envelope, EventError, nats, zmq};
use crate::nats::Nats;
use crate::world::World;
use protocol::discovery::{EventChannelRecord, EventTransport};
use protocol::ids::PublisherId;
use tokio::sync::watch;

/// A subscription to one publisher. Dropping it ends it.
pub struct Subscriber(Over);

enum Over {
    Zmq(zmq::Subscriber),
    Nats(nats::Subscriber),
}

impl Subscriber {
    /// Subscribes to the publisher of a discovery record, over whatever transport it announces, ZMQ from the machine of
    /// `world`. Does not wait: the subscription is made and made again in the background; [`Subscriber::subscribed`]
    /// waits for the first time.
    ///
    /// # Errors
    /// When the record's endpoint or subject cannot be one.
    pub async fn follow(world: &World, channel: &EventChannelRecord, nats: &Nats) -> Result<Self, EventError> {
        match &channel.transport {
            EventTransport::Zmq { endpoint } => Self::connect_in(world, endpoint, &channel.topic).await,
            EventTransport::Nats { subject_prefix } => {
                Self::over_nats(nats, subject_prefix, &channel.topic, channel.instance_id)
            }
        }
    }

    /// Over ZMQ: subscribes to `topic` at `endpoint` (`tcp://HOST:PORT`).
    ///
    /// # Errors
    /// When the endpoint is not of that form.
    pub async fn connect(endpoint: &str, topic: &str) -> Result<Self, EventError> {
        Self::connect_in(&World::default(), endpoint, topic).await
    }

    /// As [`Subscriber::connect`], from the machine of `world`.
    ///
    /// # Errors
    /// As [`Subscriber::connect`].
    pub async fn connect_in(world: &World, endpoint: &str, topic: &str) -> Result<Self, EventError> {
        Ok(Self(Over::Zmq(zmq::Subscriber::connect(world, endpoint, topic).await?)))
    }

    /// Over NATS: subscribes to `{subject_prefix}.{topic}` and takes what `publisher` says there.
    ///
    /// # Errors
    /// When that is not one plain subject.
    pub fn over_nats(
        nats: &Nats,
        subject_prefix: &str,
        topic: &str,
        publisher: PublisherId,
    ) -> Result<Self, EventError> {
        Ok(Self(Over::Nats(nats::Subscriber::new(nats, subject_prefix, topic, publisher)?)))
    }

    /// The next event, in the publisher's order. `None` never comes while the subscriber lives. Cancel-safe.
    pub async fn next(&mut self) -> Option<Envelope> {
        match &mut self.0 {
            Over::Zmq(subscriber) => subscriber.next().await,
            Over::Nats(subscriber) => subscriber.next().await,
        }
    }

    /// Waits until the subscription was made for the first time.
    pub async fn subscribed(&mut self) {
        // An error would mean that the task is gone, which only drop does.
        let _ = self.connections().wait_for(|&count| count > 0).await;
    }

    /// How often the subscription was made, as it changes: each one after the first means that events may have been
    /// lost before it.
    pub fn connections(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Over::Zmq(subscriber) => subscriber.connections(),
            Over::Nats(subscriber) => subscriber.subscriptions(),
        }
    }

    /// How often a connection to the publisher itself was lost, as it changes. A process that dies closes its
    /// connections at once, so this tells of a dead publisher seconds before its discovery record expires. It never
    /// changes over NATS: what is lost there is the connection to the server, which says nothing of any publisher.
    pub fn losses(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Over::Zmq(subscriber) => subscriber.losses(),
            Over::Nats(subscriber) => subscriber.losses(),
        }
    }

    /// Whether a broker stands between publisher and us. Then a connection of ours that holds says nothing of the
    /// publisher's: whoever needs every event asks for them from time to time even when all is quiet.
    pub fn is_brokered(&self) -> bool {
        matches!(self.0, Over::Nats(_))
    }

    /// Whether the broker can be heard, as it changes; always true over ZMQ, where there is none.
    pub fn links(&self) -> watch::Receiver<bool> {
        match &self.0 {
            Over::Zmq(_) => watch::Sender::new(true).subscribe(),
            Over::Nats(subscriber) => subscriber.links(),
        }
    }
}
