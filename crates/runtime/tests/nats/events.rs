//! What is published is heard, in the stock form.

use crate::nats_server::NatsServer;
use crate::{config, connected, follow, nats, next, publisher, scope, until, within};
use futures::StreamExt;
use protocol::discovery::EventTransport;
use protocol::dynamo::Envelope;
use runtime::event_plane::Publisher;
use runtime::nats::{Nats, NatsConfig};

const SUBJECT: &str = "namespace.dynamo.component.backend.endpoint.generate.kv-events";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_one_bare_envelope_on_the_stock_subject() {
    let Some(server) = NatsServer::start("") else { return };
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let mut heard = stranger.subscribe(SUBJECT).await.unwrap();
    stranger.flush().await.unwrap();
    let nats = nats(&server);
    let publisher = publisher(&nats);
    let prefix = SUBJECT.strip_suffix(".kv-events").unwrap().to_owned();
    assert_eq!(publisher.transport(), EventTransport::Nats { subject_prefix: prefix });
    publisher.publish(&[1u64, 2]).await.unwrap();
    let message = within("the stranger hears it", heard.next()).await.unwrap();
    assert_eq!((message.headers, message.reply), (None, None));
    let envelope = Envelope::from_nats(&message.payload).unwrap();
    assert_eq!((envelope.publisher_id, envelope.sequence, &envelope.topic[..]), (publisher.id(), 0, "kv-events"));
    assert_eq!(envelope.decode::<Vec<u64>>().unwrap(), [1, 2]);
    let monitor = format!("http://127.0.0.1:{}/jsz", server.monitor_port);
    let jetstream: serde_json::Value = get_json(&monitor).await;
    assert_eq!((&jetstream["streams"], &jetstream["api"]["total"]), (&0.into(), &0.into()), "NATS core alone is used");
}

/// A GET without a client of its own: the monitor answers HTTP/1.0 and closes.
async fn get_json(url: &str) -> serde_json::Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_follower_hears_its_own_publisher_in_order_over_one_subscription() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let (one, two) = (publisher(&workers), publisher(&workers));
    let mut followers = [follow(&one, &frontend).await, follow(&one, &frontend).await, follow(&two, &frontend).await];
    for number in 0..500u64 {
        one.publish(&number).await.unwrap();
        two.publish(&(number + 1_000)).await.unwrap();
    }
    for (subscriber, first) in followers.iter_mut().zip([0, 0, 1_000]) {
        for number in 0..500u64 {
            let event = next(subscriber).await;
            assert_eq!((event.sequence, event.decode::<u64>().unwrap()), (number, first + number));
        }
        assert!(subscriber.is_brokered() && *subscriber.links().borrow());
    }
    let connections = get_json(&format!("http://127.0.0.1:{}/connz?subs=1", server.monitor_port)).await;
    let subjects = connections["connections"].as_array().unwrap().iter();
    let subjects = subjects.flat_map(|c| c["subscriptions_list"].as_array().cloned().unwrap_or_default());
    assert_eq!(subjects.filter(|subject| subject == SUBJECT).count(), 1);
    assert_eq!((one.dropped(), frontend.unread()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_waits_for_no_server_and_its_events_arrive_once_there_is_one() {
    let Some(mut server) = NatsServer::prepared("") else { return };
    let (worker, frontend) = (nats(&server), nats(&server));
    let publisher = publisher(&worker);
    until("it was tried", || worker.counts().failures().get("unreachable").is_some_and(|&tries| tries > 1)).await;
    server.run();
    let mut subscriber = follow(&publisher, &frontend).await;
    server.kill();
    until("the loss is noticed", || !worker.is_connected()).await;
    for number in 0..20u64 {
        publisher.publish(&number).await.unwrap();
    }
    server.run();
    within("subscribed again", subscriber.connections().wait_for(|&count| count > 1)).await.unwrap();
    publisher.publish(&20u64).await.unwrap();
    // Who came back first, publisher or subscriber, is chance; the last event shows whether any is missing.
    let mut heard = Vec::new();
    while heard.last() != Some(&20) {
        heard.push(next(&mut subscriber).await.decode::<u64>().unwrap());
    }
    assert!(heard.is_sorted(), "{heard:?}");
    assert_eq!(publisher.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_max_payload_is_counted_and_the_next_ones_go_on() {
    let Some(server) = NatsServer::start("max_payload: 4096") else { return };
    let nats = nats(&server);
    let publisher = publisher(&nats);
    let mut subscriber = follow(&publisher, &nats).await;
    publisher.publish(&vec![7u64; 8_192]).await.unwrap();
    publisher.publish(&vec![8u64; 2]).await.unwrap();
    let event = next(&mut subscriber).await;
    assert_eq!((event.sequence, event.decode::<Vec<u64>>().unwrap()), (1, vec![8, 8]), "the hole is seen");
    assert_eq!((publisher.dropped(), nats.counts().sessions()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_strangers_on_the_subject_reach_nobody() {
    let Some(server) = NatsServer::start("") else { return };
    let nats = nats(&server);
    let publisher = publisher(&nats);
    let mut subscriber = follow(&publisher, &nats).await;
    let stranger = async_nats::connect(server.url()).await.unwrap();
    for garbage in ["", "no envelope", "\u{81}\u{a1}x"] {
        stranger.publish(SUBJECT, garbage.to_owned().into()).await.unwrap();
    }
    let other = Publisher::over_nats(&nats, &scope(), "kv-events").unwrap();
    other.publish(&1u64).await.unwrap();
    stranger.flush().await.unwrap();
    publisher.publish(&2u64).await.unwrap();
    assert_eq!(next(&mut subscriber).await.decode::<u64>().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_is_made_when_something_needs_it_and_not_before() {
    let Some(server) = NatsServer::start("") else { return };
    let nats = Nats::new(&NatsConfig { ..config(&server) }).unwrap();
    assert!(!nats.is_wanted());
    let publisher = publisher(&nats);
    connected(&nats).await;
    assert!(nats.is_wanted());
    drop(publisher);
}
