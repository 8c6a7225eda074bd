//! Publisher and subscriber against each other.

use super::{TOPIC, next, publisher, subscriber, until, within_a_minute};
use crate::event_plane::{EventError, Publisher, Subscriber};
use protocol::dynamo::FRAME_BYTES_MAX;

#[tokio::test]
async fn events_arrive_in_order_and_name_their_publisher() {
    let publisher = publisher().await;
    let mut subscriber = subscriber(&publisher).await;
    for number in 0..1_000_u64 {
        publisher.publish(&number).await.unwrap();
    }
    for number in 0..1_000_u64 {
        let event = next(&mut subscriber).await;
        assert_eq!((event.sequence, event.decode::<u64>().unwrap()), (number, number));
        assert_eq!((event.publisher_id, &event.topic[..]), (publisher.id(), TOPIC));
        assert!(event.published_at_ms > 1_700_000_000_000, "milliseconds since 1970");
    }
    assert_eq!(publisher.dropped(), 0);
    assert!(publisher.id().0 < 1 << 53);
}

#[tokio::test]
async fn two_subscribers_get_every_event() {
    let publisher = publisher().await;
    let mut subscribers = [subscriber(&publisher).await, subscriber(&publisher).await];
    for number in 0..100_u64 {
        publisher.publish(&number).await.unwrap();
    }
    for subscriber in &mut subscribers {
        for number in 0..100_u64 {
            assert_eq!(next(subscriber).await.decode::<u64>().unwrap(), number);
        }
    }
}

#[tokio::test]
async fn the_sequence_counts_on_while_nobody_listens_so_that_a_hole_can_be_seen() {
    let publisher = publisher().await;
    for _ in 0..3 {
        publisher.publish(&"unheard").await.unwrap();
    }
    let mut subscriber = subscriber(&publisher).await;
    publisher.publish(&"heard").await.unwrap();
    assert_eq!(next(&mut subscriber).await.sequence, 3);
}

#[tokio::test]
async fn a_subscriber_finds_its_way_back_to_a_restarted_publisher() {
    let first = publisher().await;
    let port: u16 = first.endpoint().rsplit_once(':').unwrap().1.parse().unwrap();
    let mut subscriber = subscriber(&first).await;
    first.publish(&1).await.unwrap();
    assert_eq!(next(&mut subscriber).await.publisher_id, first.id());
    let mut connections = subscriber.connections();
    assert_eq!(*connections.borrow_and_update(), 1);
    drop(first);

    let second = within_a_minute("the port is free again", async {
        loop {
            match Publisher::bind_port("127.0.0.1", port, "127.0.0.1", TOPIC).await {
                Ok(publisher) => return publisher,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    within_a_minute("it is told of the new connection", connections.wait_for(|&count| count == 2)).await.unwrap();
    until("the new publisher knows it", || second.subscribers() == 1).await;
    second.publish(&2).await.unwrap();
    let event = next(&mut subscriber).await;
    assert_eq!((event.publisher_id, event.sequence), (second.id(), 0));
}

#[tokio::test]
async fn a_dropped_subscriber_leaves_its_seat() {
    let publisher = publisher().await;
    let subscriber = subscriber(&publisher).await;
    drop(subscriber);
    until("the seat is free", || publisher.subscribers() == 0).await;
}

#[tokio::test]
async fn a_dropped_publisher_closes_its_port() {
    let publisher = publisher().await;
    let address = publisher.endpoint().strip_prefix("tcp://").unwrap().to_owned();
    drop(publisher);
    within_a_minute("the port is closed", async {
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The slow one's queue is bounded in bytes; the fast one and the publisher never wait for it.
#[tokio::test]
async fn a_slow_subscriber_loses_events_and_nobody_waits_for_it() {
    let publisher = publisher().await;
    let mut fast = subscriber(&publisher).await;
    let slow = subscriber(&publisher).await;
    let megabyte = "x".repeat(1 << 20);
    let mut sent = 0;
    while publisher.dropped() == 0 {
        publisher.publish(&megabyte).await.unwrap();
        assert_eq!(next(&mut fast).await.sequence, sent);
        sent += 1;
        assert!(sent < 1_000, "a gigabyte is queued for a subscriber that does not read");
    }
    drop(slow);
}

#[tokio::test]
async fn an_event_over_the_limit_is_refused_and_uses_up_no_number() {
    let publisher = publisher().await;
    let mut subscriber = subscriber(&publisher).await;
    let error = publisher.publish(&"x".repeat(FRAME_BYTES_MAX)).await.unwrap_err();
    assert!(matches!(error, EventError::Encode { .. }), "{error}");
    publisher.publish(&"fits").await.unwrap();
    assert_eq!(next(&mut subscriber).await.sequence, 0);
}

#[tokio::test]
async fn an_event_of_megabytes_arrives_whole() {
    let publisher = publisher().await;
    let mut subscriber = subscriber(&publisher).await;
    let large: Vec<u64> = (0..1_000_000).collect();
    publisher.publish(&large).await.unwrap();
    assert_eq!(next(&mut subscriber).await.decode::<Vec<u64>>().unwrap(), large);
}

#[tokio::test]
async fn a_wrong_endpoint_is_an_error_that_shows_it() {
    let error = Subscriber::connect("ipc:///tmp/socket", TOPIC).await.err().unwrap().to_string();
    assert!(error.contains("ipc:///tmp/socket") && error.contains("tcp://HOST:PORT"), "{error}");
}
