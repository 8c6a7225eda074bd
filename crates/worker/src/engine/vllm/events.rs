//! vLLM's KV events, followed: subscribed to, and asked for again where some were missed.
//!
//! The PUB socket tells what happens from now on. What happened before, or was lost on the way, the replay socket tells
//! again (a ROUTER: a first sequence number in, the messages from there on out, then one with the number -1). Without
//! one, or when it has forgotten, the cache counts as empty from there on and fills again.

use super::client::EventSource;
use super::kv_events;
use super::kv_translate::{Place, Translator};
use super::server::State;
use super::zmq_socket::{Socket, SocketError};
use bytes::Bytes;
use protocol::kv::KvChange;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

/// First pause after a lost connection, and the longest: a server that is gone is noticed elsewhere.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Time for a replay: vLLM keeps at most 10,000 messages unless told, and looks for requests ten times a second.
const REPLAY_WITHIN: Duration = Duration::from_secs(10);

/// The number that ends a replay.
const REPLAY_END: u64 = u64::MAX;

/// The receiver of the changes is gone.
struct NobodyListens;

/// Passes vLLM's events on as changes of the cache, until the receiver is gone.
pub(super) async fn follow(source: EventSource, block_size: usize, changes: mpsc::Sender<KvChange>, state: Arc<State>) {
    let translator = Translator::new(block_size);
    let mut follower = Follower { source, translator, changes, state };
    let mut pause = PAUSES.0;
    loop {
        match follower.subscribe().await {
            Ok(mut socket) => {
                pause = PAUSES.0;
                if follower.until_lost(&mut socket).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = follower.source.endpoint, %error, "vLLM's KV events cannot be followed yet");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

struct Follower {
    source: EventSource,
    translator: Translator,
    changes: mpsc::Sender<KvChange>,
    state: Arc<State>,
}

impl Follower {
    async fn subscribe(&self) -> Result<Socket, SocketError> {
        let mut socket = Socket::connect(&self.source.endpoint, "SUB").await?;
        socket.subscribe(&self.source.topic).await?;
        Ok(socket)
    }

    /// Follows one connection until it is lost.
    async fn until_lost(&mut self, socket: &mut Socket) -> Result<(), NobodyListens> {
        tracing::info!(
            endpoint = self.source.endpoint,
            replay = self.source.replay.as_deref().unwrap_or("none"),
            "following vLLM's KV events"
        );
        // Behind a new connection there may be a new server, whose numbers begin anew: all is asked for.
        let forgotten = self.translator.forget();
        self.tell(forgotten).await?;
        self.replay(0).await?;
        loop {
            match socket.next().await {
                Ok(frames) => {
                    if let Some(message) = Message::read(&frames) {
                        self.take(message).await?;
                    }
                }
                Err(error) => {
                    tracing::warn!(endpoint = self.source.endpoint, %error, "the connection to vLLM's KV events is lost");
                    return Ok(());
                }
            }
        }
    }

    /// Takes a message of the subscription, after what is missing before it.
    async fn take(&mut self, message: Message) -> Result<(), NobodyListens> {
        if let Place::After(missed) = self.translator.place(message.seq) {
            tracing::warn!(from = missed, to = message.seq, "KV events of vLLM were lost; they are asked for again");
            self.replay(missed).await?;
        }
        self.apply(message).await
    }

    /// Applies a message, unless it was applied already.
    async fn apply(&mut self, message: Message) -> Result<(), NobodyListens> {
        if self.translator.place(message.seq) == Place::Known {
            return Ok(());
        }
        match kv_events::decode(&message.payload) {
            Ok(batch) => {
                let changes = self.translator.changes(message.seq, batch);
                self.tell(changes).await
            }
            // The hole that it leaves makes the next message ask for it again, and then count as lost.
            Err(error) => {
                tracing::warn!(%error, seq = message.seq, "a KV event message was skipped");
                Ok(())
            }
        }
    }

    async fn tell(&mut self, changes: Vec<KvChange>) -> Result<(), NobodyListens> {
        for change in changes {
            self.changes.send(change).await.map_err(|_| NobodyListens)?;
        }
        self.state.cached_blocks.store(self.translator.stored_blocks() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Applies what the replay socket tells from `first` on, as far as it gets.
    async fn replay(&mut self, first: u64) -> Result<(), NobodyListens> {
        let Some(endpoint) = self.source.replay.clone() else { return Ok(()) };
        let replayed = tokio::time::timeout(REPLAY_WITHIN, self.replay_from(&endpoint, first)).await;
        match replayed {
            Ok(Ok(Ok(messages))) => tracing::info!(first, messages, "vLLM told earlier KV events again"),
            Ok(Ok(Err(error))) => tracing::warn!(endpoint, %error, "vLLM's earlier KV events cannot be asked for"),
            Ok(Err(gone)) => return Err(gone),
            Err(_) => tracing::warn!(endpoint, "vLLM did not tell its earlier KV events in time"),
        }
        Ok(())
    }

    async fn replay_from(&mut self, endpoint: &str, first: u64) -> Result<Result<u64, SocketError>, NobodyListens> {
        let asked = async {
            let mut socket = Socket::connect(endpoint, "DEALER").await?;
            socket.send(&[Bytes::new(), Bytes::copy_from_slice(&first.to_be_bytes())]).await?;
            Ok(socket)
        };
        let mut socket = match asked.await {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error)),
        };
        let mut messages = 0;
        loop {
            let frames = match socket.next().await {
                Ok(frames) => frames,
                Err(error) => return Ok(Err(error)),
            };
            // The empty frame that ends the envelope comes first.
            let Some(message) = frames.split_first().and_then(|(_, rest)| Message::read(rest)) else { continue };
            if message.seq == REPLAY_END {
                return Ok(Ok(messages));
            }
            messages += 1;
            self.apply(message).await?;
        }
    }
}

/// `[topic, seq, payload]`.
struct Message {
    seq: u64,
    payload: Bytes,
}

impl Message {
    /// A message of another shape is logged and skipped; the hole that it leaves is seen at the next one.
    fn read(frames: &[Bytes]) -> Option<Self> {
        let [_, seq, payload] = frames else {
            tracing::warn!(frames = frames.len(), "a KV event message of vLLM has not three frames");
            return None;
        };
        let Some(seq) = seq.first_chunk::<8>().filter(|_| seq.len() == 8) else {
            tracing::warn!("a KV event message of vLLM has no sequence number");
            return None;
        };
        Some(Self { seq: u64::from_be_bytes(*seq), payload: payload.clone() })
    }
}
