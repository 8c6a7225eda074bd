//! The mock engine against the clock: a step begins, its time passes, and its tokens leave.

use super::super::ForwardPass;
use super::core::{Core, Late};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use protocol::events::RequestFigures;
use protocol::kv::KvChange;
use sim::batch::Queue;
use sim::timing::{StepShape, Timing};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The timer counts milliseconds: a step that ends sooner is not waited for, and the next one begins at its end by
/// the model, so that a thousand short steps take their time together.
const AHEAD_MAX: Duration = Duration::from_millis(1);

/// Lost time that is made up by the steps that follow: what the timer and the scheduler cost. More than that is a
/// machine that was busy, and catching up with it would be a burst that no engine makes.
const BEHIND_MAX: Duration = Duration::from_millis(5);

/// Between two signs that a long step goes forward.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The task that steps the engine. The lock is held for the beginning or the end of a step, never across an await.
pub(super) struct Steps {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) wake: Arc<Notify>,
    pub(super) stopped: CancellationToken,
    pub(super) changes: mpsc::Sender<KvChange>,
    /// Who wants to know what each step computed, once somebody does.
    pub(super) passes: Arc<OnceLock<mpsc::Sender<ForwardPass>>>,
    pub(super) timing: Timing,
    /// Grows with each step, and with the time that a long one takes.
    pub(super) progress: Arc<AtomicU64>,
}

impl Steps {
    pub(super) async fn run(self) {
        // Last outputs whose readers are behind; their number counts against the engine's sequences.
        let mut late: FuturesUnordered<_> = FuturesUnordered::new();
        let mut ends = Instant::now();
        while !self.stopped.is_cancelled() {
            let Some(step) = self.core.lock().begin() else {
                tokio::select! {
                    biased;
                    () = self.stopped.cancelled() => {}
                    Some(()) = late.next() => self.core.lock().late_delivered(1),
                    () = self.wake.notified() => {}
                }
                ends = Instant::now();
                continue;
            };
            let (began, duration) = (Instant::now(), self.timing.step(&step.shape));
            ends = self.pass(ends, duration).await;
            if self.stopped.is_cancelled() {
                break;
            }
            let ended = self.core.lock().end(&step);
            self.tell(&step.shape, duration.max(began.elapsed()));
            for change in ended.changes {
                // A publisher that is gone takes its routers' index with it: nobody is left to tell.
                if self.changes.send(change).await.is_err() {
                    break;
                }
            }
            late.extend(ended.late.into_iter().map(deliver));
            let mut delivered = 0;
            while let Some(Some(())) = late.next().now_or_never() {
                delivered += 1;
            }
            self.core.lock().late_delivered(delivered);
        }
        self.core.lock().cancel_all();
    }

    /// Lets a step's time pass; `before` is when the step before it ended, by the model. Gives when this one ends.
    async fn pass(&self, before: Instant, duration: Duration) -> Instant {
        let now = Instant::now();
        let end = (before + duration).max(now.checked_sub(BEHIND_MAX).unwrap_or(now));
        if end <= now + AHEAD_MAX {
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                biased;
                () = self.stopped.cancelled() => {}
                () = self.compute(end) => {}
            }
        }
        self.progress.fetch_add(1, Ordering::Relaxed);
        end
    }

    /// What an engine does in a step: it goes forward until `end`.
    async fn compute(&self, end: Instant) {
        while Instant::now() + PROGRESS_EVERY < end {
            tokio::time::sleep(PROGRESS_EVERY).await;
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep_until(end).await;
    }

    fn tell(&self, shape: &StepShape, wall_time: Duration) {
        let Some(passes) = self.passes.get() else { return };
        let queue = self.core.lock().queue();
        let pass = ForwardPass { wall_time, scheduled: scheduled(shape), queued: queued(&queue) };
        // Full: see FORWARD_PASS_QUEUE_LEN. Closed: nobody wants to know any more.
        let _ = passes.try_send(pass);
    }
}

async fn deliver(late: Late) {
    // The reader may be gone; then nobody waits for this.
    let _ = late.sender.send(late.output).await;
}

fn scheduled(shape: &StepShape) -> RequestFigures {
    RequestFigures {
        num_prefill_requests: shape.prefill_lengths.count() as u64,
        sum_prefill_tokens: shape.prefill_tokens as u64,
        var_prefill_length: shape.prefill_lengths.variance(),
        sum_prefill_kv_tokens: Some(shape.prefill_context_tokens as u64),
        num_decode_requests: shape.decode_contexts.count() as u64,
        sum_decode_kv_tokens: shape.decode_contexts.sum() as u64,
        var_decode_kv_tokens: shape.decode_contexts.variance(),
    }
}

fn queued(queue: &Queue) -> RequestFigures {
    RequestFigures {
        num_prefill_requests: queue.new_lengths.count() as u64,
        sum_prefill_tokens: queue.new_lengths.sum() as u64,
        var_prefill_length: queue.new_lengths.variance(),
        sum_prefill_kv_tokens: None,
        num_decode_requests: queue.preempted_lengths.count() as u64,
        sum_decode_kv_tokens: queue.preempted_lengths.sum() as u64,
        var_decode_kv_tokens: queue.preempted_lengths.variance(),
    }
}
