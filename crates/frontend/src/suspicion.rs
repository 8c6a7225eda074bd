//! One request's part in the hunt for poison, see [`crate::poison`]: what it did before a worker died, and whether it
//! has to be tried alone.

use crate::dispatch::Failure;
use crate::lifeline::{Lifeline, SuspectHere};
use crate::poison::{Content, Poison, Verdict, content_of};
use crate::workers::{Booked, WorkerSet};
use parking_lot::Mutex;
use protocol::ids::InstanceId;
use protocol::request::PreprocessedRequest;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Longest wait until it is known whether a worker whose stream broke is gone, when a request's fate hangs on it. The
/// sentry looks within 0.1 s.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// The same for a request that was never suspected: its answer has to go on. The connections of a process that dies close
/// together, so nobody waits for this; a worker that lives has answered its sentry after 0.1 s.
const SETTLED_SOON: Duration = Duration::from_millis(250);

/// The table, shared by all requests of a frontend. The lock is held for some lookups, never across an await.
pub(crate) type PoisonTable = Arc<Mutex<Poison>>;

/// See the module.
pub(crate) struct Suspicion {
    table: PoisonTable,
    /// Tokens of its own prompt.
    prompt_tokens: usize,
    /// Computed when somebody asks: mostly nobody does.
    content: Option<Content>,
    /// A worker has died on this content, and nothing has cleared it.
    suspected: bool,
    must_be_alone: bool,
    alone: Option<OwnedSemaphorePermit>,
    /// Where it runs.
    place: Option<Place>,
}

struct Place {
    worker: InstanceId,
    line: Arc<Lifeline>,
    losses_before: u64,
    /// Counted on the worker as a suspect.
    counted: Option<SuspectHere>,
    cleared: bool,
}

impl Suspicion {
    /// Of a request that comes in.
    ///
    /// # Errors
    /// It is poison.
    pub(crate) fn of(table: PoisonTable, request: &PreprocessedRequest) -> Result<Self, Failure> {
        let prompt_tokens = request.token_ids.len();
        let mut suspicion = Self {
            table,
            prompt_tokens,
            content: None,
            suspected: false,
            must_be_alone: false,
            alone: None,
            place: None,
        };
        if suspicion.table.lock().is_empty() {
            return Ok(suspicion);
        }
        let content = suspicion.content(request);
        let refused = suspicion.table.lock().refused_for(&content, Instant::now());
        refused.map_or(Ok(suspicion), |left| Err(Failure::Poison { left }))
    }

    /// `request` is the same as ever; what was answered may have joined its prompt.
    fn content(&mut self, request: &PreprocessedRequest) -> Content {
        let prompt_tokens = self.prompt_tokens;
        *self.content.get_or_insert_with(|| content_of(request, prompt_tokens))
    }

    /// Waits until no other suspect is tried, when this one must be alone.
    pub(crate) async fn wait_for_turn(&mut self, workers: &WorkerSet) {
        if self.must_be_alone && self.alone.is_none() {
            // Never closed. If it were, being alone is not worth a lost request.
            self.alone = workers.trial().acquire_owned().await.ok();
        }
    }

    /// It was placed on a worker.
    pub(crate) fn placed(&mut self, booking: &Booked) {
        let line = booking.line().clone();
        let counted = self.suspected.then(|| SuspectHere::enter(line.clone()));
        let losses_before = line.losses();
        self.place = Some(Place { worker: booking.worker.worker_id, line, losses_before, counted, cleared: false });
    }

    /// It made progress, or came to its end.
    pub(crate) fn clear(&mut self, request: &PreprocessedRequest) {
        let Some(place) = &mut self.place else { return };
        if std::mem::replace(&mut place.cleared, true) {
            return;
        }
        place.counted = None;
        self.alone = None;
        (self.suspected, self.must_be_alone) = (false, false);
        if !self.table.lock().is_empty() {
            let content = self.content(request);
            self.table.lock().clear(&content);
        }
    }

    /// Its stream on `worker` broke off.
    ///
    /// # Errors
    /// It is poison.
    pub(crate) async fn judge(&mut self, worker: InstanceId, request: &PreprocessedRequest) -> Result<(), Failure> {
        let Some(place) = self.place.take().filter(|place| place.worker == worker) else { return Ok(()) };
        let within = if self.suspected { SETTLED_WITHIN } else { SETTLED_SOON };
        let died = place.line.lost_since(place.losses_before, within).await;
        if !died {
            return Ok(());
        }
        let others = place.line.suspects_at_loss() > u64::from(place.counted.is_some());
        let content = self.content(request);
        let verdict = self.table.lock().died(content, worker, others, Instant::now());
        self.suspected = true;
        match verdict {
            Verdict::GoOn => Ok(()),
            Verdict::TryAlone => {
                self.must_be_alone = true;
                Ok(())
            }
            Verdict::Poison => {
                tracing::error!(worker_id = %worker, %content, "workers died on this request: it is refused");
                Err(Failure::Poison { left: crate::poison::REFUSED_FOR })
            }
        }
    }
}
