//! The body of a streamed answer: server-sent events, all that is ready in one write.
//!
//! A write costs more than the token in it. An engine that makes tokens slower than one in [`WRITE_GAP`] gets a write
//! for each, at once; one that is faster gets its tokens gathered, and until then they are not even read.

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
use tokio::time::{Instant, Sleep};

/// Bytes after which a write is due even if more is ready: a socket buffer's worth.
const WRITE_BYTES: usize = 16 << 10;

/// Least time between two writes of one stream. Nobody reads a thousand tokens a second, and a client that does takes
/// them by the handful as well; the first token and the end of a slower stream never wait.
const WRITE_GAP: Duration = Duration::from_millis(1);

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
    pace: Pace,
    over: bool,
    _permit: Permit,
}

/// Keeps [`WRITE_GAP`] between writes.
#[derive(Default)]
struct Pace {
    /// When the last write is old enough for the next; absent before the first.
    due: Option<Instant>,
    /// Whether the exchange was asked since the last write, and so will wake us for the next token.
    asked: bool,
    /// Made when first needed, then used again.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs.
    waiting: bool,
}

impl Pace {
    /// Whether it is too early to read: something came within the gap, and what follows it may be in the same write.
    fn holds_reads(&mut self, cx: &mut Context<'_>) -> bool {
        self.asked && self.holds(cx)
    }

    /// Whether it is too early to write. The task is woken when it no longer is.
    fn holds(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.due else { return false };
        if !self.waiting {
            if Instant::now() >= due {
                self.due = None;
                return false;
            }
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(due),
                none => *none = Some(Box::pin(tokio::time::sleep_until(due))),
            }
            self.waiting = true;
        }
        if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_pending()) {
            return true;
        }
        (self.due, self.waiting) = (None, false);
        false
    }

    fn written(&mut self) {
        self.due = Some(Instant::now() + WRITE_GAP);
        self.asked = false;
    }
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
        Self { exchange, writer, wanted, buffer: head, keep_alive, pace: Pace::default(), over: false, _permit: permit }
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
        let due = Instant::now() + *every;
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
        if this.pace.holds_reads(cx) {
            return Poll::Pending;
        }
        // A panic ends this answer only, and the client is told.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| this.fill(cx))) {
            tracing::error!(panic = runtime::tasks::panic_text(panic.as_ref()), "a stream panicked");
            this.end_with(&failure::internal());
        }
        this.pace.asked = true;
        this.keep_alive(cx);
        let more_may_come = !this.over && this.buffer.len() < WRITE_BYTES;
        if this.buffer.is_empty() || (more_may_come && this.pace.holds(cx)) {
            return Poll::Pending;
        }
        this.pace.written();
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::future::poll_fn;

    /// Whether a poll of the body would go on to read now.
    async fn reads(pace: &mut Pace) -> bool {
        let held = poll!(poll_fn(|cx| if pace.holds_reads(cx) { Poll::Pending } else { Poll::Ready(()) }));
        pace.asked |= held.is_ready();
        held.is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_token_and_those_of_a_slow_engine_are_read_at_once() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            assert!(reads(&mut pace).await);
            pace.written();
            assert!(reads(&mut pace).await, "the poll after a write asks for the next token");
            tokio::time::advance(WRITE_GAP).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_gap_waits_for_its_end_and_wakes_the_task_then() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.written();
            assert!(reads(&mut pace).await);
            assert!(!reads(&mut pace).await, "a token within the gap");
            let start = Instant::now();
            poll_fn(|cx| if pace.holds_reads(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
            assert_eq!(start.elapsed(), WRITE_GAP);
            assert!(reads(&mut pace).await);
        }
    }
}
