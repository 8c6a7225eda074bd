//! The body of a streamed answer: server-sent events, all that is ready in one write.

use crate::admission::Permit;
use crate::exchange::{Exchange, Part};
use crate::openai::ApiError;
use crate::openai::response::{NvextResponse, Timing, WorkerIds};
use crate::openai::sse::{self, ChunkWriter};
use crate::server::failure;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Sleep;

/// Bytes after which a write is due even if more is ready: a socket buffer's worth.
const WRITE_BYTES: usize = 16 << 10;

/// What the client wants to see beside the text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) usage_at_end: bool,
    pub(crate) usage_on_each: bool,
    pub(crate) worker_id: bool,
    pub(crate) timing: bool,
}

/// See the module. Dropping it before its end is a client that left: it cancels everything below.
pub(crate) struct EventStream {
    exchange: Exchange,
    writer: ChunkWriter,
    wanted: Wanted,
    buffer: BytesMut,
    keep_alive: Option<(Duration, Pin<Box<Sleep>>)>,
    over: bool,
    _permit: Permit,
}

impl EventStream {
    /// `head` is what comes before the first chunk: annotations.
    pub(crate) fn new(
        exchange: Exchange,
        writer: ChunkWriter,
        wanted: Wanted,
        head: BytesMut,
        keep_alive: Option<Duration>,
        permit: Permit,
    ) -> Self {
        let keep_alive = keep_alive.map(|every| (every, Box::pin(tokio::time::sleep(every))));
        Self { exchange, writer, wanted, buffer: head, keep_alive, over: false, _permit: permit }
    }

    /// Writes all that is ready, up to [`WRITE_BYTES`].
    fn fill(&mut self, cx: &mut Context<'_>) {
        while !self.over && self.buffer.len() < WRITE_BYTES {
            match self.exchange.poll_part(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Part::Raised { index, raised, worker })) => {
                    if raised.is_empty() {
                        continue;
                    }
                    let nvext = self.nvext(worker, raised.finish.is_some());
                    let usage = if self.wanted.usage_on_each { self.exchange.usage_of(index) } else { None };
                    self.writer.delta_with_usage(&mut self.buffer, index, &raised, nvext.as_ref(), usage.as_ref());
                }
                Poll::Ready(Some(Part::Failed(error))) => self.end_with(&error),
                Poll::Ready(None) => {
                    if self.wanted.usage_at_end {
                        self.writer.usage(&mut self.buffer, &self.exchange.usage());
                    }
                    sse::done(&mut self.buffer);
                    self.over = true;
                }
            }
        }
    }

    fn end_with(&mut self, error: &ApiError) {
        sse::error(&mut self.buffer, error);
        sse::done(&mut self.buffer);
        self.over = true;
    }

    fn nvext(&self, worker: Option<WorkerIds>, last: bool) -> Option<NvextResponse> {
        let worker_id = worker.filter(|_| self.wanted.worker_id);
        let timing = (self.wanted.timing && last).then(|| timing_of(&self.exchange));
        (worker_id.is_some() || timing.is_some()).then_some(NvextResponse { worker_id, timing })
    }

    /// A comment line when nothing was sent for a while, so that proxies keep the connection.
    fn keep_alive(&mut self, cx: &mut Context<'_>) {
        let Some((every, sleep)) = &mut self.keep_alive else { return };
        let due = tokio::time::Instant::now() + *every;
        if !self.buffer.is_empty() {
            sleep.as_mut().reset(due);
        } else if sleep.as_mut().poll(cx).is_ready() {
            self.buffer.extend_from_slice(b": keep-alive\n\n");
            sleep.as_mut().reset(due);
            // Registers the new time.
            let _ = sleep.as_mut().poll(cx);
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.over && this.buffer.is_empty() {
            return Poll::Ready(None);
        }
        // A panic ends this answer only, and the client is told.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| this.fill(cx))) {
            tracing::error!(panic = runtime::tasks::panic_text(panic.as_ref()), "a stream panicked");
            this.end_with(&failure::internal());
        }
        this.keep_alive(cx);
        if this.buffer.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.over && self.buffer.is_empty()
    }
}

/// How long the parts of an answer took.
pub(crate) fn timing_of(exchange: &Exchange) -> Timing {
    let account = &exchange.account;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let total = account.started().elapsed();
    let ttft = account.first_token().map_or(total, |first| first - account.started());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timing {
        request_received_ms: now.saturating_sub(total).as_millis().try_into().unwrap_or(u64::MAX),
        // The worker does not tell when its prefill begins: all of it counts as prefill.
        prefill_wait_time_ms: 0.0,
        prefill_time_ms: milliseconds(ttft),
        ttft_ms: milliseconds(ttft),
        total_time_ms: milliseconds(total),
        kv_hit_rate: exchange.hit_rate,
        router_queue_depth: 0,
    }
}
