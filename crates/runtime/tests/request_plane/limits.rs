//! Bounds: how many requests, how large.

use super::plane::{
    FakeWorker, Peer, client, count, handler_of, local_server, plane, server_with, target, token, tokens, within,
};
use bytes::{BufMut, BytesMut};
use protocol::discovery::Codec;
use protocol::dynamo::Ack;
use runtime::request_plane::{ErrorClass, RequestServerConfig};
use std::sync::Arc;
use tokio::sync::Semaphore;

async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn beyond_running_and_queued_the_answer_is_overloaded() {
    let gate = Arc::new(Semaphore::new(0));
    let gated = gate.clone();
    let handler = handler_of(move |_, mut out| {
        let gated = gated.clone();
        async move {
            gated.acquire().await.unwrap().forget();
            out.item(&token(1)).await.unwrap();
            out.finish().await;
        }
    });
    let config = RequestServerConfig { requests_running_max: 1, requests_queued_max: 1, ..local_server() };
    let server = server_with(config, handler).await;
    let (client, target) = (client().await, target(&server.address(), Codec::Msgpack));
    let spawned = |id: &'static str| {
        let (client, target) = (client.clone(), target.clone());
        tokio::spawn(async move {
            let mut stream = client.send(&target, id, &()).await?;
            Ok::<_, runtime::request_plane::RequestError>(tokens(&mut stream).await)
        })
    };
    let (first, second) = (spawned("1"), spawned("2"));
    within(until(|| server.running() == 2)).await;
    let third = within(client.send(&target, "3", &())).await.unwrap_err();
    assert_eq!((third.class, third.is_retryable()), (ErrorClass::WorkerOverloaded, true));
    gate.add_permits(2);
    assert_eq!(within(first).await.unwrap().unwrap(), (vec![1], None));
    assert_eq!(within(second).await.unwrap().unwrap(), (vec![1], None));
    within(server.drained()).await;
    gate.add_permits(1);
    let mut fourth = within(client.send(&target, "4", &())).await.unwrap();
    assert_eq!(tokens(&mut fourth).await, (vec![1], None), "the places were given back");
}

#[tokio::test]
async fn a_queued_request_that_is_cancelled_never_runs() {
    let (gate, ran) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (gated, runs) = (gate.clone(), ran.clone());
    let handler = handler_of(move |_, out| {
        let (gated, runs) = (gated.clone(), runs.clone());
        async move {
            runs.add_permits(1);
            gated.acquire().await.unwrap().forget();
            out.finish().await;
        }
    });
    let config = RequestServerConfig { requests_running_max: 1, ..local_server() };
    let server = server_with(config, handler).await;
    let (client, target) = (client().await, target(&server.address(), Codec::Msgpack));
    let (holder_client, holder_target) = (client.clone(), target.clone());
    let holder = tokio::spawn(async move { holder_client.send(&holder_target, "1", &()).await.map(|_| ()) });
    within(ran.acquire()).await.unwrap().forget();
    let queued = tokio::spawn(async move { client.send(&target, "2", &()).await.map(|_| ()) });
    within(until(|| server.running() == 2)).await;
    queued.abort();
    within(until(|| server.running() == 1)).await;
    gate.add_permits(1);
    within(holder).await.unwrap().unwrap();
    within(server.drained()).await;
    assert_eq!(ran.available_permits(), 0);
}

#[tokio::test]
async fn a_body_over_the_frame_limit_is_not_sent() {
    let (_server, client, target) = plane(count).await;
    let error = within(client.send(&target, "id", &"x".repeat(33 << 20))).await.unwrap_err();
    assert_eq!((error.class, error.is_retryable()), (ErrorClass::PayloadTooLarge, false));
    assert!(error.message.contains("33554432") || error.message.contains("limit"), "{error}");
    let mut stream = within(client.send(&target, "id", &1)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0], None));
}

#[tokio::test]
async fn a_frame_that_claims_too_much_is_refused_at_its_head() {
    let (server, _client, _target) = plane(count).await;
    let mut peer = Peer::dial(&server.address()).await;
    let mut head = BytesMut::new();
    head.put_slice(&[0, 1, b'p', 0, 2, b'{', b'}']);
    head.put_u32(u32::MAX);
    peer.write(&head).await;
    let ack = peer.next_ack().await.unwrap();
    assert!(matches!(&ack, Ack::Unavailable(why) if why.contains("4294967295")), "{ack:?}");
    assert_eq!(peer.next_ack().await, None, "and closed: where the next frame begins is not known");
}

#[tokio::test]
async fn acks_keep_the_order_of_pipelined_requests() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let senders: Vec<_> = (0..3)
        .map(|n| {
            let (client, target) = (client.clone(), target.clone());
            tokio::spawn(async move { client.send(&target, &format!("id-{n}"), &()).await.map(|_| ()) })
        })
        .collect();
    let mut requests = fake.connection().await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(requests.request().await.1.context);
    }
    for id in &order {
        requests.ack(&Ack::Overloaded(format!("no room for {id}"))).await;
    }
    for (n, sender) in senders.into_iter().enumerate() {
        let error = within(sender).await.unwrap().unwrap_err();
        assert_eq!(error.class, ErrorClass::WorkerOverloaded);
        assert!(error.message.ends_with(&format!("no room for id-{n}")), "{error}");
    }
}
