//! `token_ids`: an array of integers, or one bin of little-endian i32 (`DYN_TOKEN_IDS_AS_BYTES=1`). Both are read.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serialize, Serializer};
use std::fmt;

/// Writes an array.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(ids: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    ids.serialize(serializer)
}

/// Reads an array or a bin.
///
/// # Errors
/// When the value is neither, or the bin's length is no multiple of 4.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    deserializer.deserialize_any(TokenIds)
}

struct TokenIds;

impl<'de> Visitor<'de> for TokenIds {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of token ids, or a bin of little-endian 32-bit token ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        // The size hint is the peer's word: trust it only up to a bound.
        let mut ids = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(65_536));
        while let Some(id) = seq.next_element()? {
            ids.push(id);
        }
        Ok(ids)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        if !bytes.len().is_multiple_of(4) {
            return Err(E::custom(format!(
                "token_ids: a bin of {} bytes is no whole number of 4-byte ids",
                bytes.len()
            )));
        }
        Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }
}
