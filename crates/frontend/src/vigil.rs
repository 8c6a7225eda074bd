//! The watch over one running stream: when it is to be given up, and why.
//!
//! One timer and one subscription a stream, made once: a token moves neither.

use crate::dispatch::hung;
use crate::health::Fault;
use crate::lifeline::Lifeline;
use crate::patience::{Heard, Patience};
use runtime::request_plane::{ErrorClass, RequestError};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What a stream has left once its time is over. The frontend may have been held up itself: what waits in its sockets
/// is read meanwhile.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Vigil {
    patience: Patience,
    heard: Heard,
    line: Arc<Lifeline>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Pin<Box<Sleep>>,
    /// Its time is over, and this was heard until then.
    suspect: Option<Heard>,
}

/// Why a stream is given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    /// What it says of the worker.
    pub(crate) fault: Fault,
    /// What it says of the request.
    pub(crate) error: RequestError,
}

impl Vigil {
    /// Over a stream that begins now on the worker of `line`; `cut` fires when that one hangs.
    pub(crate) fn new(patience: Patience, line: Arc<Lifeline>, cut: CancellationToken) -> Self {
        let now = Instant::now();
        let heard = Heard { stream: now, output: now, worker: now };
        let timer = Box::pin(tokio::time::sleep_until(patience.deadline(&heard)));
        Self { patience, heard, line, cut: Box::pin(cut.cancelled_owned()), timer, suspect: None }
    }

    /// Something came: an output, or a beat.
    pub(crate) fn hear(&mut self, output: bool) {
        let now = Instant::now();
        self.heard.stream = now;
        self.line.hear(now, output);
        if output {
            self.heard.output = now;
            if !std::mem::replace(&mut self.patience.started, true) {
                // Its time may be shorter from now on.
                self.timer.as_mut().reset(self.patience.deadline(&self.heard));
            }
        }
    }

    /// Resolves when the stream is to be given up. Cancel-safe. Ask the stream first: what is there is not missing.
    pub(crate) async fn broken(&mut self) -> GivenUp {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<GivenUp> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(GivenUp { fault: Fault::Hung, error: hung() });
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.heard.worker = self.line.last_output().max(self.heard.worker);
            let deadline = self.patience.deadline(&self.heard);
            if now < deadline {
                self.suspect = None;
                self.timer.as_mut().reset(deadline);
            } else if self.suspect == Some(self.heard) {
                return Poll::Ready(self.given_up(now));
            } else {
                self.suspect = Some(self.heard);
                self.timer.as_mut().reset(now + LAST_CHANCE);
            }
        }
        Poll::Pending
    }

    fn given_up(&self, now: Instant) -> GivenUp {
        let silent = (now - self.heard.stream).as_secs();
        let expected = match self.patience.beat_every {
            Some(_) => "its engine has stopped to go forward",
            None => "nothing came on any of its streams",
        };
        let message = format!("the worker sent nothing for {silent} s: {expected}");
        GivenUp { fault: Fault::Stalled, error: RequestError::new(ErrorClass::ResponseTimeout, message) }
    }
}

#[cfg(test)]
#[path = "vigil_tests.rs"]
mod tests;
