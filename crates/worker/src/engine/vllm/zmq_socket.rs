//! A ZMQ connection to vLLM: a SUB socket for its events, a DEALER socket for those that were missed.

use bytes::{Bytes, BytesMut};
use protocol::dynamo::FrameError;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Time for connecting and greeting.
const GREET_WITHIN: Duration = Duration::from_secs(10);

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("`{0}` is not of the form tcp://HOST:PORT or ipc://PATH")]
    Endpoint(String),
    #[error("no greeting in time")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Bytes in both directions, over either transport.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection that has greeted.
pub(super) struct Socket {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    reader: Reader,
    peer: Greeting,
}

impl Socket {
    /// Connects to `tcp://HOST:PORT` or `ipc://PATH` as a socket of this type (`SUB`, `DEALER`).
    pub(super) async fn connect(endpoint: &str, socket_type: &str) -> Result<Self, SocketError> {
        let greeted = async { Self::greet(Self::dial(endpoint).await?, socket_type).await };
        tokio::time::timeout(GREET_WITHIN, greeted).await.map_err(|_| SocketError::Silent)?
    }

    async fn dial(endpoint: &str) -> Result<Box<dyn Stream>, SocketError> {
        match endpoint.split_once("://") {
            Some(("tcp", address)) if address.contains(':') => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Some(("ipc", path)) => Ok(Box::new(UnixStream::connect(path).await?)),
            _ => Err(SocketError::Endpoint(endpoint.to_owned())),
        }
    }

    async fn greet(stream: Box<dyn Stream>, socket_type: &str) -> Result<Self, SocketError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_socket_that_is_a_file_is_dialled_as_one_that_is_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let listener = UnixListener::bind(&path).unwrap();
        let publisher = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
            Command::Ready("PUB".into()).encode_into(&mut hello);
            stream.write_all(&hello).await.unwrap();
            stream.write_all(&encode_message(&[Bytes::from_static(b"told")])).await.unwrap();
            stream
        };
        let subscriber = async {
            let mut socket = Socket::connect(&format!("ipc://{}", path.display()), "SUB").await.unwrap();
            socket.subscribe("").await.unwrap();
            socket.next().await.unwrap()
        };
        let (_open, message) = tokio::join!(publisher, subscriber);
        assert_eq!(message, [Bytes::from_static(b"told")]);
    }

    #[tokio::test]
    async fn what_names_no_socket_is_refused_with_the_two_forms() {
        for endpoint in ["inproc://x", "tcp://host", "nothing"] {
            let error = Socket::connect(endpoint, "SUB").await.err().unwrap();
            assert!(error.to_string().contains("tcp://HOST:PORT or ipc://PATH"), "{error}");
        }
    }
}
