//! The event plane: one publisher, many subscribers, nobody waits for anybody.
//!
//! Two transports behind one pair of types, and the discovery record of a publisher says which: a ZMQ socket of the
//! publisher's own, or a subject of a NATS server. Events may be lost on either: a subscriber that is slower than its
//! publisher misses some, and one that was away misses all meanwhile. Whoever needs them all compares
//! [`Envelope::sequence`], or the numbers within, and asks for the rest elsewhere.
//!
//! What differs: a ZMQ connection ends with the publisher's process, so that its loss tells of a death; a NATS server
//! stands between, so that its loss tells nothing of any worker, and a quiet connection may hide one that is cut
//! further on. See [`Subscriber::losses`] and [`Subscriber::is_brokered`].
//!
//! Source: Dynamo 1.6.1 on the wire, §5.1 and §5.2.

mod nats;
mod publisher;
mod subscriber;
mod zmq;

pub(crate) use nats::Hub;
pub use protocol::dynamo::Envelope;
pub use publisher::Publisher;
pub use subscriber::Subscriber;

/// What can go wrong on the event plane.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The announced endpoint cannot be dialled.
    #[error("event endpoint `{endpoint}` is not of the form tcp://HOST:PORT; the record of its publisher is wrong")]
    Endpoint {
        /// As announced.
        endpoint: String,
    },
    /// The announced subject is none that a single publisher may name.
    #[error("event subject `{subject}` is not one plain NATS subject; the record of its publisher is wrong")]
    Subject {
        /// As announced.
        subject: String,
    },
    /// The payload does not encode, or the event is over the frame limit. Its sequence number is not used up.
    #[error("cannot publish on `{topic}`: {cause}")]
    Encode {
        /// The publisher's topic.
        topic: String,
        /// Why.
        cause: protocol::dynamo::EncodeError,
    },
}
