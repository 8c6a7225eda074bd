//! The load of one request on the worker that was chosen for it, and what its stream says of that worker.

use super::WorkerSet;
use crate::lifeline::Lifeline;
use crate::metrics::{AttemptMeter, WorkerMetrics};
use crate::patience::Patience;
use crate::sentry::Sentry;
use crate::vigil::Vigil;
use protocol::ids::WorkerRank;
use router::BookingId;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two notes of a stream on its worker's speed.
const NOTE_EVERY: Duration = Duration::from_millis(250);

/// Load held on a worker until dropped.
pub(crate) struct Booked {
    pub(super) set: Arc<WorkerSet>,
    pub(super) id: BookingId,
    pub(crate) worker: WorkerRank,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) meter: AttemptMeter,
    pub(super) in_prefill: bool,
    /// The request's id, if other frontends were told of it.
    pub(super) told: Option<Box<str>>,
    pub(super) sentry: Arc<Sentry>,
    pub(super) cut: CancellationToken,
    /// Prompt tokens that this request has to compute.
    pub(super) prefill_tokens: u64,
    /// Prompt tokens booked there in all, this request's included.
    pub(super) prefill_ahead: u64,
    pub(super) booked_at: Instant,
    /// Tokens and time since the worker's speed was noted last; from the first token on.
    pub(super) unnoted: Option<(u64, Instant)>,
}

impl Booked {
    /// What is known of the worker's life.
    pub(crate) fn line(&self) -> &Arc<Lifeline> {
        &self.sentry.line
    }

    /// Fires when the worker is found to hang: nothing more will come on a stream that was opened before.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// The watch over the stream that was opened with this booking.
    pub(crate) fn vigil(&self, beat_every: Option<Duration>, token_timeout: Duration) -> Vigil {
        let prefill = self.sentry.line.predict(self.prefill_ahead);
        let patience = Patience { beat_every, prefill, started: false, token_timeout };
        Vigil::new(patience, self.sentry.line.clone(), self.cut.clone())
    }

    /// The prompt is computed: it is no longer load, and the worker is well.
    pub(crate) fn prefill_completed(&mut self) {
        if std::mem::take(&mut self.in_prefill) {
            self.meter.first_token();
            self.sentry.line.learn_pace(self.prefill_tokens, self.booked_at.elapsed());
            let mut state = self.set.state.lock();
            state.loads.mark_prefill_completed(self.id);
            if let Some(member) = state.members.get_mut(&self.worker.worker_id) {
                member.health.served();
            }
            drop(state);
            if let Some((outbox, request_id)) = self.set.outbox.get().zip(self.told.as_deref()) {
                outbox.prefill_completed(request_id, self.worker);
            }
        }
    }

    /// The answer has so many tokens by now; counted only where the router tracks output.
    pub(crate) fn grown_to(&mut self, output_tokens: u64) {
        self.meter.tokens(output_tokens);
        self.note_speed(output_tokens);
        if self.set.router.track_output_blocks && output_tokens.is_multiple_of(u64::from(self.set.block_size.max(1))) {
            self.set.state.lock().loads.grow(self.id, output_tokens);
        }
    }
}

impl Booked {
    /// Notes the worker's speed, some times a second at most: it takes the set's lock.
    fn note_speed(&mut self, output_tokens: u64) {
        let now = Instant::now();
        let Some((before, since)) = self.unnoted else {
            self.unnoted = Some((output_tokens, now));
            return;
        };
        let (tokens, took) = (output_tokens.saturating_sub(before), now.saturating_duration_since(since));
        if tokens > 0 && took >= NOTE_EVERY {
            self.unnoted = Some((output_tokens, now));
            self.set.note_speed(self.worker.worker_id, tokens, took, now);
        }
    }
}

impl Drop for Booked {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.in_prefill && crate::simulation::planted(crate::simulation::Bug::LostBooking) {
            return;
        }
        self.set.state.lock().loads.free(self.id);
        if let Some((outbox, request_id)) = self.set.outbox.get().zip(self.told.as_deref()) {
            outbox.freed(request_id, self.worker);
        }
    }
}
