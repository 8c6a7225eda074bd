//! What workers tell of their caches and loads, brought into the router's state.
//!
//! A worker's cache is followed when both its EventChannel and its EventSource are known; a worker without them is
//! served all the same, its cache is just unknown. Load reports and bookings need only their channel.

mod cache;
mod load;
mod sequences;

use crate::metrics::Metrics;
use crate::models::Catalog;
use crate::replica::OwnPublishers;
use crate::workers::WorkerSet;
use protocol::discovery::{EventChannelRecord, EventSourceRecord};
use protocol::events::{ACTIVE_SEQUENCES_EVENTS, KV_EVENTS, KV_METRICS};
use protocol::ids::{EndpointId, InstanceId, WorkerRank};
use runtime::nats::Nats;
use runtime::request_plane::RequestClient;
use runtime::tasks::Tasks;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Publishers that are followed at once: three a worker rank, one a frontend and model. More are left unfollowed and logged.
const FEEDS_MAX: usize = 4096;

/// Every feed; owned by the watcher of discovery.
pub(crate) struct Feeds {
    client: RequestClient,
    metrics: Arc<Metrics>,
    catalog: Arc<Catalog>,
    nats: Nats,
    cache_wanted: bool,
    /// This process's own publishers of bookings; `None` if those of others are not followed.
    bookings: Option<OwnPublishers>,
    /// By the name of the record's key, which is the same for a publisher's channel and source.
    channels: BTreeMap<String, EventChannelRecord>,
    sources: BTreeMap<String, EventSourceRecord>,
    running: BTreeMap<String, Feed>,
    refused: HashSet<String>,
}

/// One followed publisher; dropping it ends its task.
struct Feed {
    _tasks: Tasks,
    channel: EventChannelRecord,
    /// Whose cache it tells; absent for load reports and bookings.
    cache: Option<(Arc<WorkerSet>, WorkerRank)>,
}

impl Feeds {
    /// `cache_wanted` is false for routers that do not look at caches.
    pub(crate) fn new(
        client: RequestClient,
        metrics: Arc<Metrics>,
        catalog: Arc<Catalog>,
        nats: Nats,
        cache_wanted: bool,
    ) -> Self {
        let (channels, sources, running) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (bookings, refused) = (None, HashSet::new());
        Self { client, metrics, catalog, nats, cache_wanted, bookings, channels, sources, running, refused }
    }

    /// Follows what other frontends book, too; `own` are the publishers that are not theirs.
    pub(crate) fn with_bookings(self, own: OwnPublishers) -> Self {
        Self { bookings: Some(own), ..self }
    }

    pub(crate) fn put_channel(&mut self, key: String, record: EventChannelRecord) {
        let is_wanted = match record.topic.as_str() {
            KV_EVENTS | KV_METRICS => true,
            ACTIVE_SEQUENCES_EVENTS => self.bookings.as_ref().is_some_and(|own| !own.contains(record.instance_id)),
            _ => false,
        };
        if is_wanted {
            self.channels.insert(key, record);
        }
    }

    pub(crate) fn remove_channel(&mut self, key: &str) {
        self.channels.remove(key);
        self.refused.remove(key);
    }

    pub(crate) fn put_source(&mut self, key: String, record: EventSourceRecord) {
        if record.topic == KV_EVENTS {
            self.sources.insert(key, record);
        }
    }

    pub(crate) fn remove_source(&mut self, key: &str) {
        self.sources.remove(key);
    }

    /// Starts what can be followed now and ends what cannot any more.
    pub(crate) fn reconcile(&mut self, sets: &[Arc<WorkerSet>]) {
        let set_of = |instance: InstanceId| sets.iter().find(|set| set.contains(instance));
        let (channels, sources) = (&self.channels, &self.sources);
        self.running.retain(|key, feed| {
            let same = channels.get(key).is_some_and(|channel| *channel == feed.channel);
            let alive = feed.cache.as_ref().is_none_or(|(workers, rank)| {
                let kept = sets.iter().any(|set| Arc::ptr_eq(set, workers));
                kept && sources.contains_key(key) && workers.contains(rank.worker_id)
            });
            if let (false, Some((workers, rank))) = (same && alive, &feed.cache) {
                workers.forget_cache(*rank);
            }
            same && alive
        });
        let waiting: Vec<String> = channels.keys().filter(|key| !self.running.contains_key(*key)).cloned().collect();
        for key in waiting {
            let Some(channel) = self.channels.get(&key) else { continue };
            let feed = match channel.topic.as_str() {
                KV_METRICS => Some(self.load_feed(channel)),
                ACTIVE_SEQUENCES_EVENTS => Some(self.bookings_feed(channel)),
                _ => self.cache_feed(&key, channel, set_of),
            };
            let Some(feed) = feed else { continue };
            if self.running.len() >= FEEDS_MAX {
                self.refuse(&key, "too many publishers are followed already");
                continue;
            }
            self.running.insert(key, feed);
        }
        self.count_mismatches(sets);
    }

    /// Tells how many workers of each endpoint serve without telling their caches, though the router looks at them.
    fn count_mismatches(&self, sets: &[Arc<WorkerSet>]) {
        let router = format!("{:x}", self.metrics.router_id);
        let caches = self.running.values().filter_map(|feed| feed.cache.as_ref());
        let followed: HashSet<WorkerRank> = caches.map(|(_, rank)| *rank).collect();
        for set in sets {
            let mut by_endpoint: BTreeMap<EndpointId, i64> = BTreeMap::new();
            for view in set.views() {
                let mismatch = self.cache_wanted && !followed.contains(&view.worker);
                *by_endpoint.entry(view.endpoint.endpoint_id()).or_default() += i64::from(mismatch);
            }
            for (endpoint, count) in by_endpoint {
                let (namespace, component) = (endpoint.namespace.as_str(), endpoint.component.as_str());
                let labels =
                    [namespace, component, &set.model, &router, "decode", namespace, component, &endpoint.name];
                self.metrics.router_source_mismatch.with(&labels).set(count);
            }
        }
    }

    fn cache_feed<'a>(
        &self,
        key: &str,
        channel: &EventChannelRecord,
        set_of: impl Fn(InstanceId) -> Option<&'a Arc<WorkerSet>>,
    ) -> Option<Feed> {
        if !self.cache_wanted {
            return None;
        }
        let source = self.sources.get(key)?;
        let worker = source.metadata.worker;
        let workers = set_of(worker.worker_id)?.clone();
        let follow = cache::Follow {
            workers: workers.clone(),
            worker,
            channel: channel.clone(),
            nats: self.nats.clone(),
            recovery: source.metadata.recovery_target.clone(),
            client: self.client.clone(),
            counts: cache::Counts::new(&self.metrics, &source.metadata.kv_state_endpoint),
        };
        let tasks = Tasks::new();
        tasks.spawn("kv events", follow.run());
        Some(Feed { _tasks: tasks, channel: channel.clone(), cache: Some((workers, worker)) })
    }

    fn load_feed(&self, channel: &EventChannelRecord) -> Feed {
        let tasks = Tasks::new();
        tasks.spawn(
            "kv metrics",
            load::follow(self.client.world().clone(), self.catalog.clone(), channel.clone(), self.nats.clone()),
        );
        Feed { _tasks: tasks, channel: channel.clone(), cache: None }
    }

    fn bookings_feed(&self, channel: &EventChannelRecord) -> Feed {
        let tasks = Tasks::new();
        let follow =
            sequences::follow(self.client.world().clone(), self.catalog.clone(), channel.clone(), self.nats.clone());
        tasks.spawn("bookings of others", follow);
        Feed { _tasks: tasks, channel: channel.clone(), cache: None }
    }

    fn refuse(&mut self, key: &str, reason: &str) {
        if self.refused.insert(key.to_owned()) {
            tracing::warn!(channel = key, reason, "an event channel is not followed");
        }
    }
}
