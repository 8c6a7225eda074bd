//! The body of a streamed answer: server-sent events, all that is ready in one write.
//!
//! A write costs more than the token in it. A few streams get a write for each token, at once. The more there are, the
//! longer each waits between two writes ([`OpenStreams`]): an engine that makes tokens faster than that gets them
//! gathered, and until then they are not even read.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, Sleep};

/// Bytes after which a write is due even if more is ready: a socket buffer's worth.
const WRITE_BYTES: usize = 16 << 10;

/// So many streams make the gap between two writes of one a millisecond longer: 8,000 writes a second in all.
const STREAMS_A_MILLISECOND: usize = 8;
/// The longest gap. Nobody reads 250 tokens a second, and a client that does takes them by the handful as well; the
/// first token and those of a slower engine never wait.
const WRITE_GAP_MAX: Duration = Duration::from_millis(4);

/// How many streamed answers are open. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenStreams(Arc<AtomicUsize>);

impl OpenStreams {
    /// One more, with its place among the requests.
    pub(crate) fn seat(&self, permit: Permit) -> Seat {
        Seat { open: self.enter(), _permit: permit }
    }

    fn enter(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.0.clone())
    }
}

/// What an open stream holds until its end.
pub(crate) struct Seat {
    open: OpenStream,
    _permit: Permit,
}

/// One of them, until it is dropped.
struct OpenStream(Arc<AtomicUsize>);

impl OpenStream {
    /// Least time between two of its writes.
    fn write_gap(&self) -> Duration {
        // Whole milliseconds: a timer knows no shorter time.
        let milliseconds = self.0.load(Ordering::Relaxed) / STREAMS_A_MILLISECOND;
        Duration::from_millis(milliseconds as u64).min(WRITE_GAP_MAX)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    /// Parts of the answer in the buffer.
    parts: usize,
    keep_alive: Option<(Duration, Pin<Box<Sleep>>)>,
    pace: Pace,
    seat: Seat,
    over: bool,
}

/// Keeps a gap between writes.
#[derive(Default)]
struct Pace {
    /// When the last write is old enough for the next; absent before the first.
    due: Option<Instant>,
    /// Whether the exchange need not be asked before the gap is over: it was asked since the last write and wakes us for
    /// the next token, or the last write had several, so that the next comes within the gap as well.
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

    /// The next write, after one of so many `parts`, is to come after `gap`.
    fn written(&mut self, gap: Duration, parts: usize) {
        self.due = (!gap.is_zero()).then(|| Instant::now() + gap);
        self.asked = parts > 1;
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
        seat: Seat,
    ) -> Self {
        let keep_alive = keep_alive.map(|every| (every, Box::pin(tokio::time::sleep(every))));
        Self { exchange, writer, wanted, buffer: head, parts: 0, keep_alive, pace: Pace::default(), seat, over: false }
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
                    self.parts += 1;
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
        this.pace.written(this.seat.open.write_gap(), std::mem::take(&mut this.parts));
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
            pace.written(WRITE_GAP_MAX, 1);
            assert!(reads(&mut pace).await, "the poll after a write asks for the next token");
            tokio::time::advance(WRITE_GAP_MAX).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_gap_waits_for_its_end_and_wakes_the_task_then() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.written(WRITE_GAP_MAX, 1);
            assert!(reads(&mut pace).await);
            assert!(!reads(&mut pace).await, "a token within the gap");
            let start = Instant::now();
            poll_fn(|cx| if pace.holds_reads(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
            assert_eq!(start.elapsed(), WRITE_GAP_MAX);
            assert!(reads(&mut pace).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_write_of_several_tokens_the_next_are_not_asked_for_before_the_gap_is_over() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.written(WRITE_GAP_MAX, 2);
            assert!(!reads(&mut pace).await);
            let start = Instant::now();
            poll_fn(|cx| if pace.holds_reads(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
            assert_eq!(start.elapsed(), WRITE_GAP_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_gap_every_token_is_read_and_written_at_once() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.written(Duration::ZERO, 3);
            assert!(reads(&mut pace).await && reads(&mut pace).await);
            assert!(!poll_fn(|cx| Poll::Ready(pace.holds(cx))).await);
        }
    }

    #[test]
    fn the_gap_grows_with_the_open_streams_up_to_its_bound_and_falls_again() {
        let all = OpenStreams::default();
        let mut open: Vec<_> = (1..STREAMS_A_MILLISECOND).map(|_| all.enter()).collect();
        assert_eq!(open[0].write_gap(), Duration::ZERO);
        for milliseconds in 1..=6 {
            open.push(all.enter());
            assert_eq!(open[0].write_gap(), Duration::from_millis(milliseconds).min(WRITE_GAP_MAX));
            open.extend((1..STREAMS_A_MILLISECOND).map(|_| all.enter()));
        }
        open.truncate(1);
        assert_eq!(open[0].write_gap(), Duration::ZERO);
    }
}
