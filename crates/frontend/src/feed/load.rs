//! Follows one publisher of load reports.

use crate::models::Catalog;
use protocol::discovery::EventChannelRecord;
use protocol::events::KvMetrics;
use runtime::event_plane::Subscriber;
use runtime::nats::Nats;
use runtime::world::World;
use std::sync::Arc;
use std::time::Duration;

/// Wait before another try to subscribe.
const RETRY: Duration = Duration::from_secs(1);

/// Takes over every report until the task is dropped.
pub(super) async fn follow(world: World, catalog: Arc<Catalog>, channel: EventChannelRecord, nats: Nats) {
    let publisher = channel.instance_id;
    loop {
        match Subscriber::follow(&world, &channel, &nats).await {
            Ok(mut subscriber) => {
                while let Some(envelope) = subscriber.next().await {
                    match envelope.decode::<KvMetrics>() {
                        Ok(report) => catalog.report(report),
                        Err(error) => tracing::debug!(%publisher, %error, "a load report does not decode"),
                    }
                }
            }
            Err(error) => tracing::debug!(%publisher, %error, "subscribe to load reports"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
