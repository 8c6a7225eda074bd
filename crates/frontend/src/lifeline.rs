//! What a worker's streams and its sentry share: when it was heard, how fast it is, whether it was lost.

use crate::patience::Pace;
use crate::pulse::Signs;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// See the module. Streams write it with every item, so that part takes no lock.
#[derive(Debug)]
pub(crate) struct Lifeline {
    /// Anything at all.
    signs: Signs,
    /// Outputs of any stream.
    outputs: Signs,
    pace: Mutex<Pace>,
    cut: Mutex<CancellationToken>,
    standing: Mutex<Standing>,
    /// Rung when `standing` changed. Those who wait are woken in the order in which they came.
    changed: Notify,
    /// Requests there on which a worker died before, see [`crate::poison`].
    suspects: AtomicU64,
    suspects_at_loss: AtomicU64,
}

/// How often a worker was lost and found.
#[derive(Clone, Copy, Debug)]
struct Standing {
    up: bool,
    losses: u64,
    answers: u64,
}

impl Lifeline {
    /// Of a worker that is as good as heard now: its record has just come.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            signs: Signs::new(now),
            outputs: Signs::new(now),
            pace: Mutex::default(),
            cut: Mutex::default(),
            standing: Mutex::new(Standing { up: true, losses: 0, answers: 0 }),
            changed: Notify::new(),
            suspects: AtomicU64::new(0),
            suspects_at_loss: AtomicU64::new(0),
        }
    }

    /// Something came from the worker at `now`; `output` says whether it was tokens or the end of a stream.
    pub(crate) fn hear(&self, now: Instant, output: bool) {
        self.signs.hear(now);
        if output {
            self.outputs.hear(now);
        }
    }

    /// When anything came from it last.
    pub(crate) fn last_heard(&self) -> Instant {
        self.signs.last()
    }

    /// When an output came last on any of its streams.
    pub(crate) fn last_output(&self) -> Instant {
        self.outputs.last()
    }

    /// A prompt with `tokens` to compute had its first token `after` it was sent.
    pub(crate) fn learn_pace(&self, tokens: u64, after: Duration) {
        self.pace.lock().learn(tokens, after);
    }

    /// How long `tokens` of prompts take there; `None` while nothing is known.
    pub(crate) fn predict(&self, tokens: u64) -> Option<Duration> {
        self.pace.lock().predict(tokens)
    }

    /// Fires when the worker is found to hang from now on.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.lock().clone()
    }

    /// Cuts the streams that were opened until now.
    pub(crate) fn cut_streams(&self) {
        let cut = std::mem::take(&mut *self.cut.lock());
        cut.cancel();
    }

    /// How often the worker's process was lost.
    pub(crate) fn losses(&self) -> u64 {
        self.standing.lock().losses
    }

    /// Whether the process was lost since `losses` was read. Waits until the sentry has looked, `within` at most; what
    /// is not known then was not lost.
    pub(crate) async fn lost_since(&self, losses: u64, within: Duration) -> bool {
        let answers = self.standing.lock().answers;
        let settled = async {
            loop {
                // Before the look: a change after it is not missed.
                let changed = self.changed.notified();
                let now = *self.standing.lock();
                if now.losses > losses || now.answers > answers {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(within, settled).await.is_ok();
        self.losses() > losses
    }

    /// The process is gone.
    pub(crate) fn lose(&self) {
        let mut standing = self.standing.lock();
        if standing.up {
            self.suspects_at_loss.store(self.suspects.load(Ordering::Relaxed), Ordering::Relaxed);
            (standing.up, standing.losses) = (false, standing.losses + 1);
            drop(standing);
            self.changed.notify_waiters();
        }
    }

    /// It answers on a new connection.
    pub(crate) fn answer(&self) {
        self.hear(Instant::now(), false);
        let mut standing = self.standing.lock();
        (standing.up, standing.answers) = (true, standing.answers + 1);
        drop(standing);
        self.changed.notify_waiters();
    }

    /// Suspects that ran on the worker when it was lost last.
    pub(crate) fn suspects_at_loss(&self) -> u64 {
        self.suspects_at_loss.load(Ordering::Relaxed)
    }
}

/// A suspect in the count of its worker, until dropped.
#[derive(Debug)]
pub(crate) struct SuspectHere(Arc<Lifeline>);

impl SuspectHere {
    /// One more.
    pub(crate) fn enter(line: Arc<Lifeline>) -> Self {
        line.suspects.fetch_add(1, Ordering::Relaxed);
        Self(line)
    }
}

impl Drop for SuspectHere {
    fn drop(&mut self) {
        self.0.suspects.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_counted_once_until_the_worker_answers_and_with_the_suspects_of_that_moment() {
        let line = Arc::new(Lifeline::new());
        let before = line.losses();
        let suspects: Vec<_> = (0..3).map(|_| SuspectHere::enter(line.clone())).collect();
        line.lose();
        drop(suspects);
        line.lose();
        assert!(line.lost_since(before, Duration::ZERO).await);
        assert_eq!((line.losses(), line.suspects_at_loss()), (1, 3));
        let since = line.losses();
        line.answer();
        assert!(!line.lost_since(since, Duration::from_secs(1)).await);
        line.lose();
        assert!(line.lost_since(since, Duration::ZERO).await);
        assert_eq!(line.suspects_at_loss(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whether_it_was_lost_is_known_when_the_sentry_has_looked_and_else_after_a_while() {
        let line = Arc::new(Lifeline::new());
        let began = Instant::now();
        assert!(!line.lost_since(0, Duration::from_secs(1)).await);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        let (lost, ()) = tokio::join!(line.lost_since(0, Duration::from_secs(60)), async { line.answer() });
        assert!(!lost);
        let (lost, ()) = tokio::join!(line.lost_since(0, Duration::from_secs(60)), async { line.lose() });
        assert!(lost);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
