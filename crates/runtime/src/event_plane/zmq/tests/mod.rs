//! Publisher and subscriber against each other, against raw ZMTP peers that behave badly, and against libzmq.

mod against_libzmq;
mod against_strangers;
mod round_trips;

use crate::event_plane::{Envelope, Publisher, Subscriber};
use std::future::Future;
use std::time::Duration;

const TOPIC: &str = "kv-events";

/// Waits for `future`, up to far more than it ever needs.
async fn within_a_minute<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("waited a minute: {what}"))
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    within_a_minute(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn publisher() -> Publisher {
    Publisher::bind("127.0.0.1", "127.0.0.1", TOPIC).await.unwrap()
}

async fn subscriber(publisher: &Publisher) -> Subscriber {
    let before = publisher.subscribers();
    let subscriber = Subscriber::connect(&publisher.endpoint(), TOPIC).await.unwrap();
    until("the subscription arrives", || publisher.subscribers() > before).await;
    subscriber
}

async fn next(subscriber: &mut Subscriber) -> Envelope {
    within_a_minute("an event arrives", subscriber.next()).await.unwrap()
}
