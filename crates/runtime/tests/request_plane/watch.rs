//! Watch connections: what a worker, its successor and a stranger say to a ping.

use super::plane::{FakeWorker, PATH, client, count, local_server, plane, target, tokens, within};
use protocol::discovery::{Codec, EndpointRecord, RequestTransport};
use protocol::dynamo::Ack;
use protocol::output::EngineOutput;
use runtime::request_plane::{Incoming, Pong, RequestClient, RequestServer, Responder, ResponseStream};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

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

/// A stream that says nothing, and when its handler was cancelled.
async fn silent_stream(
    client: &RequestClient,
    target: &EndpointRecord,
    cancelled: &mut mpsc::Receiver<Instant>,
) -> ResponseStream {
    let stream = within(client.send(target, "id", &0u32)).await.unwrap();
    assert!(cancelled.try_recv().is_err());
    stream
}

async fn wait_for_cancel() -> (RequestServer, RequestClient, EndpointRecord, mpsc::Receiver<Instant>) {
    let (cancels, cancelled) = mpsc::channel(8);
    let (server, client, target) = plane(move |_: Incoming, mut out: Responder| {
        let cancels = cancels.clone();
        async move {
            out.accept().await.unwrap();
            out.cancelled().cancelled().await;
            cancels.send(Instant::now()).await.unwrap();
        }
    })
    .await;
    (server, client, target, cancelled)
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_frontend_that_stopped_to_ping_are_cancelled_within_three_seconds() {
    let (_server, client, target, mut cancelled) = wait_for_cancel().await;
    let mut line = within(client.watch(&target)).await.unwrap();
    line.ping().await.unwrap();
    within(line.pong()).await.unwrap();
    let _stream = silent_stream(&client, &target, &mut cancelled).await;
    for _ in 0..200 {
        line.ping().await.unwrap();
        within(line.pong()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(cancelled.try_recv().is_err(), "it pings: a silent stream is wanted for as long as it takes");
    let last_ping = Instant::now() - Duration::from_millis(500);
    // The connection stands, and nothing comes over it: a process that is stopped, or a way that is cut.
    let at = within(cancelled.recv()).await.unwrap();
    let after = at - last_ping;
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&after), "{after:?}");
    drop(line);
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_frontend_that_never_pinged_are_not_cancelled() {
    let (_server, client, target, mut cancelled) = wait_for_cancel().await;
    let _stream = silent_stream(&client, &target, &mut cancelled).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(cancelled.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn beats_come_as_items_without_content_and_only_where_they_were_promised() {
    let (_server, client, target) = plane(|incoming: Incoming, mut out: Responder| async move {
        if incoming.decode::<u32>().unwrap() == 1 {
            out.promise_beats(Duration::from_secs(2));
        }
        out.beat().await.unwrap();
        out.item(&super::plane::token(7)).await.unwrap();
        out.promise_beats(Duration::from_secs(1));
        assert_eq!(out.beats(), incoming.decode::<u32>().unwrap() == 1, "too late to promise anything");
        out.finish().await;
    })
    .await;
    for (promise, every, first) in [(1u32, Some(Duration::from_secs(2)), None), (0, None, Some(vec![7]))] {
        let mut stream = within(client.send(&target, "id", &promise)).await.unwrap();
        assert_eq!(stream.beat_every(), every);
        let item = within(stream.next::<EngineOutput>()).await.unwrap().unwrap();
        assert_eq!(item.data.map(|output| output.token_ids), first);
    }
}

#[tokio::test]
async fn a_record_that_is_no_tcp_address_is_refused_as_such() {
    let server = RequestServer::bind(local_server()).await.unwrap();
    let mut record = target(&server.address(), Codec::Msgpack);
    record.transport = RequestTransport::NatsTcp("dynamo_backend.generate-1".into());
    let refused = within(client().await.watch(&record)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}
