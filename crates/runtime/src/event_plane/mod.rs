//! The event plane: one publisher, many subscribers, nobody waits for anybody.
//!
//! Each publisher is a ZMQ PUB socket on a port of its own, announced in discovery; subscribers dial it. The bytes are
//! ZMTP 3.1 with the NULL mechanism ([`protocol::dynamo::zmtp`]), so libzmq peers can be on either side. Events may be
//! lost: a subscriber that is slower than its publisher misses some, and one that was away misses all meanwhile. Whoever
//! needs them all compares [`Envelope::sequence`] and asks for the rest elsewhere.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.1.

mod link;
mod publisher;
mod seat;
mod subscriber;
#[cfg(test)]
mod tests;

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
    /// The payload does not encode, or the event is over the frame limit. Its sequence number is not used up.
    #[error("cannot publish on `{topic}`: {cause}")]
    Encode {
        /// The publisher's topic.
        topic: String,
        /// Why.
        cause: protocol::dynamo::EncodeError,
    },
}
