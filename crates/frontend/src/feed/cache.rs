//! Follows the cache of one worker rank: subscribe, ask for all that is stored, then apply event by event; a hole in
//! the numbers is asked for at once.

use crate::health::Fault;
use crate::metrics::Metrics;
use crate::workers::WorkerSet;
use prometheus_client::metrics::gauge::Gauge;
use protocol::discovery::{EndpointRecord, EventChannelRecord};
use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::ids::{EndpointId, WorkerRank};
use protocol::kv::{KvChange, WorkerKvEvent};
use router::Applied;
use runtime::event_plane::{Envelope, Subscriber};
use runtime::nats::Nats;
use runtime::request_plane::RequestClient;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for a recovery answer: the dump of a full cache is one big frame.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a dump before going on without: the blocks stored before then stay unknown.
const DUMP_TRIES: u32 = 4;
/// Blocks of a dump that are applied under one hold of the router's lock: about 0.2 ms, so that no request waits longer
/// for it. A full cache has some 10⁵.
const DUMP_BLOCKS_AT_ONCE: usize = 1_024;
/// Longest wait for the subscription before the dump is asked for all the same.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
/// Silence after which the worker is asked once whether anything was missed; while the broker of its events is away,
/// how often it is asked.
const QUIET: Duration = Duration::from_secs(2);
/// Silence of a worker behind a broker after which it is asked again and again: its own connection to the broker may
/// be cut while ours holds, and nothing would tell.
const UNHEARD: Duration = Duration::from_secs(20);
/// Wait before another try; grows with the tries.
const RETRY: Duration = Duration::from_millis(250);
/// Wait before the whole cache is asked for again, when something of it could not be had; doubles to the longest. What
/// is missing costs hits and no answer, and a worker that never tells should not be asked often.
const REDO_FIRST: Duration = Duration::from_secs(2);
const REDO_MAX: Duration = Duration::from_secs(60);

enum Event {
    Message(Envelope),
    Reconnected,
    Lost,
    CutOrHealed,
    Quiet,
    Redo,
    Closed,
}

/// What one follower needs.
pub(super) struct Follow {
    pub(super) workers: Arc<WorkerSet>,
    pub(super) worker: WorkerRank,
    /// Where its events are published.
    pub(super) channel: EventChannelRecord,
    pub(super) nats: Nats,
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

/// Whether something of the cache is missing for good, and when all of it is asked for again.
#[derive(Default)]
struct Doubt(Option<(Instant, Duration)>);

impl Doubt {
    fn note(&mut self, is_whole: bool) {
        if !is_whole && self.0.is_none() {
            self.0 = Some((Instant::now() + REDO_FIRST, REDO_FIRST));
        }
    }

    fn put_off(&mut self) {
        let wait = self.0.map_or(REDO_FIRST, |(_, wait)| wait * 2).min(REDO_MAX);
        self.0 = Some((Instant::now() + wait, wait));
    }

    /// Never, as long as nothing is missing.
    async fn due(&self) {
        match self.0 {
            Some((at, _)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl Follow {
    /// Follows until the task is dropped.
    pub(super) async fn run(self) {
        match Subscriber::follow(self.client.world(), &self.channel, &self.nats).await {
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
        let mut links = subscriber.links();
        let mut doubt = Doubt::default();
        doubt.note(self.dump().await);
        // A broker may take our subscription a moment later than the worker made its dump.
        let mut unchecked = subscriber.is_brokered();
        loop {
            let silence = silence_of(subscriber.is_brokered(), *links.borrow_and_update(), unchecked);
            let event = tokio::select! {
                // The rare before the frequent: a flood of events must not hide that the worker is gone.
                biased;
                Ok(()) = losses.changed() => Event::Lost,
                Ok(()) = connections.changed() => Event::Reconnected,
                Ok(()) = links.changed() => Event::CutOrHealed,
                () = doubt.due() => Event::Redo,
                envelope = subscriber.next() => envelope.map_or(Event::Closed, Event::Message),
                () = tokio::time::sleep(silence.unwrap_or_default()), if silence.is_some() => Event::Quiet,
            };
            match event {
                Event::Closed => return,
                Event::Message(envelope) => {
                    doubt.note(self.take_message(&envelope).await);
                    unchecked = true;
                }
                // A dead process closes this connection at once, long before its record expires: out of routing
                // until it answers.
                Event::Lost => {
                    let worker = self.worker.worker_id;
                    if self.workers.fault(worker, Fault::Lost) {
                        tracing::warn!(worker_id = %worker, "a worker's event connection is lost: out of routing until it answers");
                    }
                }
                // The broker went or came: how long a silence may be is another question now.
                Event::CutOrHealed => {}
                // What was published in between is lost. The last events of a burst may be, too, and no later
                // number would tell: one question after each burst settles it.
                Event::Reconnected | Event::Quiet => {
                    doubt.note(self.fill(self.workers.next_event_id(self.worker)).await);
                    unchecked = false;
                }
                // A hole that could not be filled is closed by the whole: it would stay for ever otherwise.
                Event::Redo => match self.dump_once().await {
                    true => doubt = Doubt::default(),
                    false => doubt.put_off(),
                },
            }
        }
    }

    /// `false` when events are missing for good.
    async fn take_message(&self, envelope: &Envelope) -> bool {
        let mut whole = true;
        match envelope.decode::<Vec<WorkerKvEvent>>() {
            Ok(events) => {
                for event in &events {
                    whole &= self.take(event).await;
                }
            }
            Err(error) => {
                tracing::warn!(worker_id = %self.worker.worker_id, %error, "a KV event message does not decode");
            }
        }
        whole
    }

    /// Applies one event; a hole before it is filled first. `false` when it could not be.
    async fn take(&self, event: &WorkerKvEvent) -> bool {
        let rank = WorkerRank { worker_id: event.worker_id, dp_rank: event.event.dp_rank };
        if rank != self.worker {
            tracing::debug!(worker_id = %event.worker_id, "a KV event of another worker came from this publisher");
            return true;
        }
        let applied = self.workers.apply(event);
        let Applied::Gap { expected, got } = applied else {
            self.counts.count(&event.event.data, !matches!(applied, Applied::ParentUnknown));
            return true;
        };
        #[cfg(test)]
        if crate::simulation::planted(crate::simulation::Bug::DroppedEvent) {
            self.workers.resume_after(self.worker, got);
            return true;
        }
        tracing::info!(worker_id = %self.worker.worker_id, expected, got, "KV events were missed");
        self.workers.count_gap(self.worker);
        let mut whole = self.fill(expected).await;
        if !whole {
            self.workers.resume_after(self.worker, got.saturating_sub(1));
        }
        // Part of what was just recovered, or the next one after it.
        if let Applied::Gap { got, .. } = self.workers.apply(event) {
            self.workers.resume_after(self.worker, got.saturating_sub(1));
            self.workers.apply(event);
            whole = false;
        }
        self.counts.count(&event.event.data, true);
        whole
    }

    /// Asks for all that is stored. `false` when it cannot be had.
    async fn dump(&self) -> bool {
        for attempt in 1..=DUMP_TRIES {
            match self.ask(None).await {
                Ok(answer) => return self.apply_answer(answer).await,
                Err(error) => {
                    tracing::debug!(worker_id = %self.worker.worker_id, attempt, error, "ask for the KV cache's content");
                    tokio::time::sleep(RETRY * attempt).await;
                }
            }
        }
        tracing::warn!(worker_id = %self.worker.worker_id, "the worker does not tell what is cached; going on with what comes");
        false
    }

    /// As `dump`, but tried once and without a word in the log.
    async fn dump_once(&self) -> bool {
        match self.ask(None).await {
            Ok(answer) => self.apply_answer(answer).await,
            Err(_) => false,
        }
    }

    /// Asks for the events from `start` on. `false` when they cannot be had.
    async fn fill(&self, start: u64) -> bool {
        match self.ask(Some(start)).await {
            Ok(answer) => self.apply_answer(answer).await,
            Err(error) => {
                tracing::warn!(worker_id = %self.worker.worker_id, error, "missed KV events cannot be recovered");
                false
            }
        }
    }

    async fn apply_answer(&self, answer: RecoveryAnswer) -> bool {
        match answer {
            RecoveryAnswer::TreeDump { events, last_event_id, .. } => {
                self.apply_dump(&events, last_event_id).await;
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
                self.apply_dump(&[], last_event_id).await;
                true
            }
            // There is nothing after what we have.
            RecoveryAnswer::TooNew { requested_start, newest_available, .. } => {
                requested_start.is_none_or(|start| newest_available + 1 >= start)
            }
            RecoveryAnswer::InvalidRange { .. } | RecoveryAnswer::Error(_) => false,
        }
    }

    /// Replaces what is known by a dump, part by part. This task alone applies the rank's events, so none comes between.
    async fn apply_dump(&self, events: &[WorkerKvEvent], last_event_id: u64) {
        self.workers.begin_dump(self.worker);
        for part in parts_of(events, DUMP_BLOCKS_AT_ONCE) {
            self.workers.add_dumped(self.worker, part);
            for event in part {
                self.counts.count(&event.event.data, true);
            }
            tokio::task::yield_now().await;
        }
        self.workers.resume_after(self.worker, last_event_id);
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

/// How long a silence may be before the worker is asked whether anything was missed.
fn silence_of(brokered: bool, linked: bool, unchecked: bool) -> Option<Duration> {
    match (unchecked || !linked, brokered) {
        (true, _) => Some(QUIET),
        (false, true) => Some(UNHEARD),
        // A connection to the worker itself that holds and is quiet has nothing to tell.
        (false, false) => None,
    }
}

/// `events` in parts of at most `blocks_max` blocks; a single event over it is a part of its own.
fn parts_of(events: &[WorkerKvEvent], blocks_max: usize) -> Vec<&[WorkerKvEvent]> {
    let blocks_of = |event: &WorkerKvEvent| match &event.event.data {
        KvChange::Stored(stored) => stored.blocks.len(),
        KvChange::Removed(removed) => removed.block_hashes.len(),
        KvChange::Cleared => 1,
    };
    let (mut parts, mut start, mut blocks) = (Vec::new(), 0, 0);
    for (at, event) in events.iter().enumerate() {
        let more = blocks_of(event).max(1);
        if at > start && blocks + more > blocks_max {
            parts.push(&events[start..at]);
            (start, blocks) = (at, 0);
        }
        blocks += more;
    }
    if start < events.len() {
        parts.push(&events[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::InstanceId;
    use protocol::kv::{BlockHash, KvEvent, RemovedBlocks, StorageTier};

    fn event(event_id: u64, blocks: usize) -> WorkerKvEvent {
        let block_hashes = (0..blocks as u64).map(BlockHash).collect();
        let event = KvEvent { event_id, data: KvChange::Removed(RemovedBlocks { block_hashes }), dp_rank: 0 };
        WorkerKvEvent { worker_id: InstanceId(1), storage_tier: StorageTier::Device, residency_domain: None, event }
    }

    #[test]
    fn a_silence_is_asked_about_after_a_burst_and_over_a_broker_again_and_again() {
        for (brokered, linked, unchecked, expected) in [
            (false, true, false, None),
            (false, true, true, Some(QUIET)),
            (true, true, true, Some(QUIET)),
            (true, true, false, Some(UNHEARD)),
            // While the broker is away the worker is asked in its place.
            (true, false, false, Some(QUIET)),
        ] {
            assert_eq!(silence_of(brokered, linked, unchecked), expected, "{brokered} {linked} {unchecked}");
        }
    }

    #[test]
    fn a_dump_is_cut_into_parts_that_hold_all_of_it_in_order_and_few_blocks_each() {
        let check = |blocks: &[usize], expected: &[&[u64]]| {
            let events: Vec<WorkerKvEvent> = blocks.iter().enumerate().map(|(at, &n)| event(at as u64, n)).collect();
            let parts = parts_of(&events, 10);
            let ids: Vec<Vec<u64>> =
                parts.iter().map(|part| part.iter().map(|event| event.event.event_id).collect()).collect();
            assert_eq!(ids, expected);
        };
        check(&[], &[]);
        check(&[4, 6, 1], &[&[0, 1], &[2]]);
        check(&[25, 1, 1], &[&[0], &[1, 2]]);
        check(&[1, 25, 0], &[&[0], &[1], &[2]]);
        check(&[3, 3, 3, 3, 3], &[&[0, 1, 2], &[3, 4]]);
    }
}
