//! Both planes over a real nats-server: what goes over the wire, who is let in, and what a dying server costs.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as its tests do")]

mod auth;
mod events;
mod faults;
mod jwt;
#[path = "../nats_server/mod.rs"]
mod nats_server;
#[path = "../request_plane/plane.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod plane;
#[path = "../ports/mod.rs"]
mod ports;
mod request_faults;
mod requests;
mod tls;

use nats_server::NatsServer;
use ports::free_port;
use protocol::discovery::{EventChannelRecord, EventScope};
use protocol::events::KV_EVENTS;
use protocol::ids::EndpointId;
use runtime::event_plane::{Envelope, Publisher, Subscriber};
use runtime::nats::{Nats, NatsConfig};
use runtime::world::World;
use std::time::Duration;

/// Longest wait for anything; only a defect reaches it.
const CAP: Duration = Duration::from_secs(120);

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(CAP, future).await.unwrap_or_else(|_| panic!("waited {CAP:?}: {what}"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { servers: server.url(), client_name: "a test".into(), ..NatsConfig::default() }
}

fn nats(server: &NatsServer) -> Nats {
    Nats::new(&config(server)).unwrap()
}

async fn connected(nats: &Nats) {
    nats.connect();
    until("connected", || nats.is_connected()).await;
}

fn scope() -> EventScope {
    EventScope::Endpoint { endpoint: EndpointId::new("dynamo", "backend", "generate") }
}

fn publisher(nats: &Nats) -> Publisher {
    Publisher::over_nats(nats, &scope(), KV_EVENTS).unwrap()
}

/// A subscriber as a frontend makes it: from the publisher's discovery record.
async fn follow(publisher: &Publisher, nats: &Nats) -> Subscriber {
    let channel = EventChannelRecord {
        scope: scope(),
        topic: publisher.topic().to_owned(),
        instance_id: publisher.id(),
        transport: publisher.transport(),
    };
    let mut subscriber = Subscriber::follow(&World::default(), &channel, nats).await.unwrap();
    within("subscribed", subscriber.subscribed()).await;
    subscriber
}

async fn next(subscriber: &mut Subscriber) -> Envelope {
    within("an event arrives", subscriber.next()).await.unwrap()
}
