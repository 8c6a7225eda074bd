//! `request-plane/*.bin`: request frames, acks, and both directions of response connections.

use crate::{Tally, file_name, files, read, same};
use bytes::{Bytes, BytesMut};
use protocol::discovery::Codec;
use protocol::dynamo::two_part::Shape;
use protocol::dynamo::{Ack, CallHome, ControlWord, Handshake, Prologue, RequestControl, RequestFrame, TwoPart};
use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::output::{Annotated, EngineOutput, StreamFrame};
use protocol::request::PreprocessedRequest;

/// The two-part message of a request: control header and body, both byte-equal after a round trip.
pub(crate) fn check_request_message(payload: &Bytes, path_or_subject: &str, place: &str, tally: &mut Tally) {
    let mut rest = BytesMut::from(&payload[..]);
    let message = TwoPart::decode(&mut rest).unwrap().unwrap();
    assert!(rest.is_empty(), "{place}: bytes behind the message");
    assert_eq!(message.shape(), Shape::Request, "{place}");
    let mut again = BytesMut::new();
    message.encode_into(&mut again).unwrap();
    assert!(again == payload, "{place}: two-part message");
    let control: RequestControl = same(Codec::Json, &message.header, place);
    let call_home: CallHome = same(Codec::Json, control.connection_info.info.as_bytes(), place);
    assert_eq!(control.connection_info.call_home().unwrap(), call_home, "{place}");
    assert_eq!(call_home.context, control.id, "{place}");
    if path_or_subject.contains("worker_kv_query_source_") {
        same::<RecoveryQuery>(control.codec(), &message.body, place);
        tally.add("recovery query");
    } else {
        same::<PreprocessedRequest>(control.codec(), &message.body, place);
        tally.add("preprocessed request");
    }
}

#[test]
fn every_request_frame_comes_back() {
    let mut tally = Tally::default();
    for path in files("request-plane", ".request.frontend-to-worker.bin") {
        let (place, recorded) = (file_name(&path), read(&path));
        let mut rest = recorded.clone();
        let frame = RequestFrame::decode(&mut rest).unwrap().unwrap();
        assert!(rest.is_empty(), "{place}: bytes behind the frame");
        let mut again = BytesMut::new();
        frame.encode_into(&mut again).unwrap();
        assert!(again == recorded, "{place}: request frame");
        assert_eq!(frame.headers.get("x-endpoint-path"), Some(&frame.path[..]), "{place}");
        check_request_message(&frame.payload, &frame.path, place, &mut tally);
        tally.add("request frame");
    }
    tally.is(&[("preprocessed request", 12), ("recovery query", 4), ("request frame", 16)]);
}

#[test]
fn every_ack_comes_back() {
    let mut tally = Tally::default();
    for path in files("request-plane", ".ack.worker-to-frontend.bin") {
        let recorded = read(&path);
        let mut rest = recorded.clone();
        let ack = Ack::decode(&mut rest).unwrap().unwrap();
        assert_eq!((&ack, rest.len()), (&Ack::Taken, 0), "{}", path.display());
        let mut again = BytesMut::new();
        ack.encode_into(&mut again);
        assert_eq!(again, recorded);
        tally.add("ack");
    }
    tally.is(&[("ack", 16)]);
}

#[test]
fn every_response_stream_comes_back() {
    let mut tally = Tally::default();
    for path in files("request-plane", ".response.worker-to-frontend.bin") {
        let (place, recorded) = (file_name(&path), read(&path));
        let (mut rest, mut again) = (recorded.clone(), BytesMut::new());
        let recovery = place.starts_with("recovery-");
        let mut index = 0;
        while let Some(message) = TwoPart::decode(&mut rest).unwrap() {
            message.encode_into(&mut again).unwrap();
            check_response_frame(index, &message, recovery, &format!("{place} frame {index}"), &mut tally);
            index += 1;
        }
        assert!(rest.is_empty(), "{place}: {} bytes are no frame", rest.len());
        assert!(again == recorded, "{place}: two-part messages");
        tally.add("connection");
    }
    tally.is(&[
        ("connection", 16),
        ("end", 13),
        ("handshake", 16),
        ("item", 148),
        ("prologue", 16),
        ("recovery answer", 4),
        ("sentinel", 13),
    ]);
}

fn check_response_frame(index: usize, message: &TwoPart, recovery: bool, place: &str, tally: &mut Tally) {
    match (index, message.shape()) {
        (0, Shape::Control) => {
            same::<Handshake>(Codec::Json, &message.header, place);
            tally.add("handshake");
        }
        (1, Shape::Control) => {
            assert_eq!(same::<Prologue>(Codec::Json, &message.header, place), Prologue::default());
            tally.add("prologue");
        }
        (_, Shape::Control) => {
            assert_eq!(ControlWord::of_header(&message.header), Some(ControlWord::Sentinel), "{place}");
            tally.add("sentinel");
        }
        (_, Shape::Data) if recovery => {
            let frame: StreamFrame<RecoveryAnswer> = same(Codec::Msgpack, &message.body, place);
            assert_eq!(frame.data.is_none(), frame.complete_final, "{place}");
            tally.add(if frame.complete_final { "end" } else { "recovery answer" });
        }
        (_, Shape::Data) => {
            let frame: StreamFrame<Annotated<EngineOutput>> = same(Codec::Msgpack, &message.body, place);
            assert_eq!(frame.data.is_none(), frame.complete_final, "{place}");
            tally.add(if frame.complete_final { "end" } else { "item" });
        }
        (_, shape) => panic!("{place}: a frame of shape {shape:?}"),
    }
}

#[test]
fn every_cancel_comes_back() {
    let mut tally = Tally::default();
    for path in files("request-plane", ".response.frontend-to-worker.bin") {
        let recorded = read(&path);
        let mut rest = recorded.clone();
        let message = TwoPart::decode(&mut rest).unwrap().unwrap();
        assert_eq!(ControlWord::of_header(&message.header), Some(ControlWord::Kill));
        let mut again = BytesMut::new();
        TwoPart::control(ControlWord::Kill.header()).encode_into(&mut again).unwrap();
        assert_eq!(again, recorded);
        tally.add("kill");
    }
    tally.is(&[("kill", 2)]);
}
