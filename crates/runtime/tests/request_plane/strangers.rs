//! Peers that break the protocol, or use it in ways that ours do not.

use super::plane::{FakeWorker, PATH, Peer, client, count, plane, token, tokens, within};
use bytes::{Bytes, BytesMut};
use protocol::discovery::Codec;
use protocol::dynamo::control::StreamType;
use protocol::dynamo::two_part::encode_data;
use protocol::dynamo::{Ack, CallHome, ConnectionInfo, Headers, RequestControl, RequestFrame, TwoPart};
use protocol::output::{EngineOutput, StreamFrame};
use runtime::request_plane::{ErrorClass, RequestError, RequestServer};
use serde_json::json;
use socket2::SockRef;
use std::time::Duration;
use tokio::net::TcpListener;

/// Sends one raw request, and gives the ack's text.
async fn ack_of(peer: &mut Peer, header: &str, body: &[u8]) -> String {
    let mut payload = BytesMut::new();
    let message = TwoPart { header: Bytes::from(header.to_owned()), body: Bytes::from(body.to_vec()) };
    message.encode_into(&mut payload).unwrap();
    let mut wire = BytesMut::new();
    let frame = RequestFrame { path: PATH.into(), headers: Headers::default(), payload: payload.freeze() };
    frame.encode_into(&mut wire).unwrap();
    peer.write(&wire).await;
    peer.next_ack().await.unwrap().text()
}

fn call_home(address: &str) -> CallHome {
    CallHome {
        address: address.into(),
        subject: "subject".into(),
        context: "id".into(),
        stream_type: StreamType::Response,
    }
}

async fn raw_request(server: &RequestServer) -> (Peer, Peer) {
    let home = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control = RequestControl::new(Codec::Msgpack, &call_home(&home.local_addr().unwrap().to_string()));
    let mut peer = Peer::dial(&server.address()).await;
    let body = Codec::Msgpack.encode(&3).unwrap();
    assert_eq!(ack_of(&mut peer, &serde_json::to_string(&control).unwrap(), &body).await, "");
    (peer, Peer::new(within(home.accept()).await.unwrap().0))
}

#[tokio::test]
async fn a_control_header_that_does_not_decode_is_refused_in_the_ack() {
    let (server, _client, _target) = plane(count).await;
    let mut peer = Peer::dial(&server.address()).await;
    let mut control = RequestControl::new(Codec::Json, &call_home("127.0.0.1:1"));
    assert!(ack_of(&mut peer, "{", b"1").await.starts_with("Server unavailable: the control header does not decode"));
    control.connection_info = ConnectionInfo { transport: "quic_response".into(), info: "{}".into() };
    let quic = serde_json::to_string(&control).unwrap();
    assert!(ack_of(&mut peer, &quic, b"1").await.contains("`quic_response`"));
    control = RequestControl::new(Codec::Json, &call_home("127.0.0.1:1"));
    control.id = "another".into();
    let other = serde_json::to_string(&control).unwrap();
    assert!(ack_of(&mut peer, &other, b"1").await.contains("context id differs from the request's id another"));
    // The connection is as good as before.
    let good = serde_json::to_string(&RequestControl::new(Codec::Json, &call_home("127.0.0.1:1"))).unwrap();
    assert_eq!(ack_of(&mut peer, &good, b"1").await, "");
}

#[tokio::test]
async fn the_answer_has_the_stock_frames() {
    let (server, _client, _target) = plane(count).await;
    let (_requests, mut home) = raw_request(&server).await;
    let headers = [r#"{"subject":"subject","stream_type":"response"}"#, r#"{"error":null}"#];
    for header in headers {
        assert_eq!(home.message().await.unwrap(), TwoPart::control(header.as_bytes()));
    }
    for id in 0..3 {
        let frame: StreamFrame<serde_json::Value> = Codec::Msgpack.decode(&home.message().await.unwrap().body).unwrap();
        assert_eq!(frame.data.unwrap()["data"]["token_ids"], json!([id]));
    }
    assert_eq!(home.message().await.unwrap().body, Codec::Msgpack.encode(&json!({"complete_final": true})).unwrap());
    assert_eq!(home.message().await.unwrap(), TwoPart::control(&b"\"sentinel\""[..]));
    // The worker leaves it to the frontend to close.
    let more = tokio::time::timeout(Duration::from_millis(100), home.message()).await;
    assert!(more.is_err(), "{more:?}");
    drop(home);
    within(server.drained()).await;
}

#[tokio::test]
async fn kill_stop_and_fin_each_cancel() {
    for word in [Some("\"kill\""), Some("\"stop\""), None] {
        let (server, _client, _target) = plane(|_, mut out| async move {
            out.item(&token(1)).await.unwrap();
            out.cancelled().cancelled().await;
        })
        .await;
        let (_requests, mut home) = raw_request(&server).await;
        for _handshake_prologue_item in 0..3 {
            home.message().await.unwrap();
        }
        match word {
            Some(word) => home.control(word).await,
            None => SockRef::from(&home.stream).shutdown(std::net::Shutdown::Write).unwrap(),
        }
        assert_eq!(home.message().await, None, "no complete_final, no sentinel after {word:?}");
        within(server.drained()).await;
    }
}

#[tokio::test]
async fn many_in_is_refused_by_name() {
    let (server, _client, _target) = plane(count).await;
    let home = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut control = RequestControl::new(Codec::Json, &call_home(&home.local_addr().unwrap().to_string()));
    control.request_type = protocol::dynamo::control::RequestType::ManyIn;
    let mut peer = Peer::dial(&server.address()).await;
    assert_eq!(ack_of(&mut peer, &serde_json::to_string(&control).unwrap(), b"").await, "");
    let mut home = Peer::new(within(home.accept()).await.unwrap().0);
    home.message().await.unwrap();
    let prologue: serde_json::Value = serde_json::from_slice(&home.message().await.unwrap().header).unwrap();
    assert_eq!(prologue["typed_error"]["class"], "NotImplemented");
}

#[tokio::test]
async fn a_frame_in_pieces_is_put_together_and_half_a_frame_is_dropped() {
    let (server, client, target) = plane(count).await;
    let mut half = Peer::dial(&server.address()).await;
    half.write(&[0, 40, b'x']).await;
    drop(half);
    let mut stream = within(client.send(&target, "id", &2)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
}

/// What our client makes of a stream that a worker writes as `play` says.
async fn answered<F>(play: F) -> (Vec<u32>, Option<RequestError>)
where
    F: AsyncFnOnce(&mut Peer),
{
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (outcome, ()) = tokio::join!(
        async {
            match client.send(&target, "id", &()).await {
                Ok(mut stream) => tokens(&mut stream).await,
                Err(error) => (vec![], Some(error)),
            }
        },
        async {
            let (_requests, mut home) = fake.called().await;
            play(&mut home).await;
            home.message().await;
        }
    );
    outcome
}

fn item(id: u32) -> serde_json::Value {
    json!({"data": {"data": {"token_ids": [id]}}, "complete_final": false})
}

#[tokio::test]
async fn endings_that_strangers_write() {
    let accepted = r#"{"error":null}"#;
    let (ids, error) = answered(async |home: &mut Peer| {
        home.control(accepted).await;
        home.data(&item(1)).await;
        home.control("\"sentinel\"").await;
    })
    .await;
    assert_eq!((ids, error.unwrap().class), (vec![1], ErrorClass::StreamIncomplete), "no complete_final");

    let whole = answered(async |home: &mut Peer| {
        home.control(accepted).await;
        home.data(&json!({"data": {"data": {"token_ids": [1, 2]}}, "complete_final": true})).await;
    })
    .await;
    assert_eq!(whole, (vec![1, 2], None), "an item in the last frame, and no sentinel");

    let (ids, error) = answered(async |home: &mut Peer| {
        home.control(accepted).await;
        home.control("\"what is this\"").await;
        home.data(&json!({"data": {"event": "error", "comment": ["it", "broke"]}, "complete_final": false})).await;
    })
    .await;
    let error = error.unwrap();
    assert_eq!((ids, error.class), (vec![], ErrorClass::Internal));
    assert!(error.message.ends_with("it; broke"), "{error}");
}

#[tokio::test]
async fn prologues_that_strangers_write() {
    let refused =
        async |prologue: &str| answered(async |home: &mut Peer| home.control(prologue).await).await.1.unwrap();
    let untyped = refused(r#"{"error":"the probe refuses"}"#).await;
    assert_eq!((untyped.class, untyped.is_retryable()), (ErrorClass::WorkerUnavailable, true));
    assert!(untyped.message.ends_with("the probe refuses"), "{untyped}");
    let typed = r#"{"error":"x","typed_error":{"class":"InvalidRequest","public":{"type":"message","message":"no"}}}"#;
    let typed = refused(typed).await;
    assert_eq!((typed.class, typed.public.as_deref()), (ErrorClass::InvalidRequest, Some("no")));
    assert_eq!(refused("\"no\"").await.class, ErrorClass::BackendProtocol);
    let left_out = answered(async |home: &mut Peer| home.data(&item(1)).await).await.1.unwrap();
    assert_eq!(left_out.class, ErrorClass::BackendProtocol, "an item where the prologue belongs");
    let broken = answered(async |home: &mut Peer| {
        home.control(r#"{"error":null}"#).await;
        home.write(&[0xff; 24]).await;
    });
    assert_eq!(broken.await.1.unwrap().class, ErrorClass::BackendProtocol);
    let other_codec = answered(async |home: &mut Peer| {
        home.control(r#"{"error":null}"#).await;
        let mut out = BytesMut::new();
        encode_data(Codec::Json, &item(1), &mut out).unwrap();
        home.write(&out).await;
    });
    assert_eq!(other_codec.await.1.unwrap().class, ErrorClass::BackendProtocol);
}

#[tokio::test]
async fn what_came_before_a_reset_is_read() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (stream, _requests) = tokio::join!(client.send(&target, "id", &()), async {
        let (requests, mut home) = fake.called().await;
        home.control(r#"{"error":null}"#).await;
        // In one write: what is still in the sender's queue, a reset throws away.
        let mut wire = BytesMut::new();
        for id in 0..100 {
            encode_data(Codec::Msgpack, &item(id), &mut wire).unwrap();
        }
        encode_data(Codec::Msgpack, &json!({"complete_final": true}), &mut wire).unwrap();
        home.write(&wire).await;
        SockRef::from(&home.stream).set_linger(Some(Duration::ZERO)).unwrap();
        requests
    });
    assert_eq!(tokens(&mut stream.unwrap()).await, ((0..100).collect(), None));
}

#[tokio::test]
async fn a_wait_for_an_item_may_be_dropped_and_taken_up_again() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (stream, (_requests, mut home)) = tokio::join!(client.send(&target, "id", &()), async {
        let (requests, mut home) = fake.called().await;
        home.control(r#"{"error":null}"#).await;
        (requests, home)
    });
    let mut stream = stream.unwrap();
    let mut wire = BytesMut::new();
    encode_data(Codec::Msgpack, &item(7), &mut wire).unwrap();
    encode_data(Codec::Msgpack, &json!({"complete_final": true}), &mut wire).unwrap();
    let mut told = 0;
    for byte in wire {
        home.write(&[byte]).await;
        if let Ok(Some(item)) = tokio::time::timeout(Duration::from_micros(50), stream.next::<EngineOutput>()).await {
            assert_eq!(item.unwrap().data.unwrap().token_ids, [7]);
            told += 1;
        }
    }
    while let Some(item) = within(stream.next::<EngineOutput>()).await {
        assert_eq!(item.unwrap().data.unwrap().token_ids, [7]);
        told += 1;
    }
    assert_eq!(told, 1);
}

#[tokio::test]
async fn noise_at_the_response_listener_harms_nobody() {
    let (_server, client, target) = plane(count).await;
    let noise: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n0123456789abcdef", &[0; 24], &[0xff; 100], b""];
    for bytes in noise {
        let mut peer = Peer::dial(client.response_address()).await;
        peer.write(bytes).await;
        SockRef::from(&peer.stream).shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peer.message().await, None);
    }
    let mut nobody = Peer::dial(client.response_address()).await;
    nobody.control(r#"{"subject":"nobody waits for this","stream_type":"response"}"#).await;
    assert_eq!(nobody.message().await, None);
    let mut stream = within(client.send(&target, "id", &2)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
}

#[tokio::test]
async fn an_ack_that_nobody_waits_for_ends_the_connection() {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let (error, ()) = tokio::join!(client.send(&target, "id", &()), async {
        let mut connection = fake.connection().await;
        connection.request().await;
        connection.ack(&Ack::Overloaded("full".into())).await;
        connection.ack(&Ack::Taken).await;
        assert!(!connection.read().await);
    });
    assert_eq!(error.unwrap_err().class, ErrorClass::WorkerOverloaded);
}
