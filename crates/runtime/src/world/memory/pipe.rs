//! One direction of a connection in memory: bytes in, the same bytes out, later and in pieces if the weather says so.

use super::Weather;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll, Waker};
use tokio::io::ReadBuf;
use tokio::time::Instant;

/// Bytes on their way or unread; then the writer waits. What a socket pair on one machine holds, in order of size.
const CAPACITY_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    segments: VecDeque<Segment>,
    queued_bytes: usize,
    /// When the end of the stream arrives, once the writer has ended it.
    ended_at: Option<Instant>,
    /// Both sides get an error from now on, and what was on its way is lost.
    is_reset: bool,
    /// Nobody reads any more.
    is_deaf: bool,
    /// Nothing arrives as long as any reason holds it.
    holds: u32,
    weather: Weather,
    rng: SmallRng,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Segment {
    arrives_at: Instant,
    bytes: Bytes,
}

/// What a reader finds.
pub(super) enum Read {
    Done(io::Result<()>),
    /// Nothing; the reader is woken when that changes.
    Nothing,
    /// Nothing before then.
    NothingBefore(Instant),
}

impl Pipe {
    pub(super) fn new(weather: Weather, seed: u64) -> Self {
        Self(Mutex::new(State {
            segments: VecDeque::new(),
            queued_bytes: 0,
            ended_at: None,
            is_reset: false,
            is_deaf: false,
            holds: 0,
            weather,
            rng: SmallRng::seed_from_u64(seed),
            reader: None,
            writer: None,
        }))
    }

    pub(super) fn read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Read {
        let mut state = self.0.lock();
        if state.is_reset {
            return Read::Done(Err(ErrorKind::ConnectionReset.into()));
        }
        let wait = match state.next_arrival() {
            _ if state.holds > 0 => None,
            Some(at) if at <= Instant::now() => {
                state.deliver(buffer);
                return Read::Done(Ok(()));
            }
            later => later,
        };
        state.reader = Some(cx.waker().clone());
        wait.map_or(Read::Nothing, Read::NothingBefore)
    }

    /// Takes what fits.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().take(bytes)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        match state.take(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            taken => Poll::Ready(taken),
        }
    }

    /// Ready when a write would not block; a broken pipe is ready to say so.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.queued_bytes < CAPACITY_BYTES || state.is_reset || state.is_deaf {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The writer has said all.
    pub(super) fn end(&self) {
        self.change(|state| {
            if state.ended_at.is_none() {
                state.ended_at = Some(state.arrival());
            }
        });
    }

    /// The reader listens no more: what it has not read is lost, and writing fails.
    pub(super) fn deafen(&self) {
        self.change(|state| {
            state.is_deaf = true;
            state.segments.clear();
            state.queued_bytes = 0;
        });
    }

    /// Breaks the direction: what is on its way is lost.
    pub(super) fn reset(&self) {
        self.change(|state| {
            state.is_reset = true;
            state.segments.clear();
            state.queued_bytes = 0;
        });
    }

    /// Holds everything back, for one reason more.
    pub(super) fn hold(&self) {
        self.change(|state| state.holds += 1);
    }

    /// Takes one reason to hold away.
    pub(super) fn release(&self) {
        self.change(|state| state.holds = state.holds.saturating_sub(1));
    }

    fn change(&self, apply: impl FnOnce(&mut State)) {
        let wakers = {
            let mut state = self.0.lock();
            apply(&mut state);
            [state.reader.take(), state.writer.take()]
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl State {
    fn next_arrival(&self) -> Option<Instant> {
        self.segments.front().map(|segment| segment.arrives_at).or(self.ended_at)
    }

    /// When something that is sent now arrives: never before what was sent earlier.
    fn arrival(&mut self) -> Instant {
        let delay_max = self.weather.delay_ms_max;
        let delay = if delay_max == 0 { 0 } else { self.rng.random_range(0..=delay_max) };
        let at = Instant::now() + std::time::Duration::from_millis(delay);
        self.segments.back().map_or(at, |last| at.max(last.arrives_at))
    }

    /// Fills `buffer` from the front; leaves it empty at the end of the stream.
    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let piece_max = self.weather.piece_bytes_max;
        let mut room = buffer.remaining();
        if piece_max < room {
            room = self.rng.random_range(1..=piece_max.max(1));
        }
        let now = Instant::now();
        while room > 0
            && let Some(front) = self.segments.front_mut().filter(|front| front.arrives_at <= now)
        {
            let count = room.min(front.bytes.len());
            buffer.put_slice(&front.bytes[..count]);
            front.bytes.advance(count);
            room -= count;
            self.queued_bytes -= count;
            if front.bytes.is_empty() {
                self.segments.pop_front();
            }
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.is_deaf || self.ended_at.is_some() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(CAPACITY_BYTES - self.queued_bytes);
        if count == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let arrives_at = self.arrival();
        self.segments.push_back(Segment { arrives_at, bytes: Bytes::copy_from_slice(&bytes[..count]) });
        self.queued_bytes += count;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Ok(count)
    }
}
