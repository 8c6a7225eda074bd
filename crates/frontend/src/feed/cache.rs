//! Follows the cache of one worker rank: subscribe, ask for all that is stored, then apply event by event; a hole in
//! the numbers is asked for at once.

use crate::dispatch::probe;
use crate::health::Fault;
use crate::metrics::Metrics;
use crate::workers::WorkerSet;
use prometheus_client::metrics::gauge::Gauge;
use protocol::discovery::EndpointRecord;
use protocol::events::{KV_EVENTS, RecoveryAnswer, RecoveryQuery};
use protocol::ids::{EndpointId, WorkerRank};
use protocol::kv::{KvChange, WorkerKvEvent};
use router::Applied;
use runtime::event_plane::{Envelope, Subscriber};
use runtime::request_plane::RequestClient;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a recovery answer: the dump of a full cache is one big frame.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a dump before going on without: the blocks stored before then stay unknown.
const DUMP_TRIES: u32 = 4;
/// Longest wait for the subscription before the dump is asked for all the same.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
/// Silence after which the worker is asked once whether anything was missed.
const QUIET: Duration = Duration::from_secs(2);
/// Wait before another try; grows with the tries.
const RETRY: Duration = Duration::from_millis(250);

enum Event {
    Message(Envelope),
    Reconnected,
    Lost,
    Quiet,
    Closed,
}

/// What one follower needs.
pub(super) struct Follow {
    pub(super) workers: Arc<WorkerSet>,
    pub(super) worker: WorkerRank,
    /// `tcp://HOST:PORT` of the publisher.
    pub(super) endpoint: String,
    /// Whom to ask for what was missed.
    pub(super) recovery: EndpointRecord,
    pub(super) client: RequestClient,
    pub(super) counts: Counts,
}

/// `dynamo_component_kv_cache_events_applied` of one endpoint, by kind and outcome.
pub(super) struct Counts {
    stored: [Gauge; 2],
    removed: [Gauge; 2],
    cleared: [Gauge; 2],
}

impl Counts {
    pub(super) fn new(metrics: &Metrics, endpoint: &EndpointId) -> Self {
        let router = format!("{:x}", metrics.router_id);
        let of = |kind: &str| {
            ["ok", "error"].map(|status| {
                metrics.kv_events_applied.with(&[&endpoint.namespace, &endpoint.component, status, &router, kind])
            })
        };
        Self { stored: of("stored"), removed: of("removed"), cleared: of("cleared") }
    }

    fn count(&self, change: &KvChange, applied: bool) {
        let [ok, failed] = match change {
            KvChange::Stored(_) => &self.stored,
            KvChange::Removed(_) => &self.removed,
            KvChange::Cleared => &self.cleared,
        };
        if applied {
            ok.inc()
        } else {
            failed.inc()
        };
    }
}

impl Follow {
    /// Follows until the task is dropped.
    pub(super) async fn run(self) {
        match Subscriber::connect(&self.endpoint, KV_EVENTS).await {
            Ok(subscriber) => self.follow(subscriber).await,
            Err(error) => tracing::warn!(worker_id = %self.worker.worker_id, %error, "subscribe to KV events"),
        }
    }

    async fn follow(&self, mut subscriber: Subscriber) {
        // Subscribe first: what is published while the dump is made waits in the subscriber's queue. A publisher that
        // does not answer must not keep the dump away, so the wait is bounded.
        let _ = tokio::time::timeout(SUBSCRIBE_WAIT, subscriber.subscribed()).await;
        let mut connections = subscriber.connections();
        connections.mark_unchanged();
        let mut losses = subscriber.losses();
        self.dump().await;
        let mut unchecked = false;
        loop {
            let event = tokio::select! {
                envelope = subscriber.next() => envelope.map_or(Event::Closed, Event::Message),
                Ok(()) = connections.changed() => Event::Reconnected,
                Ok(()) = losses.changed() => Event::Lost,
                () = tokio::time::sleep(QUIET), if unchecked => Event::Quiet,
            };
            match event {
                Event::Closed => return,
                Event::Message(envelope) => {
                    self.take_message(&envelope).await;
                    unchecked = true;
                }
                // A dead process closes this connection at once, long before its record expires: out of routing
                // until it is reached again.
                Event::Lost => {
                    let worker = self.worker.worker_id;
                    if self.workers.fault(worker, Fault::Lost) {
                        tracing::warn!(worker_id = %worker, "a worker's event connection is lost: out of routing until it is reached");
                        probe(self.workers.clone(), worker).await;
                    }
                }
                // What was published in between is lost. The last events of a burst may be, too, and no later
                // number would tell: one question after each burst settles it.
                Event::Reconnected | Event::Quiet => {
                    self.fill(self.workers.next_event_id(self.worker)).await;
                    unchecked = false;
                }
            }
        }
    }

    async fn take_message(&self, envelope: &Envelope) {
        match envelope.decode::<Vec<WorkerKvEvent>>() {
            Ok(events) => {
                for event in &events {
                    self.take(event).await;
                }
            }
            Err(error) => {
                tracing::warn!(worker_id = %self.worker.worker_id, %error, "a KV event message does not decode");
            }
        }
    }

    /// Applies one event; a hole before it is filled first.
    async fn take(&self, event: &WorkerKvEvent) {
        let rank = WorkerRank { worker_id: event.worker_id, dp_rank: event.event.dp_rank };
        if rank != self.worker {
            tracing::debug!(worker_id = %event.worker_id, "a KV event of another worker came from this publisher");
            return;
        }
        let applied = self.workers.apply(event);
        let Applied::Gap { expected, got } = applied else {
            self.counts.count(&event.event.data, !matches!(applied, Applied::ParentUnknown));
            return;
        };
        tracing::info!(worker_id = %self.worker.worker_id, expected, got, "KV events were missed");
        self.workers.count_gap(self.worker);
        if !self.fill(expected).await {
            self.workers.resume_after(self.worker, got.saturating_sub(1));
        }
        // Part of what was just recovered, or the next one after it.
        if let Applied::Gap { got, .. } = self.workers.apply(event) {
            self.workers.resume_after(self.worker, got.saturating_sub(1));
            self.workers.apply(event);
        }
        self.counts.count(&event.event.data, true);
    }

    /// Asks for all that is stored.
    async fn dump(&self) {
        for attempt in 1..=DUMP_TRIES {
            match self.ask(None).await {
                Ok(answer) => {
                    self.apply_answer(answer);
                    return;
                }
                Err(error) => {
                    tracing::debug!(worker_id = %self.worker.worker_id, attempt, error, "ask for the KV cache's content");
                    tokio::time::sleep(RETRY * attempt).await;
                }
            }
        }
        tracing::warn!(worker_id = %self.worker.worker_id, "the worker does not tell what is cached; going on with what comes");
    }

    /// Asks for the events from `start` on. `false` when they cannot be had.
    async fn fill(&self, start: u64) -> bool {
        match self.ask(Some(start)).await {
            Ok(answer) => self.apply_answer(answer),
            Err(error) => {
                tracing::warn!(worker_id = %self.worker.worker_id, error, "missed KV events cannot be recovered");
                false
            }
        }
    }

    fn apply_answer(&self, answer: RecoveryAnswer) -> bool {
        match answer {
            RecoveryAnswer::TreeDump { events, last_event_id, .. } => {
                self.workers.apply_dump(self.worker, &events, last_event_id);
                for event in &events {
                    self.counts.count(&event.event.data, true);
                }
                true
            }
            RecoveryAnswer::Events { events, .. } => {
                for event in &events {
                    let applied = self.workers.apply(event);
                    self.counts
                        .count(&event.event.data, !matches!(applied, Applied::Gap { .. } | Applied::ParentUnknown));
                }
                true
            }
            RecoveryAnswer::TreeDumpFailed { last_event_id, message } => {
                tracing::warn!(worker_id = %self.worker.worker_id, message, "the worker could not dump its cache");
                self.workers.apply_dump(self.worker, &[], last_event_id);
                true
            }
            // There is nothing after what we have.
            RecoveryAnswer::TooNew { requested_start, newest_available, .. } => {
                requested_start.is_none_or(|start| newest_available + 1 >= start)
            }
            RecoveryAnswer::InvalidRange { .. } | RecoveryAnswer::Error(_) => false,
        }
    }

    async fn ask(&self, start_event_id: Option<u64>) -> Result<RecoveryAnswer, String> {
        let query = RecoveryQuery {
            worker_id: self.worker.worker_id,
            dp_rank: self.worker.dp_rank,
            start_event_id,
            end_event_id: None,
            supports_tree_dump_failed: true,
            kind: "recovery".into(),
        };
        let id = uuid::Uuid::new_v4().to_string();
        let exchange = async {
            let mut stream = self.client.send(&self.recovery, &id, &query).await.map_err(|e| e.to_string())?;
            let answer = stream.next_raw::<RecoveryAnswer>().await.ok_or("the worker answered nothing")?;
            let answer = answer.map_err(|e| e.to_string())?;
            // Read to the end, so that the worker is not sent a needless "kill".
            while stream.next_raw::<RecoveryAnswer>().await.is_some_and(|more| more.is_ok()) {}
            Ok(answer)
        };
        tokio::time::timeout(RECOVERY_TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer in time".into()))
    }
}
