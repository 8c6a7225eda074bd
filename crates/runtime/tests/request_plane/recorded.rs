//! Bytes of stock Dynamo 1.6.1, recorded between real processes: its requests into our server, its answers into our
//! client, and our answer to a recorded request byte for byte the recorded answer.

use super::plane::{FakeWorker, Peer, client, handler_of, local_server, server_with, tokens, within};
use bytes::BytesMut;
use protocol::discovery::Codec;
use protocol::dynamo::{CallHome, RequestControl, RequestFrame, TwoPart};
use protocol::events::RecoveryAnswer;
use protocol::output::{Annotated, EngineOutput, StreamFrame};
use protocol::request::PreprocessedRequest;
use runtime::request_plane::{ErrorClass, RequestError};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

const UNARY_AND_STREAMED: [&str; 6] = ["unary", "stream8", "cached", "completions", "feA_sync", "feB_sync"];
const RECOVERIES: [&str; 3] = ["recovery-start", "recovery-second_frontend", "recovery-second_worker"];

fn recording(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/data/dynamo-wire/request-plane");
    std::fs::read(folder.join(format!("{name}.bin"))).unwrap_or_else(|error| panic!("the recording {name}: {error}"))
}

fn answer_of(scene: &str) -> Vec<u8> {
    recording(&format!("{scene}.response.worker-to-frontend"))
}

/// The messages of a recorded answer, without its handshake and prologue.
fn messages_of(answer: &[u8]) -> Vec<TwoPart> {
    let mut wire = BytesMut::from(answer);
    std::iter::from_fn(|| TwoPart::decode(&mut wire).unwrap()).skip(2).collect()
}

/// The items of a recorded answer as a worker would give them to its responder.
fn items_of<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Vec<T> {
    let bodies = messages_of(answer).into_iter().filter(|message| !message.body.is_empty());
    bodies.filter_map(|message| Codec::Msgpack.decode::<StreamFrame<T>>(&message.body).unwrap().data).collect()
}

/// A recorded request, whose call-home goes to `home`: the address is replaced by one as long.
fn request_to(scene: &str, home: &TcpListener) -> (RequestFrame, CallHome, Vec<u8>) {
    let recorded = recording(&format!("{scene}.request.frontend-to-worker"));
    let frame = RequestFrame::decode(&mut BytesMut::from(&recorded[..])).unwrap().unwrap();
    let message = TwoPart::decode(&mut BytesMut::from(&frame.payload[..])).unwrap().unwrap();
    let control: RequestControl = serde_json::from_slice(&message.header).unwrap();
    let call_home = control.connection_info.call_home().unwrap();
    let (from, to) = (call_home.address.clone().into_bytes(), home.local_addr().unwrap().to_string().into_bytes());
    assert_eq!(from.len(), to.len(), "the test's port has five digits as well");
    let at = recorded.windows(from.len()).position(|window| window == from).unwrap();
    let wire = [&recorded[..at], &to, &recorded[at + from.len()..]].concat();
    (frame, call_home, wire)
}

async fn five_digit_listener() -> TcpListener {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if listener.local_addr().unwrap().port() >= 10_000 {
            return listener;
        }
    }
}

/// Sends a recorded request to a server of ours and gives back all that it answers.
async fn replay<T>(scene: &str) -> Vec<u8>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    let home = five_digit_listener().await;
    let (frame, call_home, wire) = request_to(scene, &home);
    let items: Arc<Vec<T>> = Arc::new(items_of(&answer_of(scene)));
    let id = call_home.context.clone();
    let handler = handler_of(move |incoming, mut out| {
        let (items, id) = (items.clone(), id.clone());
        async move {
            assert_eq!((incoming.id.as_str(), incoming.codec), (id.as_str(), Codec::Msgpack));
            for item in items.iter() {
                out.raw_item(item).await.unwrap();
            }
            out.finish().await;
        }
    });
    let server = server_with(local_server(), handler.clone()).await;
    server.serve(frame.path, handler);
    let mut requests = Peer::dial(&server.address()).await;
    requests.write(&wire).await;
    let ack = recording(&format!("{scene}.ack.worker-to-frontend"));
    assert_eq!(requests.bytes(ack.len()).await, ack);
    let mut answer = Peer::new(within(home.accept()).await.unwrap().0);
    let recorded = answer_of(scene).len();
    answer.bytes(recorded).await
}

#[tokio::test]
async fn our_worker_answers_recorded_requests_with_the_recorded_bytes() {
    for scene in UNARY_AND_STREAMED {
        assert!(replay::<Annotated<EngineOutput>>(scene).await == answer_of(scene), "{scene}");
    }
    for scene in RECOVERIES {
        assert!(replay::<RecoveryAnswer>(scene).await == answer_of(scene), "{scene}");
    }
}

#[tokio::test]
async fn recorded_request_bodies_decode() {
    for scene in UNARY_AND_STREAMED {
        let (_, _, wire) = request_to(scene, &five_digit_listener().await);
        let frame = RequestFrame::decode(&mut BytesMut::from(&wire[..])).unwrap().unwrap();
        let message = TwoPart::decode(&mut BytesMut::from(&frame.payload[..])).unwrap().unwrap();
        let body: PreprocessedRequest = Codec::Msgpack.decode(&message.body).unwrap();
        assert!(!body.token_ids.is_empty(), "{scene}");
    }
}

/// Our client's view of a recorded answer that comes in pieces of `piece` bytes.
async fn read_by_us(answer: &[u8], piece: usize) -> (Vec<u32>, Option<RequestError>) {
    let (fake, target) = FakeWorker::new().await;
    let client = client().await;
    let mut rest = BytesMut::from(answer);
    let recorded_handshake = TwoPart::decode(&mut rest).unwrap().unwrap();
    assert!(recorded_handshake.header.starts_with(b"{\"subject\":"));
    let (outcome, ()) = tokio::join!(
        async {
            let mut stream = within(client.send(&target, "id", &())).await.unwrap();
            tokens(&mut stream).await
        },
        async {
            let (_requests, mut home) = fake.called().await;
            for piece in rest.chunks(piece) {
                home.write(piece).await;
            }
        }
    );
    outcome
}

#[tokio::test]
async fn our_client_reads_recorded_answers_in_pieces_of_any_size() {
    for scene in UNARY_AND_STREAMED {
        let answer = answer_of(scene);
        let items = items_of::<Annotated<EngineOutput>>(&answer);
        let expected: Vec<u32> = items.into_iter().flat_map(|item| item.data.unwrap().token_ids).collect();
        assert!(!expected.is_empty(), "{scene}");
        for piece in [7, 160, 1_000_000] {
            assert_eq!(read_by_us(&answer, piece).await, (expected.clone(), None), "{scene} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_recorded_stream_that_was_cut_by_sigkill_is_incomplete_after_its_tokens() {
    for scene in ["kill", "kill_last"] {
        let answer = answer_of(scene);
        let items = items_of::<Annotated<EngineOutput>>(&answer);
        let expected: Vec<u32> = items.into_iter().flat_map(|item| item.data.unwrap().token_ids).collect();
        let (ids, error) = read_by_us(&answer, 4_096).await;
        let error = error.unwrap();
        assert_eq!((ids, error.class, error.is_retryable()), (expected, ErrorClass::StreamIncomplete, true), "{scene}");
    }
}
