//! The request plane: one request to one worker, and a stream of items back.
//!
//! Requests go over few kept connections, each acknowledged in order. The answer comes over a connection of its own,
//! which the *worker* dials ("call-home") to the listener of the frontend. A worker may also take its requests over
//! NATS; the answer is the same.
//!
//! A frontend holds one more connection to each worker, over which it hears whether the worker lives: [`WatchLine`].
//!
//! Worker side: [`RequestServer`], [`Handler`], [`Responder`]. Frontend side: [`RequestClient`], [`ResponseStream`].
//!
//! Source: Dynamo 1.6.1 on the wire, §4 and §6.

mod call_home;
mod callers;
mod client;
mod connection;
mod error;
mod incoming;
mod nats_client;
mod nats_server;
mod nats_service;
mod pool;
mod responder;
mod response_stream;
mod server;
pub(crate) mod socket;
mod traffic;
mod watch;

pub use client::{RequestClient, RequestClientConfig};
pub use error::{ErrorClass, RequestError, StreamClosed, wire_error};
pub use incoming::{Handler, Incoming, decode_or_refuse};
pub use nats_service::ServiceName;
pub use protocol::dynamo::DecodeError;
pub use responder::{Responder, WRITE_STALL_MAX};
pub use response_stream::ResponseStream;
pub use server::{RequestServer, RequestServerConfig, ServerLoad};
pub use traffic::Traffic;
pub use watch::{Pong, WatchLine};
