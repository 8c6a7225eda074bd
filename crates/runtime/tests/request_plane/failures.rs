//! Requests that fail, and how.

use super::plane::{PATH, client, count, handler_of, local_server, plane, target, token, tokens, within};
use protocol::discovery::{Codec, RequestTransport};
use protocol::output::{Annotated, EngineOutput};
use runtime::request_plane::{ErrorClass, RequestServer, decode_or_refuse, wire_error};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Notify;

#[tokio::test]
async fn a_worker_that_cuts_its_stream_is_a_retryable_error() {
    let (_server, client, target) = plane(|_, mut out| async move {
        out.item(&token(1)).await.unwrap();
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    let (ids, error) = tokens(&mut stream).await;
    let error = error.unwrap();
    assert_eq!((ids, error.class, error.is_retryable()), (vec![1], ErrorClass::StreamIncomplete, true));
    assert!(error.message.contains(PATH), "{error}");
    assert_eq!(within(stream.next::<EngineOutput>()).await, None, "an error is the end");
}

#[tokio::test]
async fn a_panic_ends_its_own_stream_only() {
    let (_server, client, target) = plane(|incoming, mut out| async move {
        out.item(&token(1)).await.unwrap();
        assert!(incoming.decode::<bool>().unwrap(), "a panic on purpose");
        out.finish().await;
    })
    .await;
    let (mut bad, mut good) = (
        within(client.send(&target, "1", &false)).await.unwrap(),
        within(client.send(&target, "2", &true)).await.unwrap(),
    );
    assert_eq!(tokens(&mut bad).await.1.unwrap().class, ErrorClass::StreamIncomplete);
    assert_eq!(tokens(&mut good).await, (vec![1], None));
}

#[tokio::test]
async fn a_server_that_goes_away_cuts_its_streams_and_takes_no_more() {
    let (server, client, target) = plane(|_, mut out| async move {
        out.item(&token(1)).await.unwrap();
        out.cancelled().cancelled().await;
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    within(stream.next::<EngineOutput>()).await.unwrap().unwrap();
    drop(server);
    assert_eq!(tokens(&mut stream).await.1.unwrap().class, ErrorClass::StreamIncomplete);
    let error = within(client.send(&target, "id", &())).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_answered() {
    let (_server, client, mut target) = plane(|incoming, out| async move {
        if let Some((count, mut out)) = decode_or_refuse::<u32>(&incoming, out).await {
            out.item(&token(count)).await.unwrap();
            out.finish().await;
        }
    })
    .await;
    for codec in [Codec::Msgpack, Codec::Json] {
        target.request_plane_codec = Some(codec);
        let error = within(client.send(&target, "id", "no number")).await.unwrap_err();
        assert_eq!((error.class, error.is_retryable()), (ErrorClass::InvalidRequest, false));
        let public = error.public.unwrap();
        assert!(public.contains("the request body does not decode"), "{public}");
        let mut stream = within(client.send(&target, "id", &5)).await.unwrap();
        assert_eq!(tokens(&mut stream).await, (vec![5], None));
    }
}

#[tokio::test]
async fn a_refusal_brings_its_class_and_its_public_text() {
    let (_server, client, target) = plane(|_, out| async move {
        out.refuse(wire_error(ErrorClass::EngineShutdown, "the engine stops", Some("try again"))).await;
    })
    .await;
    let error = within(client.send(&target, "id", &())).await.unwrap_err();
    assert_eq!((error.class, error.public.as_deref()), (ErrorClass::EngineShutdown, Some("try again")));
    assert!(error.message.contains("the engine stops"), "{error}");
}

#[tokio::test]
async fn an_error_item_ends_the_stream_with_its_class() {
    let (_server, client, target) = plane(|_, mut out| async move {
        out.item(&token(1)).await.unwrap();
        let error = wire_error(ErrorClass::Internal, "out of memory", None);
        out.item(&Annotated::<EngineOutput>::failed(error)).await.unwrap();
        out.finish().await;
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    let (ids, error) = tokens(&mut stream).await;
    let error = error.unwrap();
    assert_eq!((ids, error.class, error.message.as_str()), (vec![1], ErrorClass::Internal, "out of memory"));
    assert_eq!(within(stream.next::<EngineOutput>()).await, None);
}

#[tokio::test]
async fn a_refusal_after_items_is_an_error_item() {
    let (_server, client, target) = plane(|_, mut out| async move {
        out.item(&token(1)).await.unwrap();
        out.refuse(wire_error(ErrorClass::EngineShutdown, "going", None)).await;
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    let (ids, error) = tokens(&mut stream).await;
    assert_eq!((ids, error.unwrap().class), (vec![1], ErrorClass::EngineShutdown));
}

#[tokio::test]
async fn an_unknown_path_is_unavailable() {
    let (server, client, mut target) = plane(count).await;
    target.transport = RequestTransport::Tcp(format!("{}/1/dynamo/backend/other", server.address()));
    let error = within(client.send(&target, "id", &1)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::WorkerUnavailable);
    assert!(error.message.contains("1/dynamo/backend/other"), "{error}");
    server.withdraw(PATH);
    target.transport = RequestTransport::Tcp(format!("{}/{PATH}", server.address()));
    assert_eq!(within(client.send(&target, "id", &1)).await.unwrap_err().class, ErrorClass::WorkerUnavailable);
}

#[tokio::test]
async fn nobody_at_the_address_is_cannot_connect_for_everyone_who_waits() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (client, target) = (client().await, target(&address, Codec::Msgpack));
    let errors = futures::future::join_all((0..50).map(|_| client.send(&target, "id", &1))).await;
    for error in errors {
        let error = error.unwrap_err();
        assert_eq!(error.class, ErrorClass::CannotConnect);
        assert!(error.message.contains(&address), "{error}");
    }
}

#[tokio::test]
async fn a_worker_that_came_back_on_its_address_is_dialled_again() {
    let (server, client, mut target) = plane(count).await;
    let address = server.address();
    let mut stream = within(client.send(&target, "id", &2)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
    drop(server);
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let config = runtime::request_plane::RequestServerConfig { port, ..local_server() };
    let server = within(async {
        loop {
            // The old listener's port is free when its task has ended.
            match RequestServer::bind(config.clone()).await {
                Ok(server) => break server,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    server.serve(PATH.into(), handler_of(count));
    target.transport = RequestTransport::Tcp(format!("{address}/{PATH}"));
    // The first may meet the old connection in the moment of its end; that is retryable, and the retry succeeds.
    let mut stream = loop {
        match within(client.send(&target, "id", &3)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    };
    assert_eq!(tokens(&mut stream).await, (vec![0, 1, 2], None));
}

#[tokio::test]
async fn draining_refuses_the_new_and_finishes_the_running() {
    let go = Arc::new(Notify::new());
    let let_go = go.clone();
    let (server, client, target) = plane(move |_, mut out| {
        let go = go.clone();
        async move {
            out.item(&token(1)).await.unwrap();
            go.notified().await;
            out.item(&token(2)).await.unwrap();
            out.finish().await;
        }
    })
    .await;
    let mut running = within(client.send(&target, "id", &())).await.unwrap();
    server.stop_accepting();
    let refused = within(client.send(&target, "id", &())).await.unwrap_err();
    assert_eq!((refused.class, refused.is_retryable()), (ErrorClass::WorkerUnavailable, true));
    assert!(refused.message.contains("draining"), "{refused}");
    assert_eq!(server.running(), 1);
    let_go.notify_one();
    assert_eq!(tokens(&mut running).await, (vec![1, 2], None));
    drop(running);
    within(server.drained()).await;
    assert_eq!(server.running(), 0);
}

#[tokio::test]
async fn a_transport_that_is_not_ours_is_refused_by_name() {
    let (client, mut record) = (client().await, target("127.0.0.1:1", Codec::Msgpack));
    record.transport = RequestTransport::NatsTcp("dynamo_backend.generate-1".into());
    let error = within(client.send(&record, "id", &1)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotImplemented);
    record.transport = RequestTransport::Tcp("127.0.0.1:1".into());
    assert_eq!(within(client.send(&record, "id", &1)).await.unwrap_err().class, ErrorClass::BackendProtocol);
}

#[tokio::test]
async fn an_item_that_cannot_be_encoded_leaves_the_stream_whole() {
    let (_server, client, mut record) = plane(|_, mut out| async move {
        let no_json_key = std::collections::BTreeMap::from([((1, 2), 3)]);
        out.raw_item(&no_json_key).await.unwrap_err();
        out.item(&token(1)).await.unwrap();
        out.finish().await;
    })
    .await;
    record.request_plane_codec = Some(Codec::Json);
    let mut stream = within(client.send(&record, "id", &())).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![1], None));
}
