//! Events over ZMQ: each publisher is a PUB socket on a port of its own, which subscribers dial.
//!
//! The bytes are ZMTP 3.1 with the NULL mechanism ([`protocol::dynamo::zmtp`]), so libzmq peers can be on either side.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.1.

mod link;
mod publisher;
mod seat;
mod subscriber;
#[cfg(test)]
mod tests;

pub(super) use publisher::Publisher;
pub(super) use subscriber::Subscriber;
