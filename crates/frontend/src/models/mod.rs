//! Name → model: which models are served, by which workers, with which tokenizer.
//!
//! Workers announce cards in discovery. The first accepted card of a name wins; a worker whose card says another thing
//! of the same name is left out, and the reason is logged and shown on the status page.

mod files;
mod ledger;
mod namespaces;
mod watch;

pub(crate) use ledger::LeftOut;
pub(crate) use watch::{Watcher, WatcherParts};

use crate::metrics::ModelMetrics;
use crate::preprocess::ModelText;
use crate::workers::WorkerSet;
use arc_swap::ArcSwap;
use protocol::card::ModelCard;
use protocol::events::{ActiveSequenceEvent, KvMetrics};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A model that can be asked.
pub(crate) struct ServedModel {
    pub(crate) name: String,
    pub(crate) card: Arc<ModelCard>,
    pub(crate) text: Arc<ModelText>,
    pub(crate) workers: Arc<WorkerSet>,
    pub(crate) metrics: Arc<ModelMetrics>,
    /// How often a broken stream of this model goes on elsewhere.
    pub(crate) migration_limit: u32,
    /// Unix seconds since which it is served.
    pub(crate) created: u64,
}

impl ServedModel {
    /// Whether the card offers this endpoint: `Chat` or `Completions`.
    pub(crate) fn offers(&self, kind: &str) -> bool {
        self.card.model_type.split('|').any(|word| word.trim().eq_ignore_ascii_case(kind))
    }

    /// Tokens of context, 0 when the card does not tell.
    pub(crate) fn context_length(&self) -> u32 {
        self.card.runtime_config.context_length.unwrap_or(self.card.context_length)
    }
}

/// What is known of one name.
#[derive(Clone)]
pub(crate) enum Entry {
    /// Announced, but not ready: why, for the operator.
    NotReady(String),
    /// Can be asked.
    Ready(Arc<ServedModel>),
}

/// All names at one moment, aliases included.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) names: BTreeMap<String, Entry>,
    pub(crate) sets: Vec<Arc<WorkerSet>>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// The served models; one writer (the watcher), any number of readers without a lock.
#[derive(Default)]
pub(crate) struct Catalog {
    now: ArcSwap<Snapshot>,
    /// Rung when it was replaced. Those who wait are woken in the order in which they came.
    changes: Notify,
}

impl Catalog {
    /// What is known of `name`.
    pub(crate) fn find(&self, name: &str) -> Option<Entry> {
        self.now.load().names.get(name).cloned()
    }

    /// What is known of `name` once it can be asked, or at `until`, whichever comes first. A name that nobody has
    /// announced is not waited for.
    pub(crate) async fn find_ready(&self, name: &str, until: Instant) -> Option<Entry> {
        loop {
            // Before the look: a change after it is not missed.
            let changed = self.changes.notified();
            let entry = self.find(name);
            if !matches!(entry, Some(Entry::NotReady(_))) {
                return entry;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return entry;
            }
        }
    }

    /// Everything at this moment.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// Takes over a load report of whichever set the worker is in.
    pub(crate) fn report(&self, report: KvMetrics) {
        for set in &self.now.load().sets {
            set.report(report);
        }
    }

    /// Takes over what another frontend or a worker says of a booking; true if it changed one.
    pub(crate) fn take_booking(&self, event: &ActiveSequenceEvent) -> bool {
        let now = self.now.load();
        now.sets.iter().any(|set| set.take_booking(event))
    }

    /// Forgets what another frontend booked; returns how many bookings that were.
    pub(crate) fn forget_router(&self, router_id: u64) -> usize {
        self.now.load().sets.iter().map(|set| set.forget_router(router_id)).sum()
    }

    fn replace(&self, snapshot: Snapshot) {
        self.now.store(Arc::new(snapshot));
        self.changes.notify_waiters();
    }
}
