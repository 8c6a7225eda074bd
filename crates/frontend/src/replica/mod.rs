//! Several frontends before the same workers: each tells the others what it books, so that they do not all choose the
//! worker that each of them alone believes to be idle.
//!
//! One publisher for each worker set and endpoint, announced as stock's `--router-replica-sync` announces its own: an
//! EventChannel of topic `active_sequences_events` in the scope of the workers' endpoint. Nothing is encoded, and no
//! event made, while nobody listens. What the others tell comes in through [`crate::feed`].

mod outbox;

pub(crate) use outbox::Outbox;

use crate::metrics::Metrics;
use crate::workers::WorkerSet;
use parking_lot::Mutex;
use protocol::discovery::{EventChannelRecord, EventScope, EventTransport, Record};
use protocol::events::ACTIVE_SEQUENCES_EVENTS;
use protocol::ids::{EndpointId, PublisherId};
use runtime::discovery::{Discovery, RecordKey};
use runtime::event_plane::Publisher;
use runtime::tasks::Tasks;
use runtime::world::World;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Wait before another try to open the publisher or to announce it.
const RETRY: Duration = Duration::from_secs(1);

/// Publishers of this process, which it does not follow itself.
#[derive(Clone, Default)]
pub(crate) struct OwnPublishers(Arc<Mutex<HashSet<PublisherId>>>);

impl OwnPublishers {
    pub(crate) fn contains(&self, id: PublisherId) -> bool {
        self.0.lock().contains(&id)
    }
}

/// Opens a publisher for each worker set.
pub(crate) struct Sharing {
    /// The machine of this process.
    pub(crate) world: World,
    /// Where publishers listen.
    pub(crate) host: String,
    /// How the others reach them.
    pub(crate) advertise_host: String,
    /// The member that announces them; its owner withdraws them at shutdown.
    pub(crate) records: Discovery,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) own: OwnPublishers,
}

impl Sharing {
    /// Tells what `workers` books, in the scope of `endpoint`, until the returned tasks are dropped.
    pub(crate) fn start(self: &Arc<Self>, workers: &Arc<WorkerSet>, endpoint: EndpointId) -> Tasks {
        let tasks = Tasks::new();
        let telling = self.clone().tell(workers.clone(), endpoint, tasks.token());
        // To its end, so that the record is withdrawn on cancel, too.
        tasks.spawn_to_end("tell bookings", telling);
        tasks
    }

    async fn tell(self: Arc<Self>, workers: Arc<WorkerSet>, endpoint: EndpointId, ended: CancellationToken) {
        let Some(publisher) = ended.run_until_cancelled(self.open()).await else { return };
        let id = publisher.id();
        let publisher = Arc::new(publisher);
        // Known before anybody sees the record, so that this process never follows itself.
        self.own.0.lock().insert(id);
        let record = Record::EventChannel(EventChannelRecord {
            scope: EventScope::Endpoint { endpoint },
            topic: ACTIVE_SEQUENCES_EVENTS.into(),
            instance_id: id,
            transport: EventTransport::Zmq { endpoint: publisher.endpoint() },
        });
        let (outbox, waiting) = Outbox::new(publisher.clone(), &self.metrics, &workers.model);
        workers.share_through(outbox);
        // The set ends this task, not the task the set.
        drop(workers);
        let work = async {
            self.announce(&record).await;
            waiting.publish_all(&publisher).await;
        };
        ended.run_until_cancelled(work).await;
        if let Err(error) = self.records.withdraw(&RecordKey::of(&record)).await {
            tracing::debug!(%error, "withdraw the publisher of bookings");
        }
        self.own.0.lock().remove(&id);
    }

    async fn open(&self) -> Publisher {
        loop {
            let topic = ACTIVE_SEQUENCES_EVENTS;
            match Publisher::bind_in(&self.world, &self.host, &self.advertise_host, topic).await {
                Ok(publisher) => return publisher,
                Err(error) => {
                    let host = &self.host;
                    tracing::warn!(host, %error, "open the publisher of bookings; other frontends do not see them yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn announce(&self, record: &Record) {
        while let Err(error) = self.records.register(record).await {
            tracing::warn!(%error, "announce the publisher of bookings");
            tokio::time::sleep(RETRY).await;
        }
    }
}
