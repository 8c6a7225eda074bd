//! The subscribing side: a SUB socket of one publisher that finds its way back.

use super::link::{End, Link, LinkError};
use crate::event_plane::{Envelope, EventError};
use crate::tasks::Tasks;
use crate::world::World;
use protocol::dynamo::zmtp::{Command, Incoming};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Events read and not yet taken. When full, reading stops, TCP pushes back, and the publisher drops and counts.
const QUEUE_EVENTS_MAX: usize = 4_096;

/// Bytes read and not yet taken; one event may be 32 MiB.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// First pause after a lost connection, as in libzmq, and the longest. A publisher that stays away costs one dial in
/// five seconds until its record goes and the subscriber is dropped.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A subscription to one publisher. Dropping it closes the connection.
pub(in crate::event_plane) struct Subscriber {
    events: mpsc::Receiver<(Envelope, OwnedSemaphorePermit)>,
    connections: watch::Receiver<u64>,
    losses: watch::Receiver<u64>,
    _tasks: Tasks,
}

impl Subscriber {
    /// From the machine of `world`, subscribes to `topic` at `endpoint` (`tcp://HOST:PORT`). Does not wait for the
    /// connection, which is made and made again in the background.
    ///
    /// # Errors
    /// When the endpoint is not of that form.
    pub(in crate::event_plane) async fn connect(
        world: &World,
        endpoint: &str,
        topic: &str,
    ) -> Result<Self, EventError> {
        let address = address_of(endpoint).ok_or_else(|| EventError::Endpoint { endpoint: endpoint.to_owned() })?;
        let (sent, events) = mpsc::channel(QUEUE_EVENTS_MAX);
        let (connected, connections) = watch::channel(0);
        let (lost, losses) = watch::channel(0);
        let feed = Feed {
            world: world.clone(),
            address: address.to_owned(),
            topic: topic.to_owned(),
            sent,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            connected,
            lost,
        };
        let tasks = Tasks::new();
        tasks.spawn("event subscriber", feed.run());
        Ok(Self { events, connections, losses, _tasks: tasks })
    }

    /// The next event, in the publisher's order. `None` never comes while the subscriber lives. Cancel-safe.
    pub(in crate::event_plane) async fn next(&mut self) -> Option<Envelope> {
        self.events.recv().await.map(|(envelope, _room)| envelope)
    }

    /// How often the subscription was made, as it changes: each one after the first means that events may have been
    /// lost before it.
    pub(in crate::event_plane) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// How often a connection that held was lost, as it changes. A process that dies closes its connections at once,
    /// so this tells of a dead publisher seconds before its discovery record expires.
    pub(in crate::event_plane) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.clone()
    }
}

/// `HOST:PORT` of `tcp://HOST:PORT`.
fn address_of(endpoint: &str) -> Option<&str> {
    let address = endpoint.strip_prefix("tcp://")?;
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && host != "*" && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(address)
}

/// The task behind a subscriber.
struct Feed {
    world: World,
    address: String,
    topic: String,
    sent: mpsc::Sender<(Envelope, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    connected: watch::Sender<u64>,
    lost: watch::Sender<u64>,
}

impl Feed {
    async fn run(self) {
        let mut pause = BACKOFF_MIN;
        loop {
            let start = Instant::now();
            let before = *self.connected.borrow();
            let Err(error) = self.listen().await;
            if *self.connected.borrow() > before {
                self.lost.send_modify(|count| *count += 1);
            }
            // A connection that held is a publisher that is well: come back soon.
            if start.elapsed() > BACKOFF_MAX {
                pause = BACKOFF_MIN;
            }
            tracing::debug!(address = self.address, topic = self.topic, %error, ?pause, "not subscribed; will dial again");
            // Spread over half the pause, so that subscribers who lost the same publisher do not return as one.
            tokio::time::sleep(pause.mul_f64(self.world.random_within(0.75..1.25))).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn listen(&self) -> Result<Infallible, LinkError> {
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, self.world.dial(&self.address)).await;
        let stream = dialled.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let mut link = Link::greet(stream, End::Subscriber).await?;
        link.write.write_all(&link.peer.subscription(self.topic.as_bytes())).await?;
        self.connected.send_modify(|count| *count += 1);
        loop {
            match link.inbox.next().await? {
                Incoming::Message(frames) => match Envelope::from_zmq(&frames) {
                    Ok(envelope) if envelope.topic == self.topic => self.hand_on(envelope).await,
                    // A subscription is to a prefix; ours is to the whole name.
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(address = self.address, topic = self.topic, %error, "skipped a malformed event");
                    }
                },
                Incoming::Command(Command::Ping(context)) => {
                    let mut pong = bytes::BytesMut::new();
                    Command::Pong(context).encode_into(&mut pong);
                    link.write.write_all(&pong).await?;
                }
                Incoming::Command(Command::Error(reason)) => return Err(LinkError::Refused(reason)),
                Incoming::Command(_) => {}
            }
        }
    }

    async fn hand_on(&self, envelope: Envelope) {
        let bytes = envelope.payload.len().min(QUEUE_BYTES_MAX) as u32;
        // Neither fails while the subscriber lives, and this task does not outlive it.
        if let Ok(room) = self.room.clone().acquire_many_owned(bytes).await {
            let _ = self.sent.send((envelope, room)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_endpoints_with_host_and_port_are_dialled() {
        assert_eq!(address_of("tcp://127.0.0.1:33775"), Some("127.0.0.1:33775"));
        assert_eq!(address_of("tcp://[::1]:1"), Some("[::1]:1"));
        assert_eq!(address_of("tcp://worker.local:1"), Some("worker.local:1"));
        for wrong in
            ["", "127.0.0.1:1", "ipc:///tmp/x", "tcp://*:1", "tcp://:1", "tcp://host", "tcp://host:0", "tcp://h:x"]
        {
            assert_eq!(address_of(wrong), None, "{wrong}");
        }
    }
}
