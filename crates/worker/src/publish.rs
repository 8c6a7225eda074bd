//! What a worker tells the routers: its cache's changes, its load, and prompts that are done.
//!
//! Each function is the body of one owned task; it ends when its source ends or its task is cancelled.

use crate::engine::{Engine, EngineLoad};
use crate::indexer::Mirror;
use parking_lot::Mutex;
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, ActiveSequencesMessage, KvMetrics};
use protocol::ids::WorkerRank;
use protocol::kv::{KvChange, WorkerKvEvent};
use runtime::event_plane::{EventError, Publisher};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Cache changes in one message. A burst (a long prompt, an eviction) costs one frame and one wake-up of each
/// router; the rest waits a moment in the engine's queue.
const CHANGES_PER_MESSAGE: usize = 128;

/// Prompts that may be done and not yet published. A dropped notice leaves a router counting that prompt as load
/// until the request ends, so dropping is better than holding the answer's stream up.
pub(crate) const PREFILL_QUEUE_LEN: usize = 4096;

/// Least time between two load messages: at most 20 a second, however often the load changes.
const LOAD_INTERVAL: Duration = Duration::from_millis(50);

/// An unchanged load is said again after this time: the event plane keeps nothing, so a router that came later
/// would otherwise take a busy, steady worker for an idle one.
const LOAD_REPEAT: Duration = Duration::from_secs(5);

/// Gives every change of the cache to the mirror and then to the routers, in order, until the engine stops.
pub(crate) async fn relay_changes(
    mut changes: mpsc::Receiver<KvChange>,
    mirror: Arc<Mutex<Mirror>>,
    publisher: Publisher,
    load_changed: Arc<Notify>,
) {
    let mut batch = Vec::with_capacity(CHANGES_PER_MESSAGE);
    while changes.recv_many(&mut batch, CHANGES_PER_MESSAGE).await > 0 {
        // Mirror first: a router that asks between the two learns of these events early and skips them by id later.
        let events: Vec<WorkerKvEvent> = {
            let mut mirror = mirror.lock();
            batch.drain(..).map(|change| mirror.apply(change)).collect()
        };
        publish(&publisher, &events).await;
        load_changed.notify_one();
    }
}

/// Publishes the engine's load when it changed, at most every [`LOAD_INTERVAL`] and always its last state.
///
/// `changed` is rung whenever the load may have changed while the engine was idle; a busy engine is looked at every
/// interval anyway.
pub(crate) async fn report_load(
    engine: Arc<dyn Engine>,
    worker: WorkerRank,
    publisher: Publisher,
    changed: Arc<Notify>,
) {
    let mut watch = LoadWatch::default();
    loop {
        let metrics = watch.next(&*engine, worker, &changed).await;
        publish(&publisher, &metrics).await;
    }
}

/// The load as it was told last.
#[derive(Default)]
struct LoadWatch {
    told: Option<KvMetrics>,
    /// How the last look found the engine; `None` before the first.
    idle: Option<bool>,
}

impl LoadWatch {
    /// The next load worth telling.
    async fn next(&mut self, engine: &dyn Engine, worker: WorkerRank, changed: &Notify) -> KvMetrics {
        loop {
            match self.idle {
                None => {}
                Some(false) => tokio::time::sleep(LOAD_INTERVAL).await,
                Some(true) => {
                    // Nothing can change before the bell rings; after it, the change may be a step away.
                    if tokio::time::timeout(LOAD_REPEAT, changed.notified()).await.is_err() {
                        self.told = None;
                    }
                    tokio::time::sleep(LOAD_INTERVAL).await;
                }
            }
            let load = engine.load();
            self.idle = Some(load.running == 0 && load.waiting == 0);
            let metrics = kv_metrics(&load, worker);
            if self.told != Some(metrics) {
                self.told = Some(metrics);
                return metrics;
            }
        }
    }
}

fn kv_metrics(load: &EngineLoad, worker: WorkerRank) -> KvMetrics {
    KvMetrics {
        worker_id: worker.worker_id,
        dp_rank: worker.dp_rank,
        active_decode_blocks: Some(load.active_decode_blocks),
        active_prefill_tokens: Some(load.active_prefill_tokens),
        kv_used_blocks: Some(load.kv_used_blocks),
    }
}

/// A request whose prompt is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefillDone {
    /// The request's id.
    pub(crate) request_id: String,
    /// Its LoRA adapter.
    pub(crate) lora_name: Option<String>,
}

/// Tells the routers whose prompts are computed, until the last handler is gone.
pub(crate) async fn relay_prefills(mut done: mpsc::Receiver<PrefillDone>, worker: WorkerRank, publisher: Publisher) {
    let mut batch = Vec::with_capacity(CHANGES_PER_MESSAGE);
    while done.recv_many(&mut batch, CHANGES_PER_MESSAGE).await > 0 {
        let events = batch.drain(..).map(|done: PrefillDone| prefill_completed(done, worker));
        if publisher.is_brokered() {
            // Over NATS the stock form is one event a message, and without the list around it.
            for event in events {
                publish(&publisher, &event).await;
            }
        } else {
            publish(&publisher, &ActiveSequencesMessage { events: events.collect() }).await;
        }
    }
}

fn prefill_completed(done: PrefillDone, worker: WorkerRank) -> ActiveSequenceEvent {
    ActiveSequenceEvent {
        request_id: done.request_id,
        worker,
        data: ActiveSequenceChange::MarkPrefillCompleted,
        // A worker's notices carry its own id where a router has its id; routers know the worker by it.
        router_id: worker.worker_id.0,
        lora_name: done.lora_name,
    }
}

/// A message that cannot be published is logged and gone: routers see the hole in the ids and ask the mirror.
async fn publish<T: Serialize>(publisher: &Publisher, payload: &T) {
    if let Err(error) = publisher.publish(payload).await {
        report(&error);
    }
}

fn report(error: &EventError) {
    tracing::warn!(%error, "an event could not be published; routers will ask for what they missed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineError, EngineProfile};
    use protocol::ids::InstanceId;
    use protocol::output::EngineOutput;
    use protocol::request::PreprocessedRequest;
    use std::cell::RefCell;

    const WORKER: WorkerRank = WorkerRank { worker_id: InstanceId(9), dp_rank: 0 };

    /// An engine that has a load and nothing else.
    struct Loaded(Mutex<EngineLoad>);

    impl Engine for Loaded {
        fn profile(&self) -> EngineProfile {
            unreachable!("the load is all that is asked for")
        }

        fn generate(&self, _: PreprocessedRequest) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
            unreachable!("the load is all that is asked for")
        }

        fn load(&self) -> EngineLoad {
            *self.0.lock()
        }

        fn stop(&self) {}
    }

    fn busy(kv_used_blocks: u64) -> EngineLoad {
        EngineLoad { running: 1, kv_used_blocks, ..EngineLoad::default() }
    }

    /// Runs the reporter in paused time while `script` changes the load; gives the told block counts with their time.
    async fn told(script: impl AsyncFnOnce(&Loaded, &Notify)) -> Vec<(Duration, u64)> {
        let engine = Loaded(Mutex::new(EngineLoad::default()));
        let bell = Notify::new();
        let told = RefCell::new(Vec::new());
        let start = tokio::time::Instant::now();
        let report = async {
            let mut watch = LoadWatch::default();
            loop {
                let metrics = watch.next(&engine, WORKER, &bell).await;
                told.borrow_mut().push((start.elapsed(), metrics.kv_used_blocks.unwrap()));
            }
        };
        tokio::select! {
            () = script(&engine, &bell) => {}
            () = report => {}
        }
        told.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_changes_every_millisecond_is_told_at_most_twenty_times_a_second_and_ends_with_the_last() {
        let told = told(async |engine, bell| {
            for step in 1..=1000 {
                *engine.0.lock() = busy(step);
                bell.notify_one();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            *engine.0.lock() = EngineLoad { kv_used_blocks: 77, ..EngineLoad::default() };
            tokio::time::sleep(Duration::from_millis(200)).await;
        })
        .await;
        assert!(told.len() <= 25, "{} messages in 1.2 s", told.len());
        assert!(told.len() >= 18, "{} messages in 1.2 s", told.len());
        assert_eq!(told.last().unwrap().1, 77);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_load_is_told_once_and_again_only_for_those_who_came_later() {
        let told = told(async |_, _| tokio::time::sleep(Duration::from_secs(11)).await).await;
        assert_eq!(told.len(), 3, "at 0 s, and about every five: {told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bell_wakes_the_reporter_of_an_idle_engine() {
        let told = told(async |engine, bell| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            *engine.0.lock() = busy(3);
            bell.notify_one();
            tokio::time::sleep(Duration::from_millis(100)).await;
        })
        .await;
        assert_eq!(told.iter().map(|t| t.1).collect::<Vec<_>>(), [0, 3]);
    }
}
