//! Watch connections: what a worker, its successor and a stranger say to a ping.

use super::plane::{FakeWorker, PATH, client, count, local_server, plane, target, tokens, within};
use protocol::discovery::{Codec, RequestTransport};
use protocol::dynamo::Ack;
use runtime::request_plane::{Pong, RequestServer};
use std::io;

#[tokio::test]
async fn a_worker_says_that_it_serves_the_endpoint_and_its_successor_that_it_does_not() {
    let (server, client, target) = plane(count).await;
    let mut line = within(client.watch(&target)).await.unwrap();
    for _ in 0..3 {
        line.ping().await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(within(line.pong()).await.unwrap(), Pong::Serves);
    }
    server.withdraw(PATH);
    line.ping().await.unwrap();
    assert_eq!(within(line.pong()).await.unwrap(), Pong::AnotherInstance);
}

#[tokio::test]
async fn pings_are_no_requests_and_a_worker_that_drains_answers_them() {
    let (server, client, target) = plane(count).await;
    let mut line = within(client.watch(&target)).await.unwrap();
    line.ping().await.unwrap();
    assert_eq!(within(line.pong()).await.unwrap(), Pong::Serves);
    assert_eq!((server.running(), client.traffic().bytes_sent(), client.traffic().bytes_received()), (0, 0, 0));
    server.stop_accepting();
    line.ping().await.unwrap();
    assert_eq!(within(line.pong()).await.unwrap(), Pong::Serves);
    within(server.drained()).await;
}

#[tokio::test]
async fn requests_go_on_beside_a_watch_connection() {
    let (_server, client, target) = plane(count).await;
    let mut line = within(client.watch(&target)).await.unwrap();
    line.ping().await.unwrap();
    let mut stream = within(client.send(&target, "id", &3u32)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1, 2], None));
    assert_eq!(within(line.pong()).await.unwrap(), Pong::Serves);
}

#[tokio::test]
async fn a_stranger_that_knows_no_pings_is_alive() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let mut line = within(client.watch(&target)).await.unwrap();
    line.ping().await.unwrap();
    let mut connection = fake.connection().await;
    // What `dynamo.mocker` 1.6.1 answered.
    connection.ack(&Ack::Unavailable(format!("unknown endpoint busbar.ping/{PATH}"))).await;
    assert_eq!(within(line.pong()).await.unwrap(), Pong::Alive);
}

#[tokio::test]
async fn a_worker_that_goes_away_ends_the_line_and_its_port_refuses_the_next() {
    let (server, client, target) = plane(count).await;
    let mut line = within(client.watch(&target)).await.unwrap();
    drop(server);
    assert!(within(line.pong()).await.is_err());
    let refused = within(client.watch(&target)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_record_that_is_no_tcp_address_is_refused_as_such() {
    let server = RequestServer::bind(local_server()).await.unwrap();
    let mut record = target(&server.address(), Codec::Msgpack);
    record.transport = RequestTransport::NatsTcp("dynamo_backend.generate-1".into());
    let refused = within(client().await.watch(&record)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}
