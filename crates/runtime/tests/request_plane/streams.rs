//! Requests that succeed.

use super::plane::{PATH, client, count, handler_of, local_server, plane, server_with, target, token, tokens, within};
use futures::future::join_all;
use protocol::discovery::Codec;
use protocol::output::EngineOutput;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[tokio::test]
async fn items_arrive_in_order_and_the_stream_ends() {
    let (server, client, mut target) = plane(count).await;
    for codec in [Some(Codec::Msgpack), Some(Codec::Json), None] {
        target.request_plane_codec = codec;
        let mut stream = within(client.send(&target, "id", &1_000)).await.unwrap();
        assert_eq!(tokens(&mut stream).await, ((0..1_000).collect(), None), "{codec:?}");
        assert_eq!(within(stream.next::<EngineOutput>()).await, None, "and stays at its end");
    }
    within(server.drained()).await;
}

#[tokio::test]
async fn the_handler_gets_id_path_headers_codec_and_body() {
    let (_server, client, target) = plane(|incoming, mut out| async move {
        let body: Value = incoming.decode().unwrap();
        let seen = json!([
            incoming.id,
            incoming.path,
            format!("{:?}", incoming.codec),
            body,
            incoming.headers.get("traceparent"),
            incoming.headers.get("request-id"),
            incoming.headers.get("x-endpoint-path")
        ]);
        out.raw_item(&seen).await.unwrap();
        out.finish().await;
    })
    .await;
    let body = json!({"instance_id": u64::MAX});
    let mut stream = within(client.send_with(&target, "some-id", &[("traceparent", "00-1")], &body)).await.unwrap();
    let seen: Value = within(stream.next_raw()).await.unwrap().unwrap();
    assert_eq!(seen, json!(["some-id", PATH, "Msgpack", body, "00-1", "some-id", PATH]));
    assert_eq!(within(stream.next_raw::<Value>()).await, None);
}

#[tokio::test]
async fn an_accepted_request_may_take_its_time() {
    let (let_go, held) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (go, hold) = (let_go.clone(), held.clone());
    let (_server, client, target) = plane(move |_, mut out| {
        let (go, hold) = (go.clone(), hold.clone());
        async move {
            out.accept().await.unwrap();
            hold.notify_one();
            go.notified().await;
            out.item(&token(7)).await.unwrap();
            out.finish().await;
        }
    })
    .await;
    let mut stream = within(client.send(&target, "id", &())).await.unwrap();
    within(held.notified()).await;
    assert!(stream.try_next::<EngineOutput>().is_none());
    let_go.notify_one();
    assert_eq!(tokens(&mut stream).await, (vec![7], None));
}

#[tokio::test]
async fn an_empty_answer_is_an_answer() {
    let (_server, client, target) = plane(count).await;
    let mut stream = within(client.send(&target, "id", &0)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![], None));
}

#[tokio::test]
async fn what_came_in_one_read_is_had_without_waiting() {
    let (_server, client, target) = plane(count).await;
    let mut stream = within(client.send(&target, "id", &500)).await.unwrap();
    let (mut read, mut waits) = (0, 0);
    while within(stream.next::<EngineOutput>()).await.is_some() {
        (read, waits) = (read + 1, waits + 1);
        while let Some(item) = stream.try_next::<EngineOutput>() {
            item.unwrap();
            read += 1;
        }
    }
    assert_eq!(read, 500);
    assert!(waits < 500, "each of {read} items was waited for");
}

/// Forwards connections to a server, and counts them.
async fn counting_proxy(upstream: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let mut near = listener.accept().await.unwrap().0;
            counted.fetch_add(1, Ordering::SeqCst);
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn twenty_requests_at_once_share_one_connection() {
    let server = server_with(local_server(), handler_of(count)).await;
    let (address, connections) = counting_proxy(server.address()).await;
    let (client, target) = (client().await, target(&address, Codec::Msgpack));
    let requests = (0..20).map(|n| {
        let (client, target) = (client.clone(), target.clone());
        async move {
            let mut stream = within(client.send(&target, &format!("id-{n}"), &n)).await.unwrap();
            assert_eq!(tokens(&mut stream).await, ((0..n).collect(), None));
        }
    });
    join_all(requests).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_bodies_and_items_pass_both_ways() {
    let (_server, client, target) = plane(|incoming, mut out| async move {
        let body: Vec<u32> = incoming.decode().unwrap();
        out.raw_item(&body).await.unwrap();
        out.finish().await;
    })
    .await;
    let body: Vec<u32> = (0..2_000_000).collect();
    let mut stream = within(client.send(&target, "id", &body)).await.unwrap();
    assert_eq!(within(stream.next_raw::<Vec<u32>>()).await.unwrap().unwrap(), body);
}
