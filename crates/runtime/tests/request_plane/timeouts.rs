//! Peers that say nothing, in paused time.

use super::plane::{FakeWorker, Peer, client};
use protocol::dynamo::Ack;
use runtime::request_plane::ErrorClass;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_acknowledge_is_given_up_after_5_s() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let began = Instant::now();
    let error = client.send(&target, "id", &()).await.unwrap_err();
    assert_eq!((error.class, error.is_retryable()), (ErrorClass::ResponseTimeout, true));
    assert!(error.message.contains("no ack in 5 s"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 5);

    // Its late acks would be taken for those of later requests: the next one gets a connection of its own.
    let _silent = fake.connection().await;
    let (second, connection) = tokio::join!(client.send(&target, "id-2", &()), async {
        let mut connection = fake.connection().await;
        assert_eq!(connection.request().await.1.context, "id-2");
        connection.ack(&Ack::Overloaded("full".into())).await;
        connection
    });
    assert_eq!(second.unwrap_err().class, ErrorClass::WorkerOverloaded);
    drop(connection);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_call_home_is_given_up_after_10_s() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let began = Instant::now();
    let (error, _connection) = tokio::join!(client.send(&target, "id", &()), async {
        let mut connection = fake.connection().await;
        connection.request().await;
        connection.ack(&Ack::Taken).await;
        connection
    });
    let error = error.unwrap_err();
    assert_eq!((error.class, error.is_retryable()), (ErrorClass::ResponseTimeout, true));
    assert!(error.message.contains("did not call home"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_between_ack_and_call_home_is_noticed_within_a_second() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let began = Instant::now();
    let (error, ()) = tokio::join!(client.send(&target, "id", &()), async {
        let mut connection = fake.connection().await;
        connection.request().await;
        connection.ack(&Ack::Taken).await;
    });
    assert_eq!(error.unwrap_err().class, ErrorClass::Disconnected);
    assert!(began.elapsed() <= Duration::from_millis(1_100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_prologue_may_come_late() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (stream, _peers) = tokio::join!(client.send(&target, "id", &()), async {
        let (requests, mut home) = fake.called().await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        home.control(r#"{"error":null}"#).await;
        (requests, home)
    });
    stream.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_no_subject_is_closed_after_10_s() {
    let client = client().await;
    let mut stranger = Peer::dial(client.response_address()).await;
    let began = Instant::now();
    assert!(!stranger.read().await);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_request_connection_is_closed_after_five_minutes() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (error, mut connection) = tokio::join!(client.send(&target, "id", &()), async {
        let mut connection = fake.connection().await;
        connection.request().await;
        connection.ack(&Ack::Overloaded("full".into())).await;
        connection
    });
    error.unwrap_err();
    let began = Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(1_000), async {
        use tokio::io::AsyncReadExt;
        connection.stream.read_buf(&mut connection.inbox).await
    });
    assert_eq!(closed.await.unwrap().unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 300);
}
