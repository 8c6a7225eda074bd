//! The frontend's request connections: few per worker, kept, pipelined.

use super::error::{ErrorClass, RequestError};
use super::traffic::Traffic;
use crate::tasks::Tasks;
use crate::world::{ReadHalf, Stream, World, WriteHalf};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use protocol::dynamo::Ack;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests that wait on one connection, unsent or unacknowledged. Dynamo's value.
const PIPELINE_MAX: usize = 1_024;

/// Another connection is opened when each has this many requests waiting: acks come at once, so a queue means a large
/// body or a slow worker ahead.
const PIPELINE_GROW: usize = 32;

/// Connections to one worker.
const CONNECTIONS_MAX: usize = 16;

/// A connection that nobody used for this long is closed. Dynamo's value.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Requests that are written together when several wait.
const WRITE_BATCH: usize = 32;

/// All connections, by `HOST:PORT`.
#[derive(Debug)]
pub(super) struct Pool {
    by_address: Mutex<HashMap<String, Worker>>,
    world: World,
    connect_timeout: Duration,
    traffic: Arc<Traffic>,
    tasks: Tasks,
}

/// Connections to one worker.
#[derive(Debug, Default)]
struct Worker {
    connections: Vec<Arc<Connection>>,
    /// Held while dialling, so that a burst of first requests makes one connection and not one each; holds the last
    /// failure, which everybody who waited for that dial shares.
    dialling: Arc<tokio::sync::Mutex<Option<(Instant, RequestError)>>>,
}

/// What a request finds in the pool.
enum Found {
    /// A connection with room.
    Kept(Arc<Connection>),
    /// None, or one that is busy; another may be dialled by whoever holds the lock.
    Dial(Option<Arc<Connection>>, Arc<tokio::sync::Mutex<Option<(Instant, RequestError)>>>),
}

/// A handle on a connection's task.
#[derive(Debug)]
pub(super) struct Connection {
    outbox: mpsc::Sender<Outgoing>,
    /// Requests sent or being sent whose ack has not come.
    waiting: AtomicUsize,
    /// Takes no new requests.
    retired: AtomicBool,
    /// Fires when the connection is lost.
    closed: CancellationToken,
}

/// A connection that ended under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Before anything of the request was written: it may be sent again.
    Unsent,
    /// After it may have arrived.
    Unacknowledged,
}

#[derive(Debug)]
struct Outgoing {
    frame: Bytes,
    ack: AckSender,
}

type AckSender = oneshot::Sender<Result<Ack, Lost>>;
type Unacknowledged = Mutex<VecDeque<AckSender>>;

impl Pool {
    pub(super) fn new(world: World, connect_timeout: Duration, traffic: Arc<Traffic>) -> Self {
        Self { by_address: Mutex::default(), world, connect_timeout, traffic, tasks: Tasks::new() }
    }

    /// A connection to `address` with room, dialled if need be.
    pub(super) async fn connection(&self, address: &str) -> Result<Arc<Connection>, RequestError> {
        let asked_at = Instant::now();
        let (busy, dialling) = match self.find(address) {
            Found::Kept(kept) => return Ok(kept),
            Found::Dial(busy, dialling) => (busy, dialling),
        };
        let mut last_failure = match (dialling.try_lock(), busy) {
            (Ok(guard), _) => guard,
            // Another one is on its way; meanwhile the busy one is better than nothing.
            (Err(_), Some(busy)) => return Ok(busy),
            (Err(_), None) => dialling.lock().await,
        };
        if let Found::Kept(kept) = self.find(address) {
            return Ok(kept);
        }
        if let Some((failed_at, error)) = &*last_failure
            && *failed_at >= asked_at
        {
            return Err(error.clone());
        }
        let dialled = self.dial(address).await;
        match &dialled {
            Ok(connection) => self.keep(address, connection),
            Err(error) => *last_failure = Some((Instant::now(), error.clone())),
        }
        dialled
    }

    async fn dial(&self, address: &str) -> Result<Arc<Connection>, RequestError> {
        let stream = tokio::time::timeout(self.connect_timeout, self.world.dial(address))
            .await
            .map_err(|_| {
                let why = format!("worker {address}: no connection in {} s", self.connect_timeout.as_secs_f32());
                RequestError::new(ErrorClass::ConnectionTimeout, why)
            })?
            .map_err(|error| RequestError::new(ErrorClass::CannotConnect, format!("worker {address}: {error}")))?;
        let (outbox, inbox) = mpsc::channel(PIPELINE_MAX);
        let connection = Arc::new(Connection {
            outbox,
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            closed: CancellationToken::new(),
        });
        let closed = connection.closed.clone().drop_guard();
        let (worker, traffic) = (address.to_owned(), self.traffic.clone());
        self.tasks.spawn("request connection", async move {
            if let Err(error) = drive(stream, inbox, &traffic).await {
                tracing::debug!(%worker, %error, "a request connection broke");
            }
            drop(closed);
        });
        Ok(connection)
    }

    /// The connection with the shortest queue, unless it is time for another one.
    fn find(&self, address: &str) -> Found {
        let mut by_address = self.by_address.lock();
        // Not `entry`: the name is copied for the first request to a worker only.
        if !by_address.contains_key(address) {
            // Workers come and go under new ports; those that are gone must not pile up.
            by_address.retain(|_, worker| {
                Arc::strong_count(&worker.dialling) > 1 || worker.connections.iter().any(|c| c.is_open())
            });
            by_address.insert(address.to_owned(), Worker::default());
        }
        let Some(worker) = by_address.get_mut(address) else { return Found::Dial(None, Arc::default()) };
        worker.connections.retain(|connection| connection.is_open());
        let queue = |connection: &Arc<Connection>| connection.waiting.load(Ordering::Relaxed);
        match worker.connections.iter().min_by_key(|connection| queue(connection)) {
            Some(best) if queue(best) < PIPELINE_GROW || worker.connections.len() >= CONNECTIONS_MAX => {
                Found::Kept(best.clone())
            }
            best => Found::Dial(best.cloned(), worker.dialling.clone()),
        }
    }

    fn keep(&self, address: &str, connection: &Arc<Connection>) {
        self.by_address.lock().entry(address.to_owned()).or_default().connections.push(connection.clone());
    }
}

impl Connection {
    /// Sends one frame and waits for its ack.
    pub(super) async fn send(&self, frame: Bytes) -> Result<Ack, Lost> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _done = Waiting(&self.waiting);
        let (ack, acknowledged) = oneshot::channel();
        self.outbox.send(Outgoing { frame, ack }).await.map_err(|_| Lost::Unsent)?;
        acknowledged.await.unwrap_or(Err(Lost::Unacknowledged))
    }

    /// Takes no new requests: its acks do not come, and without ids one that is missing puts all behind it in doubt.
    /// Requests that wait on it go on waiting, each to its own deadline.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.closed.is_cancelled()
    }

    /// Resolves when the connection is lost.
    pub(super) async fn lost(&self) {
        self.closed.cancelled().await;
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a connection until either side ends it, or it was idle for [`IDLE_MAX`].
async fn drive(stream: Stream, mut inbox: mpsc::Receiver<Outgoing>, traffic: &Traffic) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let unacknowledged = Unacknowledged::default();
    let ended = tokio::select! {
        biased;
        ended = read_acks(read, &unacknowledged, traffic) => ended,
        ended = write_requests(write, &mut inbox, &unacknowledged, traffic) => ended,
    };
    inbox.close();
    while let Ok(unsent) = inbox.try_recv() {
        let _ = unsent.ack.send(Err(Lost::Unsent));
    }
    // Those that were sent find their sender dropped: `Lost::Unacknowledged`.
    ended
}

/// Writes requests as they come, several at once when several wait.
async fn write_requests(
    mut write: WriteHalf,
    inbox: &mut mpsc::Receiver<Outgoing>,
    unacknowledged: &Unacknowledged,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        match tokio::time::timeout(IDLE_MAX, inbox.recv_many(&mut batch, WRITE_BATCH)).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) if unacknowledged.lock().is_empty() => return Ok(()),
            Err(_) => continue,
        }
        // A caller that left before its turn costs nothing.
        batch.retain(|outgoing| !outgoing.ack.is_closed());
        let mut frames = Vec::with_capacity(batch.len());
        {
            // In the queue before on the wire: the ack may be back before the write is.
            let mut queue = unacknowledged.lock();
            for Outgoing { frame, ack } in batch.drain(..) {
                frames.push(frame);
                queue.push_back(ack);
            }
        }
        if let [frame] = frames.as_slice() {
            write.write_all(frame).await?;
        } else {
            write.write_all(&frames.concat()).await?;
        }
        traffic.sent(frames.iter().map(Bytes::len).sum());
    }
}

async fn read_acks(mut read: ReadHalf, unacknowledged: &Unacknowledged, traffic: &Traffic) -> io::Result<()> {
    let mut inbox = BytesMut::with_capacity(256);
    loop {
        match read.read_buf(&mut inbox).await? {
            0 => return Ok(()),
            bytes => traffic.received(bytes),
        }
        loop {
            let ack = match Ack::decode(&mut inbox) {
                Ok(Some(ack)) => ack,
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            let Some(caller) = unacknowledged.lock().pop_front() else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an ack that no request waits for"));
            };
            // A caller that gave up does not need it; its place in the order was kept.
            let _ = caller.send(Ok(ack));
        }
        inbox.reserve(64);
    }
}
