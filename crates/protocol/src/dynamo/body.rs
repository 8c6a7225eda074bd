//! Bodies: a value in the codec that the record or the control header names.

use super::{DEPTH_MAX, DecodeError, EncodeError};
use crate::discovery::Codec;
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

impl Codec {
    /// Writes `value`: compact JSON, or MessagePack with named maps and the shortest integers.
    ///
    /// # Errors
    /// When the value has no form in this codec, such as a map whose keys are not strings.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::with_capacity(512);
        self.encode_into(value, &mut out)?;
        Ok(out.freeze())
    }

    /// Appends `value` to `out`. On an error `out` is as it was.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    pub fn encode_into<T: Serialize + ?Sized>(self, value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        let written = match self {
            Self::Json => serde_json::to_writer(out.writer(), value).map_err(|e| e.to_string()),
            Self::Msgpack => rmp_serde::encode::write_named(&mut out.writer(), value).map_err(|e| e.to_string()),
        };
        written.map_err(|why| {
            out.truncate(start);
            EncodeError::Value(why)
        })
    }

    /// Reads a value. Unknown keys are skipped. Nesting deeper than [`DEPTH_MAX`] is an error.
    ///
    /// # Errors
    /// When the bytes are not this codec, or not this type; the text names the field where the codec knows it.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            // serde_json has the same bound of 128 built in.
            Self::Json => serde_json::from_slice(bytes).map_err(|e| DecodeError::of(self, e)),
            Self::Msgpack => from_msgpack(bytes).map_err(|e| DecodeError::of(self, e)),
        }
    }
}

/// Reads a value that may borrow from `bytes`, with the bound on nesting.
pub(super) fn from_msgpack<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn json_inside_msgpack_keeps_every_integer_exact() {
        let schema = json!({"enum": [u64::MAX, i64::MIN, 9_007_199_254_740_993_u64, 0.5, -1, null, "text", [true]]});
        for codec in [Codec::Json, Codec::Msgpack] {
            let bytes = codec.encode(&schema).unwrap();
            assert_eq!(codec.decode::<Value>(&bytes).unwrap(), schema, "{codec:?}");
        }
    }

    #[test]
    fn integers_take_their_shortest_form() {
        let lengths = |n: i64| Codec::Msgpack.encode(&n).unwrap().len();
        assert_eq!([0, 127, 128, 255, 256, 65_535, 65_536].map(lengths), [1, 1, 2, 2, 3, 3, 5]);
        assert_eq!(Codec::Msgpack.encode(&u64::MAX).unwrap().len(), 9);
    }

    #[test]
    fn an_integer_is_taken_where_a_float_is_meant() {
        #[derive(serde::Deserialize)]
        struct Sampling {
            temperature: Option<f32>,
        }
        let bytes = Codec::Msgpack.encode(&json!({"temperature": 1})).unwrap();
        assert_eq!(Codec::Msgpack.decode::<Sampling>(&bytes).unwrap().temperature, Some(1.0));
    }

    #[test]
    fn nesting_is_bounded_in_both_codecs() {
        let json = "[".repeat(200_000);
        assert!(Codec::Json.decode::<Value>(json.as_bytes()).is_err());
        let msgpack = vec![0x91_u8; 200_000];
        assert!(Codec::Msgpack.decode::<Value>(&msgpack).is_err());
        let fits = [vec![0x91_u8; DEPTH_MAX - 28], vec![1]].concat();
        assert!(Codec::Msgpack.decode::<Value>(&fits).is_ok());
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        for head in [[0xdd, 0xff, 0xff, 0xff, 0xff], [0xdf, 0xff, 0xff, 0xff, 0xff], [0xc6, 0xff, 0xff, 0xff, 0xff]] {
            assert!(Codec::Msgpack.decode::<Value>(&head).is_err(), "{head:x?}");
            assert!(Codec::Msgpack.decode::<Vec<u64>>(&head).is_err(), "{head:x?}");
        }
    }

    #[test]
    fn a_failed_encode_leaves_the_buffer_as_it_was() {
        let mut out = BytesMut::from(&b"before"[..]);
        let no_json_key = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(Codec::Json.encode_into(&no_json_key, &mut out).is_err());
        assert_eq!(&out[..], b"before");
    }
}
