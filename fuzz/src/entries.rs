//! What each target does with its bytes. `crates/protocol/tests/fuzz_entries.rs` runs the same on the recordings.

use bytes::{Bytes, BytesMut};
use protocol::card::ModelCard;
use protocol::discovery::{Codec, Record};
use protocol::dynamo::zmtp::{Greeting, Incoming, Reader, encode_message};
use protocol::dynamo::{Ack, Envelope, FrameError, Handshake, Prologue, RequestControl, RequestFrame, TwoPart};
use protocol::dynamo::{ControlWord, card_sum, file_name};
use protocol::events::{ActiveSequenceEvent, ActiveSequencesMessage, ForwardPassMetrics, KvMetrics};
use protocol::events::{RecoveryAnswer, RecoveryQuery};
use protocol::kv::WorkerKvEvent;
use protocol::output::{Annotated, EngineOutput, StreamFrame};
use protocol::request::PreprocessedRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The request connection, both ways: frames from a frontend, acks from a worker.
pub fn request_frame(bytes: &[u8]) {
    for frame in in_pieces(bytes, RequestFrame::decode) {
        let mut again = BytesMut::new();
        // Headers may grow over their limit when escaped again; then they cannot be sent, which is no defect.
        if frame.encode_into(&mut again).is_ok() {
            assert_eq!(RequestFrame::decode(&mut again).unwrap(), Some(frame.clone()));
        }
        two_part(&frame.payload);
    }
    for ack in in_pieces(bytes, Ack::decode) {
        let mut again = BytesMut::new();
        ack.encode_into(&mut again);
        assert_eq!(Ack::decode(&mut again).unwrap().unwrap().is_taken(), ack.is_taken());
    }
}

/// The response connection: two-part messages and the control headers in them.
pub fn two_part(bytes: &[u8]) {
    for message in in_pieces(bytes, TwoPart::decode) {
        let mut again = BytesMut::new();
        message.encode_into(&mut again).unwrap();
        assert_eq!(TwoPart::decode(&mut again).unwrap(), Some(message.clone()));
        if let Ok(control) = Codec::Json.decode::<RequestControl>(&message.header) {
            let _ = control.connection_info.call_home();
        }
        stable::<Handshake>(Codec::Json, &message.header);
        stable::<Prologue>(Codec::Json, &message.header);
        let _ = ControlWord::of_header(&message.header);
    }
}

/// An event in both dresses: the payload of a NATS message, and the four frames of a ZMQ one.
pub fn event_envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_nats(&Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(Envelope::from_nats(&envelope.to_nats().unwrap()).unwrap(), envelope);
    assert_eq!(Envelope::from_zmq(&envelope.to_zmq().unwrap()).unwrap(), envelope);
    msgpack_bodies(&envelope.payload);
}

/// A ZMTP connection after, or with, its greeting.
pub fn zmtp(bytes: &[u8]) {
    let mut rest = BytesMut::from(bytes);
    let greeted = matches!(Greeting::decode(&mut rest), Ok(Some(_)));
    let frames = if greeted { &rest[..] } else { bytes };
    let mut reader = Reader::default();
    for incoming in in_pieces(frames, |buffer| reader.next(buffer)) {
        match incoming {
            Incoming::Command(command) => {
                let mut again = BytesMut::new();
                command.encode_into(&mut again);
                assert!(matches!(Reader::default().next(&mut again), Ok(Some(Incoming::Command(_)))));
            }
            Incoming::Message(frames) => {
                let read = Reader::default().next(&mut encode_message(&frames)).unwrap();
                assert_eq!(read, Some(Incoming::Message(frames.clone())));
                if let Ok(envelope) = Envelope::from_zmq(&frames) {
                    assert_eq!(Envelope::from_zmq(&envelope.to_zmq().unwrap()).unwrap(), envelope);
                }
            }
        }
    }
}

/// Every body that comes as MessagePack.
pub fn msgpack_bodies(bytes: &[u8]) {
    stable::<PreprocessedRequest>(Codec::Msgpack, bytes);
    stable::<StreamFrame<Annotated<EngineOutput>>>(Codec::Msgpack, bytes);
    stable::<RecoveryQuery>(Codec::Msgpack, bytes);
    stable::<StreamFrame<RecoveryAnswer>>(Codec::Msgpack, bytes);
    stable::<Vec<WorkerKvEvent>>(Codec::Msgpack, bytes);
    stable::<KvMetrics>(Codec::Msgpack, bytes);
    stable::<ActiveSequencesMessage>(Codec::Msgpack, bytes);
    stable::<ActiveSequenceEvent>(Codec::Msgpack, bytes);
    stable::<ForwardPassMetrics>(Codec::Msgpack, bytes);
}

/// A record of the discovery store, and its name.
pub fn discovery_record(bytes: &[u8]) {
    stable::<Record>(Codec::Json, bytes);
    if let Ok(record) = Codec::Json.decode::<Record>(bytes) {
        let (_, name) = record.key();
        assert_eq!(file_name::unescape(&file_name::escape(&name)), Some(name));
        if let Record::Model(model) = record {
            assert_eq!(card_sum(&model.card_json).len(), 64);
        }
    }
    if let Some(key) = std::str::from_utf8(bytes).ok().and_then(file_name::unescape) {
        assert_eq!(file_name::unescape(&file_name::escape(&key)), Some(key));
    }
}

/// A model card by itself: what a frontend believes of a model.
pub fn model_card(bytes: &[u8]) {
    stable::<ModelCard>(Codec::Json, bytes);
    let Ok(card) = Codec::Json.decode::<ModelCard>(bytes) else { return };
    assert_eq!(card_sum(&card).len(), 64);
    let again: ModelCard = Codec::Json.decode(&Codec::Json.encode(&card).unwrap()).unwrap();
    assert_eq!(card_sum(&again), card_sum(&card), "a card that is passed on is another card");
}

/// Decodes everything, whole and in two pieces; both must give the same, and an error must stay one.
fn in_pieces<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, FrameError>,
) -> Vec<T> {
    // The last byte says where to cut, so that the fuzzer can move the cut.
    let cut = bytes.last().map_or(0, |&byte| usize::from(byte) * bytes.len() / 256);
    let (mut buffer, mut items) = (BytesMut::from(&bytes[..cut]), Vec::new());
    let mut left = &bytes[cut..];
    loop {
        let before = buffer.len();
        match decode(&mut buffer) {
            Ok(Some(item)) => {
                assert!(buffer.len() < before, "an item of no bytes would be decoded for ever");
                items.push(item);
            }
            Ok(None) if left.is_empty() => return items,
            Ok(None) => {
                buffer.extend_from_slice(left);
                left = &[];
            }
            Err(_) => return items,
        }
    }
}

/// What decodes encodes, and its encoding decodes; as MessagePack it is then stable byte for byte. (JSON's floats are
/// read to the last digit but one.)
fn stable<T: DeserializeOwned + Serialize>(codec: Codec, bytes: &[u8]) {
    let Ok(value) = codec.decode::<T>(bytes) else { return };
    let first = codec.encode(&value).unwrap();
    let second = codec.encode(&codec.decode::<T>(&first).unwrap()).unwrap();
    if codec == Codec::Msgpack {
        assert_eq!(first, second);
    }
}
