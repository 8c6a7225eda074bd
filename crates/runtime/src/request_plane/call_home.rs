//! The frontend's response listener: takes the connections that workers make, and gives each to the request that
//! waits for it.

use super::socket;
use super::traffic::Traffic;
use crate::tasks::Tasks;
use crate::world::{Stream, World};
use bytes::BytesMut;
use parking_lot::Mutex;
use protocol::dynamo::control::StreamType;
use protocol::dynamo::{Handshake, TwoPart};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, oneshot};

/// Requests that wait for their worker to call home. Each is short (10 s at most); a frontend's own admission is the
/// real bound, this one keeps a fault there from filling memory.
pub(super) const WAITING_MAX: usize = 65_536;

/// Connections that have not said their subject yet. Real workers need a millisecond; strangers can hold no more.
const HANDSHAKES_MAX: usize = 4_096;

/// How long a connection may take to say its subject; Dynamo's value.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Room for a handshake (99 bytes), a prologue and the first items.
const READ_BYTES: usize = 4 * 1024;

/// A worker that called home, with what it has sent beyond its handshake.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: Stream,
    pub(super) inbox: BytesMut,
}

/// Who waits, by subject.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<String, oneshot::Sender<Arrival>>>);

/// One listener for all requests of the process.
#[derive(Debug)]
pub(super) struct CallHomeListener {
    waiting: Arc<Waiting>,
    address: String,
    _tasks: Arc<Tasks>,
}

/// A place in the listener, given up on drop.
#[derive(Debug)]
pub(super) struct Expected {
    waiting: Arc<Waiting>,
    subject: String,
    arrival: oneshot::Receiver<Arrival>,
}

impl CallHomeListener {
    pub(super) async fn bind(
        world: &World,
        host: &str,
        port: u16,
        advertise_host: Option<&str>,
        traffic: Arc<Traffic>,
    ) -> io::Result<Self> {
        let listener = world.listen(host, port).await?;
        let address = socket::advertised(&listener, advertise_host)?;
        let waiting = Arc::new(Waiting::default());
        let tasks = Arc::new(Tasks::new());
        let (accepting, registry) = (Arc::downgrade(&tasks), waiting.clone());
        tasks.spawn("response listener", async move {
            let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
            let take = |stream, peer: SocketAddr| {
                let (Some(tasks), Ok(slot)) = (accepting.upgrade(), slots.clone().try_acquire_owned()) else {
                    tracing::warn!(%peer, handshakes_max = HANDSHAKES_MAX, "too many connections without a subject");
                    return;
                };
                let registry = registry.clone();
                tasks.spawn("call home", async move {
                    receive(&registry, stream, peer).await;
                    drop(slot);
                });
            };
            socket::accept_each_noting(listener, "response listener", take, || traffic.accept_backed_off()).await;
        });
        Ok(Self { waiting, address, _tasks: tasks })
    }

    /// `HOST:PORT` for workers to dial.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Waits for `subject` from now on. `None` when [`WAITING_MAX`] requests wait already.
    pub(super) fn expect(&self, subject: String) -> Option<Expected> {
        let (sender, arrival) = oneshot::channel();
        let mut waiting = self.waiting.0.lock();
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        waiting.insert(subject.clone(), sender);
        drop(waiting);
        Some(Expected { waiting: self.waiting.clone(), subject, arrival })
    }
}

impl Expected {
    /// The worker's connection. Cancel-safe.
    pub(super) async fn arrival(&mut self) -> Arrival {
        match (&mut self.arrival).await {
            Ok(arrival) => arrival,
            // The sender is in the registry until this is dropped, and leaves it only to be used.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.waiting.0.lock().remove(&self.subject);
    }
}

async fn receive(waiting: &Waiting, mut stream: Stream, peer: SocketAddr) {
    let mut inbox = BytesMut::with_capacity(READ_BYTES);
    let handshake = match tokio::time::timeout(HANDSHAKE_MAX, read_handshake(&mut stream, &mut inbox)).await {
        Ok(Ok(handshake)) => handshake,
        Ok(Err(why)) => {
            tracing::debug!(%peer, %why, "a connection to the response listener that is no worker's");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "a connection to the response listener said nothing");
            return;
        }
    };
    let waiter = waiting.0.lock().remove(&handshake.subject);
    match waiter {
        // The caller may have left in this moment; the connection is dropped then, which the worker takes as a cancel.
        Some(waiter) => drop(waiter.send(Arrival { stream, inbox })),
        None => tracing::debug!(%peer, subject = %handshake.subject, "a worker called home for a request that is over"),
    }
}

async fn read_handshake(stream: &mut Stream, inbox: &mut BytesMut) -> Result<Handshake, String> {
    loop {
        match TwoPart::decode(inbox) {
            Err(error) => return Err(error.to_string()),
            Ok(Some(message)) => {
                let handshake: Handshake =
                    serde_json::from_slice(&message.header).map_err(|error| format!("handshake: {error}"))?;
                if handshake.stream_type != StreamType::Response {
                    return Err("a stream of request items, which nobody asked for".into());
                }
                return Ok(handshake);
            }
            Ok(None) => {}
        }
        match stream.read_buf(inbox).await {
            Ok(0) => return Err("closed before its handshake".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
