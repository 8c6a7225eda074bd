//! Follows one publisher of load reports.

use crate::models::Catalog;
use protocol::events::{KV_METRICS, KvMetrics};
use runtime::event_plane::Subscriber;
use runtime::world::World;
use std::sync::Arc;
use std::time::Duration;

/// Wait before another try to subscribe.
const RETRY: Duration = Duration::from_secs(1);

/// Takes over every report until the task is dropped.
pub(super) async fn follow(world: World, catalog: Arc<Catalog>, endpoint: String) {
    loop {
        match Subscriber::connect_in(&world, &endpoint, KV_METRICS).await {
            Ok(mut subscriber) => {
                while let Some(envelope) = subscriber.next().await {
                    match envelope.decode::<KvMetrics>() {
                        Ok(report) => catalog.report(report),
                        Err(error) => tracing::debug!(endpoint, %error, "a load report does not decode"),
                    }
                }
            }
            Err(error) => tracing::debug!(endpoint, %error, "subscribe to load reports"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
