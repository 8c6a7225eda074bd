//! A ZMQ connection to vLLM: a SUB socket for its events, a DEALER socket for those that were missed.

use bytes::{Bytes, BytesMut};
use protocol::dynamo::FrameError;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time for connecting and greeting.
const GREET_WITHIN: Duration = Duration::from_secs(10);

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("`{0}` is not of the form tcp://HOST:PORT")]
    Endpoint(String),
    #[error("no greeting in time")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One connection that has greeted.
pub(super) struct Socket {
    stream: TcpStream,
    buffer: BytesMut,
    reader: Reader,
    peer: Greeting,
}

impl Socket {
    /// Connects to `tcp://HOST:PORT` as a socket of this type (`SUB`, `DEALER`).
    pub(super) async fn connect(endpoint: &str, socket_type: &str) -> Result<Self, SocketError> {
        let address = endpoint.strip_prefix("tcp://").filter(|address| address.contains(':'));
        let address = address.ok_or_else(|| SocketError::Endpoint(endpoint.to_owned()))?;
        let greeted = tokio::time::timeout(GREET_WITHIN, Self::greet(address, socket_type)).await;
        greeted.map_err(|_| SocketError::Silent)?
    }

    async fn greet(address: &str, socket_type: &str) -> Result<Self, SocketError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (buffer, reader) = (BytesMut::new(), Reader::default());
        let mut this = Self { stream, buffer, reader, peer: Greeting::OURS };
        let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
        Command::Ready(socket_type.into()).encode_into(&mut hello);
        this.stream.write_all(&hello).await?;
        this.peer = loop {
            if let Some(peer) = Greeting::decode(&mut this.buffer)? {
                break peer;
            }
            this.read().await?;
        };
        Ok(this)
    }

    /// Subscribes to a topic prefix; of a SUB socket.
    pub(super) async fn subscribe(&mut self, topic: &str) -> Result<(), SocketError> {
        Ok(self.stream.write_all(&self.peer.subscription(topic.as_bytes())).await?)
    }

    /// Sends one message; of a DEALER socket.
    pub(super) async fn send(&mut self, frames: &[Bytes]) -> Result<(), SocketError> {
        Ok(self.stream.write_all(&encode_message(frames)).await?)
    }

    async fn read(&mut self) -> Result<(), SocketError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(SocketError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// The frames of the next message.
    pub(super) async fn next(&mut self) -> Result<Vec<Bytes>, SocketError> {
        loop {
            match self.reader.next(&mut self.buffer)? {
                Some(Incoming::Message(frames)) => return Ok(frames),
                Some(Incoming::Command(Command::Ping(context))) => {
                    let mut pong = BytesMut::new();
                    Command::Pong(context).encode_into(&mut pong);
                    self.stream.write_all(&pong).await?;
                }
                Some(Incoming::Command(_)) => {}
                None => self.read().await?,
            }
        }
    }
}
