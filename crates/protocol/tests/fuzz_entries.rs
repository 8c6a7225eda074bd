//! The fuzz targets' entry functions on every recording, whole, cut and damaged: CI has no fuzzer, but it has these.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as its tests do")]

#[allow(unreachable_pub, reason = "the fuzz crate needs them public")]
#[path = "../../../fuzz/src/entries.rs"]
mod entries;

use std::path::{Path, PathBuf};

type Entry = fn(&[u8]);

const ENTRIES: [Entry; 7] = [
    entries::request_frame,
    entries::two_part,
    entries::event_envelope,
    entries::zmtp,
    entries::msgpack_bodies,
    entries::discovery_record,
    entries::model_card,
];

fn recordings() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    for part in ["request-plane", "zmq", "nats", "discovery/files", "etcd"] {
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dynamo-wire").join(part), &mut found);
    }
    found.sort();
    found
}

#[test]
fn no_entry_fails_on_a_recording_however_it_is_cut_or_damaged() {
    let recordings = recordings();
    assert!(recordings.len() > 100, "{} recordings", recordings.len());
    for path in recordings {
        let bytes = std::fs::read(path).unwrap();
        for entry in ENTRIES {
            entry(&bytes);
            // Eight cuts and eight damaged bytes, spread over the file: one that is not a power of two apart, so that
            // they fall on lengths, names and values alike.
            for part in 1..=8 {
                let at = bytes.len() * part / 9;
                entry(&bytes[..at]);
                entry(&bytes[at..]);
                let mut damaged = bytes.clone();
                damaged[at] ^= 0xff;
                entry(&damaged);
            }
        }
    }
}

/// The bodies and envelopes stand inside frames: take them out, so that the entries for them see whole ones.
#[test]
fn no_entry_fails_on_a_body_or_envelope() {
    use protocol::dynamo::zmtp::{Greeting, Incoming, Reader};
    use protocol::dynamo::{RequestFrame, TwoPart};
    let (mut bodies, mut envelopes) = (0, 0);
    for path in recordings() {
        let mut rest = bytes::BytesMut::from(&std::fs::read(&path).unwrap()[..]);
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with("publisher-to-subscriber.bin") {
            Greeting::decode(&mut rest).unwrap().unwrap();
            let mut reader = Reader::default();
            while let Some(incoming) = reader.next(&mut rest).unwrap() {
                if let Incoming::Message(frames) = incoming {
                    damage(entries::event_envelope, &frames[3][5..]);
                    envelopes += 1;
                }
            }
        } else if name.ends_with(".bin") && path.parent().unwrap().ends_with("request-plane") {
            if let Ok(Some(frame)) = RequestFrame::decode(&mut rest.clone())
                && name.contains(".request.")
            {
                rest = frame.payload[..].into();
            }
            while let Ok(Some(message)) = TwoPart::decode(&mut rest) {
                damage(entries::msgpack_bodies, &message.body);
                bodies += 1;
            }
        }
    }
    assert!(bodies > 200 && envelopes > 190, "{bodies} bodies, {envelopes} envelopes");
}

fn damage(entry: Entry, bytes: &[u8]) {
    entry(bytes);
    for at in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
        let mut damaged = bytes.to_vec();
        damaged[at] = damaged[at].wrapping_add(1);
        entry(&damaged);
        entry(&bytes[..at]);
    }
}
