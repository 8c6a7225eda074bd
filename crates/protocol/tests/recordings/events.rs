//! `zmq/*.bin` and `nats/*.bin`: whole connections, both ways.

use crate::request_plane::check_request_message;
use crate::{Tally, file_name, files, read, same};
use bytes::{Bytes, BytesMut};
use protocol::discovery::Codec;
use protocol::dynamo::Envelope;
use protocol::dynamo::zmtp::{Command, Greeting, Incoming, Reader, encode_message};
use protocol::events::{
    ACTIVE_SEQUENCES_EVENTS, ActiveSequenceEvent, ActiveSequencesMessage, FORWARD_PASS_METRICS, ForwardPassMetrics,
    KV_EVENTS, KV_METRICS, KvMetrics,
};
use protocol::kv::WorkerKvEvent;

/// Everything of one direction of a ZMTP connection: greeting checked, the rest as it came.
pub(crate) fn zmtp_incoming(recorded: &BytesMut, place: &str) -> Vec<Incoming> {
    let mut rest = recorded.clone();
    let greeting = Greeting::decode(&mut rest).unwrap().unwrap();
    assert_eq!(greeting, Greeting::OURS, "{place}");
    let (mut reader, mut all) = (Reader::default(), Vec::new());
    while let Some(incoming) = reader.next(&mut rest).unwrap() {
        all.push(incoming);
    }
    assert!(rest.is_empty(), "{place}: {} bytes are no frame", rest.len());
    all
}

#[test]
fn every_zmq_connection_comes_back() {
    let mut tally = Tally::default();
    for path in files("zmq", ".bin") {
        let (place, recorded) = (file_name(&path), read(&path));
        let mut again = BytesMut::from(&Greeting::OURS.encode()[..]);
        for incoming in zmtp_incoming(&recorded, place) {
            match incoming {
                Incoming::Command(command) => {
                    command.encode_into(&mut again);
                    tally.add(match command {
                        Command::Ready(_) => "ready",
                        Command::Subscribe(_) => "subscribe",
                        other => panic!("{place}: {other:?} is new"),
                    });
                }
                Incoming::Message(frames) => {
                    let envelope = Envelope::from_zmq(&frames).unwrap();
                    assert!(envelope.to_zmq().unwrap()[..] == frames[..], "{place}: {envelope:?}");
                    check_payload(Plane::Zmq, &envelope, place, &mut tally);
                    again.extend_from_slice(&encode_message(&frames));
                }
            }
        }
        assert!(again == recorded, "{place}: ZMTP frames");
    }
    tally.is(&[(ACTIVE_SEQUENCES_EVENTS, 86), (KV_EVENTS, 37), (KV_METRICS, 71), ("ready", 12), ("subscribe", 6)]);
}

#[derive(Clone, Copy, PartialEq)]
enum Plane {
    Zmq,
    Nats,
}

fn check_payload(plane: Plane, envelope: &Envelope, place: &str, tally: &mut Tally) {
    let payload = &envelope.payload[..];
    match &envelope.topic[..] {
        KV_EVENTS => {
            same::<Vec<WorkerKvEvent>>(Codec::Msgpack, payload, place);
            tally.add(KV_EVENTS);
        }
        KV_METRICS => {
            same::<KvMetrics>(Codec::Msgpack, payload, place);
            tally.add(KV_METRICS);
        }
        ACTIVE_SEQUENCES_EVENTS => {
            match plane {
                Plane::Zmq => drop(same::<ActiveSequencesMessage>(Codec::Msgpack, payload, place)),
                Plane::Nats => drop(same::<ActiveSequenceEvent>(Codec::Msgpack, payload, place)),
            }
            tally.add(ACTIVE_SEQUENCES_EVENTS);
        }
        FORWARD_PASS_METRICS => {
            same::<ForwardPassMetrics>(Codec::Msgpack, payload, place);
            tally.add(FORWARD_PASS_METRICS);
        }
        other => panic!("{place}: topic {other} is new"),
    }
}

#[test]
fn every_nats_message_comes_back() {
    let mut tally = Tally::default();
    for path in files("nats", ".bin") {
        let place = file_name(&path);
        for message in nats_messages(read(&path).freeze()) {
            let subject = &message.subject;
            if subject.starts_with("namespace.") {
                let envelope = Envelope::from_nats(&message.payload).unwrap();
                assert!(envelope.to_nats().unwrap() == message.payload, "{place} {subject}: {envelope:?}");
                assert!(subject.ends_with(&format!(".{}", envelope.topic)), "{place} {subject}");
                check_payload(Plane::Nats, &envelope, place, &mut tally);
            } else if subject.starts_with("_INBOX.") {
                assert!(message.payload.is_empty(), "{place} {subject}: an ack is empty");
                tally.add("ack");
            } else {
                check_request_message(&message.payload, subject, place, &mut tally);
            }
        }
    }
    tally.is(&[
        (ACTIVE_SEQUENCES_EVENTS, 282),
        (FORWARD_PASS_METRICS, 138),
        (KV_EVENTS, 63),
        (KV_METRICS, 156),
        ("ack", 32),
        ("preprocessed request", 24),
        ("recovery query", 8),
    ]);
}

struct NatsMessage {
    subject: String,
    payload: Bytes,
}

/// The PUB, HPUB, MSG and HMSG of one direction of a NATS client connection; other lines carry no payload.
fn nats_messages(mut rest: Bytes) -> Vec<NatsMessage> {
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("every NATS line ends");
        let line = rest.split_to(end + 2);
        let words: Vec<&str> = std::str::from_utf8(&line).unwrap().split_ascii_whitespace().collect();
        let number = |back: usize| words[words.len() - back].parse::<usize>().unwrap();
        let headers = match words[0] {
            "PUB" | "MSG" => 0,
            "HPUB" | "HMSG" => number(2),
            _ => continue,
        };
        let mut payload = rest.split_to(number(1));
        assert_eq!(&rest.split_to(2)[..], b"\r\n");
        messages.push(NatsMessage { subject: words[1].to_owned(), payload: payload.split_off(headers) });
    }
    messages
}
