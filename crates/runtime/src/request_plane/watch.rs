//! A connection to a worker that carries signs of life and nothing else.
//!
//! It goes to the port that takes requests and speaks the same frames, so that a stranger understands it as well: a
//! ping is a request for a path that no worker serves, [`PING`]`/{path of the endpoint}`. A stock worker answers at once
//! that it does not know the path, logs nothing at its default level, and keeps the connection. Our server knows the
//! prefix and says whether it still serves that endpoint, which tells a worker from its successor on the same port.
//! Pings are not requests: nobody counts them.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.1; `dynamo.mocker` 1.6.1 was asked.

use super::client::address_of;
use crate::world::{Stream, World};
use bytes::{Bytes, BytesMut};
use protocol::discovery::EndpointRecord;
use protocol::dynamo::{Ack, Headers, RequestFrame};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the path of a ping begins with, before `/` and the path of the endpoint.
pub(super) const PING: &str = "busbar.ping";

/// Header of pings and requests: which frontend they come from.
pub(super) const CALLER: &str = "x-busbar-caller";

/// What our server says of an endpoint that it does not serve: the port has a new owner.
pub(super) const ANOTHER_INSTANCE: &str = "busbar.ping: another instance";

/// Room for some acks; the longest of a stock worker has about 150 bytes.
const READ_BYTES: usize = 512;

/// A watch connection. Generic over its transport for tests; a worker is reached through a [`World`].
#[derive(Debug)]
pub struct WatchLine<S = Stream> {
    stream: S,
    inbox: BytesMut,
    ping: Bytes,
}

/// What a worker says to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// It is ours, and serves the endpoint.
    Serves,
    /// It is ours, and the endpoint is not its own: who served it is gone.
    AnotherInstance,
    /// A stranger that lives; which instance it is cannot be told.
    Alive,
}

impl WatchLine {
    /// Dials `target` from the machine of `world`. `caller` names this frontend. There is no limit on the wait; the
    /// caller has one.
    ///
    /// # Errors
    /// Those of connecting, and [`io::ErrorKind::InvalidInput`] for a record that cannot be dialled.
    pub(super) async fn dial(world: &World, target: &EndpointRecord, caller: &str) -> io::Result<Self> {
        let (address, path) = address_of(target).map_err(invalid)?;
        Self::over(world.dial(address).await?, path, caller)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WatchLine<S> {
    /// A line over a connection that is made; `path` is that of the endpoint.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a path that is too long to be sent.
    pub fn over(stream: S, path: &str, caller: &str) -> io::Result<Self> {
        let headers: Headers = [(CALLER, caller)].into_iter().collect();
        let mut ping = BytesMut::new();
        let frame = RequestFrame { path: format!("{PING}/{path}"), headers, payload: Bytes::new() };
        frame.encode_into(&mut ping).map_err(invalid)?;
        Ok(Self { stream, inbox: BytesMut::with_capacity(READ_BYTES), ping: ping.freeze() })
    }

    /// Sends a ping. Some hundred bytes, which the kernel takes at once while few are unanswered.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.ping).await
    }

    /// The next answer. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, was closed, or carries something else: the worker on it is gone.
    pub async fn pong(&mut self) -> io::Result<Pong> {
        loop {
            match Ack::decode(&mut self.inbox) {
                Ok(Some(Ack::Taken)) => return Ok(Pong::Serves),
                Ok(Some(Ack::Unavailable(text))) if text == ANOTHER_INSTANCE => return Ok(Pong::AnotherInstance),
                Ok(Some(_)) => return Ok(Pong::Alive),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            self.inbox.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the worker closed its watch connection"));
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
