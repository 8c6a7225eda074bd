//! A client's socket that may not stall in either direction.
//!
//! Reading: while a head is awaited, [`Turn`] says by when. Writing: a client that stops reading would hold its stream,
//! and the engine behind it, for as long as it likes, because an answer that cannot be written is not polled.

use super::turns::Turn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A socket whose reads fail once the client's turn is over, and whose writes fail once none has made progress for a
/// while.
pub(super) struct StallGuard<S> {
    socket: S,
    turn: Arc<Turn>,
    stall_max: Duration,
    /// Runs while a head is awaited, until the time beside it.
    head: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> StallGuard<S> {
    /// `stall_max`: longest time in which the client takes nothing of what is written to it.
    pub(super) fn new(socket: S, turn: Arc<Turn>, stall_max: Duration) -> Self {
        Self { socket, turn, stall_max, head: None, stalled: None }
    }

    /// Ready once the client's turn is over without a word.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.turn.due() else {
            self.head = None;
            return Poll::Pending;
        };
        let (until, sleep) = self.head.get_or_insert_with(|| (due, Box::pin(tokio::time::sleep_until(due))));
        if *until != due {
            *until = due;
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let end = Instant::now() + self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client has stopped reading")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.turn.heard();
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.poll_due(cx));
                Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "no request came in time")))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) && self.turn.flushed() {
            // Nobody may look at the socket before more comes: the clock is started here. It cannot have run out yet.
            let _ = self.poll_due(cx);
        }
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::turns::{Patience, Turns};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const HEAD: u64 = 10;
    const IDLE: u64 = 75;
    /// Time is paused: without the guard this cap is what ends a wait, at once.
    const CAP: Duration = Duration::from_secs(3600);

    fn guarded(room: usize) -> (StallGuard<DuplexStream>, Arc<Turn>, DuplexStream) {
        let (near, far) = tokio::io::duplex(room);
        let patience = Patience { head: Duration::from_secs(HEAD), idle: Duration::from_secs(IDLE) };
        let turn = Arc::new(Turns::default()).begin(patience);
        (StallGuard::new(near, turn.clone(), Duration::from_secs(30)), turn, far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (mut guarded, _turn, mut far) = guarded(4);
        guarded.write_all(b"full").await.unwrap();
        let slow = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(25)).await;
                far.read_exact(&mut [0; 4]).await.unwrap();
            }
            far
        });
        guarded.write_all(b"three times").await.unwrap();
        let _far = slow.await.unwrap();
        let start = Instant::now();
        let written = tokio::time::timeout(CAP, guarded.write_all(b"and no more")).await;
        let error = written.expect("the guard ends a write that nobody takes").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    /// Reads until the guard gives up, and says after how many seconds.
    async fn given_up_after(guarded: &mut StallGuard<DuplexStream>) -> u64 {
        let start = Instant::now();
        let read = tokio::time::timeout(CAP, guarded.read_to_end(&mut Vec::new())).await;
        assert_eq!(read.expect("the guard ends the read").unwrap_err().kind(), ErrorKind::TimedOut);
        start.elapsed().as_secs()
    }

    /// Scenario 55: a head in drops.
    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_is_cut_off_at_its_bound_however_often_a_byte_comes() {
        let (mut guarded, _turn, mut far) = guarded(64);
        let drip = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(given_up_after(&mut guarded).await, HEAD);
        drop(guarded);
        drip.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_connection_may_idle_for_longer_and_a_running_request_has_no_clock_here() {
        let (mut guarded, turn, _far) = guarded(64);
        turn.take();
        let hour = tokio::time::timeout(CAP, guarded.read_u8()).await;
        assert!(hour.is_err(), "nothing is due while the request is ours");
        turn.answered();
        guarded.flush().await.unwrap();
        assert_eq!(given_up_after(&mut guarded).await, IDLE);
    }
}
