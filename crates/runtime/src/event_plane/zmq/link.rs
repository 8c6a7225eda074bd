//! One connection that has greeted: what publisher and subscriber have in common.

use crate::world::{ReadHalf, Stream, WriteHalf};
use bytes::BytesMut;
use protocol::dynamo::FrameError;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest greeting. A peer that takes longer is no ZMQ socket, or its machine is gone.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// What the read buffer grows by; an event is a few hundred bytes.
const READ_BYTES: usize = 16 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the peer did not finish its greeting within {} s", GREETING_TIMEOUT.as_secs())]
    GreetingTimeout,
    #[error("the peer is a {0:?} socket, which does not go with a {1} socket")]
    WrongSocket(String, &'static str),
    #[error("the peer refused us: {0}")]
    Refused(String),
}

/// Which end of the event plane a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Publisher,
    Subscriber,
}

impl End {
    /// Our socket type, and those of the peers that go with it (the X forms are brokers').
    fn types(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::Publisher => ("PUB", ["SUB", "XSUB"]),
            Self::Subscriber => ("SUB", ["PUB", "XPUB"]),
        }
    }
}

/// A connection after the handshake.
pub(super) struct Link {
    pub(super) inbox: Inbox,
    pub(super) write: WriteHalf,
    /// Tells in which form the peer takes subscriptions.
    pub(super) peer: Greeting,
}

/// The reading side.
pub(super) struct Inbox {
    read: ReadHalf,
    buffer: BytesMut,
    reader: Reader,
}

impl Link {
    /// Greets as `end`. Not cancel-safe: a cancelled handshake loses the connection, which is dropped with it.
    ///
    /// # Errors
    /// When the peer closes, takes too long, does not speak ZMTP 3 with NULL, or is the wrong kind of socket.
    pub(super) async fn greet(stream: Stream, end: End) -> Result<Self, LinkError> {
        tokio::time::timeout(GREETING_TIMEOUT, handshake(stream, end)).await.map_err(|_| LinkError::GreetingTimeout)?
    }
}

async fn handshake(stream: Stream, end: End) -> Result<Link, LinkError> {
    let (read, mut write) = stream.into_split();
    let mut inbox = Inbox { read, buffer: BytesMut::new(), reader: Reader::default() };
    let (own, wanted) = end.types();
    let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
    Command::Ready(own.into()).encode_into(&mut hello);
    // libzmq reads our READY whenever it comes after the greeting, so that both leave in one segment.
    write.write_all(&hello).await?;
    let peer = loop {
        if let Some(greeting) = Greeting::decode(&mut inbox.buffer)? {
            break greeting;
        }
        inbox.fill().await?;
    };
    loop {
        match inbox.next().await? {
            Incoming::Command(Command::Ready(theirs)) if wanted.contains(&theirs.as_str()) => {
                return Ok(Link { inbox, write, peer });
            }
            Incoming::Command(Command::Ready(theirs)) => return Err(LinkError::WrongSocket(theirs, own)),
            Incoming::Command(Command::Error(reason)) => return Err(LinkError::Refused(reason)),
            Incoming::Command(_) => {}
            Incoming::Message(_) => {
                let why = "a message came before READY".into();
                return Err(FrameError::Malformed { part: "ZMTP handshake", why }.into());
            }
        }
    }
}

impl Inbox {
    /// The next command or message. Cancel-safe: what has arrived stays in the buffer.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkError> {
        loop {
            if let Some(incoming) = self.reader.next(&mut self.buffer)? {
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), LinkError> {
        self.buffer.reserve(READ_BYTES);
        match self.read.read_buf(&mut self.buffer).await? {
            0 => Err(LinkError::Closed),
            _ => Ok(()),
        }
    }
}
