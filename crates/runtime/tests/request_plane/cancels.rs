//! A caller that leaves, and what the worker learns of it.

use super::plane::{FakeWorker, client, plane, token, within};
use protocol::dynamo::ControlWord;
use protocol::output::EngineOutput;
use runtime::request_plane::StreamClosed;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn dropping_the_stream_reaches_the_handler_and_closes_its_pen() {
    let (told, mut learned) = mpsc::channel(1);
    let (_server, client, target) = plane(move |_, mut out| {
        let told = told.clone();
        async move {
            out.item(&token(1)).await.unwrap();
            out.cancelled().cancelled().await;
            told.send(out.item(&token(2)).await).await.unwrap();
        }
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    within(stream.next::<EngineOutput>()).await.unwrap().unwrap();
    drop(stream);
    assert_eq!(within(learned.recv()).await, Some(Err(StreamClosed::Cancelled)));
}

#[tokio::test]
async fn dropping_the_send_before_the_prologue_reaches_the_handler() {
    let (began, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, cancel) = (began.clone(), cancelled.clone());
    let (_server, client, target) = plane(move |_, out| {
        let (begin, cancel) = (begin.clone(), cancel.clone());
        async move {
            begin.notify_one();
            out.cancelled().cancelled().await;
            cancel.notify_one();
        }
    })
    .await;
    {
        let sending = std::pin::pin!(client.send(&target, "id", &()));
        tokio::select! {
            _ = sending => panic!("nobody has accepted"),
            () = within(began.notified()) => {}
        }
    }
    within(cancelled.notified()).await;
}

#[tokio::test]
async fn a_dropped_stream_says_kill_and_closes() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (stream, (_requests, mut home)) = tokio::join!(client.send(&target, "id", &()), async {
        let (requests, mut home) = fake.called().await;
        home.control(r#"{"error":null}"#).await;
        (requests, home)
    });
    drop(stream.unwrap());
    let kill = home.message().await.unwrap();
    assert_eq!(ControlWord::of_header(&kill.header), Some(ControlWord::Kill));
    assert_eq!(home.message().await, None);
}

#[tokio::test]
async fn a_finished_stream_says_nothing() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (stream, (_requests, mut home)) = tokio::join!(client.send(&target, "id", &()), async {
        let (requests, mut home) = fake.called().await;
        home.control(r#"{"error":null}"#).await;
        home.data(&serde_json::json!({"complete_final": true})).await;
        (requests, home)
    });
    let mut stream = stream.unwrap();
    assert_eq!(within(stream.next::<EngineOutput>()).await, None, "without waiting for a sentinel");
    drop(stream);
    assert_eq!(home.message().await, None);
}

#[tokio::test]
async fn a_frontend_that_is_full_up_stops_the_pen_when_it_leaves() {
    // The handler fills every buffer on the way, and must not hang in a write when the reader goes.
    let (told, mut learned) = mpsc::channel(1);
    let (_server, client, target) = plane(move |_, mut out| {
        let told = told.clone();
        async move {
            let block = vec![7_u32; 100_000];
            let ended = loop {
                if let Err(closed) = out.raw_item(&block).await {
                    break closed;
                }
            };
            told.send(ended).await.unwrap();
        }
    })
    .await;
    let stream = within(client.send(&target, "id", &())).await.unwrap();
    drop(stream);
    let ended = within(learned.recv()).await.unwrap();
    assert!(matches!(ended, StreamClosed::Cancelled | StreamClosed::Disconnected(_)), "{ended:?}");
}
