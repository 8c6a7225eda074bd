//! The worker's end of a response stream.

use super::error::StreamClosed;
use crate::world::WriteHalf;
use bytes::BytesMut;
use protocol::discovery::Codec;
use protocol::dynamo::two_part::{encode_control, encode_data};
use protocol::dynamo::{ControlWord, Prologue};
use protocol::output::{Annotated, StreamFrame, WireError};
use serde::Serialize;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A frontend that reads nothing for this long with its window full is gone or stuck; the engine's time is worth more.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// A buffer that grew beyond this for one large item (a tree dump) is given back.
const BUFFER_KEPT_BYTES_MAX: usize = 256 * 1024;

/// Writes the answer to one request. Dropping it before [`Responder::finish`] or [`Responder::refuse`] cuts the
/// stream: the frontend sees a worker that died.
#[derive(Debug)]
pub struct Responder {
    /// `None` once nothing may be written any more.
    write: Option<WriteHalf>,
    cancelled: CancellationToken,
    codec: Codec,
    buffer: BytesMut,
    accepted: bool,
    /// Told the bytes of each write.
    meter: Option<Meter>,
    waited: Option<Duration>,
    /// The frontend understands beats.
    takes_beats: bool,
    /// Promised.
    beat_every: Option<Duration>,
}

struct Meter(Box<dyn Fn(usize) + Send + Sync>);

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter")
    }
}

impl Responder {
    pub(super) fn new(write: WriteHalf, cancelled: CancellationToken, codec: Codec) -> Self {
        let buffer = BytesMut::new();
        Self {
            write: Some(write),
            cancelled,
            codec,
            buffer,
            accepted: false,
            meter: None,
            waited: None,
            takes_beats: false,
            beat_every: None,
        }
    }

    pub(super) fn takes_beats(&mut self, takes_beats: bool) {
        self.takes_beats = takes_beats;
    }

    /// Promises the frontend that something comes at least every `every` while the work goes forward: an item, or a
    /// [`Responder::beat`]. Before the first word only. A frontend that has not asked for it gets the stock frames.
    pub fn promise_beats(&mut self, every: Duration) {
        if self.takes_beats && !self.accepted {
            self.beat_every = Some(every);
        }
    }

    /// Whether beats were promised.
    pub fn beats(&self) -> bool {
        self.beat_every.is_some()
    }

    /// Tells the frontend to wait on: an item without content. Nothing when beats were not promised.
    ///
    /// # Errors
    /// As [`Responder::item`].
    pub async fn beat(&mut self) -> Result<(), StreamClosed> {
        if !self.beats() {
            return Ok(());
        }
        self.item(&Annotated::<()> { data: None, id: None, event: None, comment: None, error: None }).await
    }

    pub(super) fn note_wait(&mut self, waited: Duration) {
        self.waited = Some(waited);
    }

    /// How long the request waited for its turn; `None` when it had it at once.
    pub fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// From now on `sent` is told the bytes of each write that reached the socket whole, frames included.
    pub fn count_sent(&mut self, sent: impl Fn(usize) + Send + Sync + 'static) {
        self.meter = Some(Meter(Box::new(sent)));
    }

    /// Fires when the frontend sends `kill` or `stop`, or closes its side, or this server is dropped.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Tells the frontend that the request is taken. Not needed before an item, which says so itself in the same write.
    ///
    /// # Errors
    /// When the frontend has cancelled or is gone.
    pub async fn accept(&mut self) -> Result<(), StreamClosed> {
        self.buffer.clear();
        self.add_prologue()?;
        self.flush().await
    }

    /// Refuses the request; nothing was computed. Only `public` of the error reaches the client.
    pub async fn refuse(mut self, error: WireError) {
        if self.accepted {
            // Too late for a prologue: an error item ends the stream just as well.
            let item = Annotated::<serde_json::Value>::failed(error);
            if self.item(&item).await.is_ok() {
                self.finish().await;
            }
            return;
        }
        self.accepted = true;
        self.buffer.clear();
        if let Err(error) = self.control(&Prologue::refused(error)) {
            tracing::error!(%error, "a refusal cannot be encoded; the stream is cut instead");
            return;
        }
        self.close_after_flush().await;
    }

    /// Sends one item: one write, one segment.
    ///
    /// # Errors
    /// When the frontend has cancelled or is gone; nothing can be sent any more, and the work should stop.
    pub async fn item<T: Serialize>(&mut self, item: &Annotated<T>) -> Result<(), StreamClosed> {
        self.raw_item(item).await
    }

    /// Sends one item without the annotation layer, as answers to recovery queries are.
    ///
    /// # Errors
    /// As [`Responder::item`].
    pub async fn raw_item<T: Serialize>(&mut self, item: &T) -> Result<(), StreamClosed> {
        self.buffer.clear();
        let accepted_before = self.accepted;
        let frame = StreamFrame { data: Some(item), complete_final: false };
        if let Err(error) = self.add_prologue().and_then(|()| self.data(&frame)) {
            // Nothing is sent, so the prologue is still owed.
            self.accepted = accepted_before;
            return Err(error);
        }
        self.flush().await
    }

    /// Ends the stream as complete. An end that cannot be written is no loss to this side.
    pub async fn finish(mut self) {
        self.buffer.clear();
        let end = StreamFrame::<()> { data: None, complete_final: true };
        let encoded =
            self.add_prologue().and_then(|()| self.data(&end)).and_then(|()| self.control(&ControlWord::Sentinel));
        if let Err(error) = encoded {
            tracing::error!(%error, "the end of a stream cannot be encoded; the stream is cut instead");
            return;
        }
        self.close_after_flush().await;
    }

    fn add_prologue(&mut self) -> Result<(), StreamClosed> {
        if !std::mem::replace(&mut self.accepted, true) {
            let beat_ms = self.beat_every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
            self.control(&Prologue { beat_ms, ..Prologue::default() })?;
        }
        Ok(())
    }

    fn control<T: Serialize>(&mut self, value: &T) -> Result<(), StreamClosed> {
        encode_control(value, &mut self.buffer).map_err(|error| StreamClosed::Encode(error.to_string()))
    }

    fn data<T: Serialize>(&mut self, value: &T) -> Result<(), StreamClosed> {
        encode_data(self.codec, value, &mut self.buffer).map_err(|error| StreamClosed::Encode(error.to_string()))
    }

    async fn close_after_flush(&mut self) {
        if let Err(closed) = self.flush().await {
            tracing::debug!(%closed, "the end of a stream was not delivered");
        } else if let Some(write) = self.write.take() {
            // No FIN yet: the frontend closes first, as with stock workers. The connection's reader waits for that.
            write.forget();
        }
    }

    /// Writes the whole buffer. After a failure nothing can be written: half a frame may be out.
    async fn flush(&mut self) -> Result<(), StreamClosed> {
        let Some(write) = &self.write else {
            return Err(StreamClosed::Cancelled);
        };
        let outcome = write_all(write, &self.buffer, &self.cancelled).await;
        if outcome.is_err() {
            self.write = None;
        } else if let Some(Meter(sent)) = &self.meter {
            sent(self.buffer.len());
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        outcome
    }
}

async fn write_all(write: &WriteHalf, mut rest: &[u8], cancelled: &CancellationToken) -> Result<(), StreamClosed> {
    if cancelled.is_cancelled() {
        return Err(StreamClosed::Cancelled);
    }
    loop {
        // Nearly always all goes out here, without a timer or a wake-up.
        match write.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(StreamClosed::Disconnected(error.to_string())),
        }
        if rest.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(StreamClosed::Cancelled),
            writable = tokio::time::timeout(WRITE_STALL_MAX, write.writable()) => match writable {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StreamClosed::Disconnected(error.to_string())),
                Err(_) => return Err(StreamClosed::Stalled(WRITE_STALL_MAX.as_secs())),
            },
        }
    }
}
