//! vLLM's KV events, followed: a ZMQ SUB socket that finds its way back.

use super::kv_events;
use super::kv_translate::Translator;
use super::server::State;
use bytes::{Bytes, BytesMut};
use protocol::dynamo::FrameError;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader};
use protocol::kv::KvChange;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// First pause after a lost connection, and the longest: a server that is gone is noticed elsewhere.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Time for connecting and greeting.
const GREET_WITHIN: Duration = Duration::from_secs(10);

/// Passes vLLM's events on as changes of the cache, until the receiver is gone.
///
/// What was stored before the first message is not known here; vLLM does not tell it again.
pub(super) async fn follow(
    endpoint: String,
    topic: String,
    block_size: usize,
    changes: mpsc::Sender<KvChange>,
    state: Arc<State>,
) {
    let mut translator = Translator::new(block_size);
    let mut pause = PAUSES.0;
    loop {
        match Subscription::open(&endpoint, &topic).await {
            Ok(mut subscription) => {
                tracing::info!(endpoint, "following vLLM's KV events");
                pause = PAUSES.0;
                let error = loop {
                    let frames = match subscription.next().await {
                        Ok(frames) => frames,
                        Err(error) => break error,
                    };
                    for change in translate(&mut translator, &frames) {
                        if changes.send(change).await.is_err() {
                            return;
                        }
                    }
                    state.cached_blocks.store(translator.stored_blocks() as u64, Ordering::Relaxed);
                };
                tracing::warn!(endpoint, %error, "the connection to vLLM's KV events is lost");
            }
            Err(error) => tracing::warn!(endpoint, %error, "vLLM's KV events cannot be followed yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The changes of `[topic, seq, payload]`; a message of another shape is logged and skipped, and the hole that it
/// leaves in `seq` clears what is known.
fn translate(translator: &mut Translator, frames: &[Bytes]) -> Vec<KvChange> {
    let [_, seq, payload] = frames else {
        tracing::warn!(frames = frames.len(), "a KV event message of vLLM has not three frames");
        return Vec::new();
    };
    let Some(seq) = seq.first_chunk::<8>().filter(|_| seq.len() == 8).map(|&bytes| u64::from_be_bytes(bytes)) else {
        tracing::warn!("a KV event message of vLLM has no sequence number");
        return Vec::new();
    };
    match kv_events::decode(payload) {
        Ok(batch) => translator.changes(seq, batch),
        Err(error) => {
            tracing::warn!(%error, seq, "a KV event message was skipped");
            Vec::new()
        }
    }
}

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
enum SubscriptionError {
    #[error("`{0}` is not of the form tcp://HOST:PORT")]
    Endpoint(String),
    #[error("no greeting in time")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One connection that has greeted and subscribed.
struct Subscription {
    stream: TcpStream,
    buffer: BytesMut,
    reader: Reader,
}

impl Subscription {
    async fn open(endpoint: &str, topic: &str) -> Result<Self, SubscriptionError> {
        let address = endpoint.strip_prefix("tcp://").filter(|address| address.contains(':'));
        let address = address.ok_or_else(|| SubscriptionError::Endpoint(endpoint.to_owned()))?;
        let greeted = tokio::time::timeout(GREET_WITHIN, Self::greet(address, topic)).await;
        greeted.map_err(|_| SubscriptionError::Silent)?
    }

    async fn greet(address: &str, topic: &str) -> Result<Self, SubscriptionError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, buffer: BytesMut::new(), reader: Reader::default() };
        let mut hello = BytesMut::from(&Greeting::OURS.encode()[..]);
        Command::Ready("SUB".into()).encode_into(&mut hello);
        this.stream.write_all(&hello).await?;
        let peer = loop {
            if let Some(peer) = Greeting::decode(&mut this.buffer)? {
                break peer;
            }
            this.read().await?;
        };
        this.stream.write_all(&peer.subscription(topic.as_bytes())).await?;
        Ok(this)
    }

    async fn read(&mut self) -> Result<(), SubscriptionError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(SubscriptionError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// The frames of the next message.
    async fn next(&mut self) -> Result<Vec<Bytes>, SubscriptionError> {
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
