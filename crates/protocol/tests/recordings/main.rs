//! Every recording of Dynamo 1.6.1 in `tests/data/dynamo-wire`, decoded into our types and encoded again.
//!
//! The bytes must come back: for frames, control headers, bodies, envelopes, payloads and records alike. What cannot
//! come back is listed in [`NOT_BYTE_EQUAL`] and is compared as a value. Each test counts what it read, so that a
//! folder that is empty or half there fails.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as its tests do")]

mod cards;
mod discovery;
mod events;
mod hashes;
mod probes;
mod request_plane;

use protocol::discovery::Codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Recordings whose re-encoding is not byte-equal, with the reason. None: stock order is our order throughout.
///
/// The recordings in `probe/` and `card/` are not bytes but JSON that our own tools printed; they are compared as JSON.
const NOT_BYTE_EQUAL: [(&str, &str); 0] = [];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dynamo-wire").join(name)
}

/// Files of a folder whose names end so, sorted. Fails when there are none.
fn files(name: &str, suffix: &str) -> Vec<PathBuf> {
    let folder = folder(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(suffix));
    paths.sort();
    assert!(!paths.is_empty(), "no file *{suffix} in {}", folder.display());
    paths
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn read(path: &Path) -> bytes::BytesMut {
    bytes::BytesMut::from(&std::fs::read(path).unwrap()[..])
}

/// Decodes `bytes` as `T` and checks that encoding gives the same bytes, or the same value where listed.
fn same<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(codec: Codec, bytes: &[u8], place: &str) -> T {
    let typed: T = codec.decode(bytes).unwrap_or_else(|e| panic!("{place}: {e}\n{}", String::from_utf8_lossy(bytes)));
    let again = codec.encode(&typed).unwrap();
    if NOT_BYTE_EQUAL.iter().any(|(name, _)| place.starts_with(name)) {
        assert_eq!(codec.decode::<T>(&again).unwrap(), typed, "{place}");
    } else {
        let shown = |bytes: &[u8]| codec.decode::<serde_json::Value>(bytes).unwrap().to_string();
        assert!(again == bytes, "{place}: encoded again\n{}\nrecorded\n{}", shown(&again), shown(bytes));
    }
    typed
}

/// What was checked, by kind.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// The recordings do not change, so neither do the counts.
    fn is(&self, expected: &[(&'static str, usize)]) {
        assert_eq!(self.0, expected.iter().copied().collect());
    }
}
