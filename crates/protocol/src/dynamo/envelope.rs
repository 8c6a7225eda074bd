//! The envelope of an event, and its two dresses: four ZMQ frames, or the payload of one NATS message.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.1 and §5.2.

use super::body::from_msgpack;
use super::{DecodeError, EncodeError, FrameError};
use crate::discovery::Codec;
use crate::ids::PublisherId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version byte before the envelope in the last ZMQ frame.
const VERSION: u8 = 1;
/// Version byte and u32 length.
const PREFIX_BYTES: usize = 5;

/// One event of one publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope {
    /// Who published it.
    pub publisher_id: PublisherId,
    /// From 0, one up for each event of this publisher; a hole means that events were lost.
    pub sequence: u64,
    /// When, milliseconds since 1970, by the publisher's clock.
    #[serde(rename = "published_at")]
    pub published_at_ms: u64,
    /// Topic.
    pub topic: String,
    /// The payload, MessagePack.
    pub payload: Bytes,
}

/// The same, borrowed from the bytes it is read from.
#[derive(Deserialize)]
struct Borrowed<'a> {
    publisher_id: PublisherId,
    sequence: u64,
    published_at: u64,
    topic: String,
    #[serde(borrow)]
    payload: &'a [u8],
}

impl Envelope {
    /// Reads the payload.
    ///
    /// # Errors
    /// When the payload is not this type in MessagePack.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        Codec::Msgpack.decode(&self.payload)
    }

    /// The payload of a NATS message.
    ///
    /// # Errors
    /// Never for an envelope, which always has a MessagePack form; the error is the serializer's.
    pub fn to_nats(&self) -> Result<Bytes, EncodeError> {
        Codec::Msgpack.encode(self)
    }

    /// Reads the payload of a NATS message. The envelope's payload shares its memory.
    ///
    /// # Errors
    /// When it is not an envelope.
    pub fn from_nats(message: &Bytes) -> Result<Self, FrameError> {
        let read: Borrowed<'_> = from_msgpack(message).map_err(|e| malformed("event envelope", e))?;
        Ok(Self {
            publisher_id: read.publisher_id,
            sequence: read.sequence,
            published_at_ms: read.published_at,
            topic: read.topic,
            payload: message.slice_ref(read.payload),
        })
    }

    /// The four frames of a ZMQ message: topic, publisher, sequence, and the envelope with version and length.
    ///
    /// # Errors
    /// Never for an envelope below 4 GiB; the error is the serializer's.
    pub fn to_zmq(&self) -> Result<[Bytes; 4], EncodeError> {
        let mut last = BytesMut::with_capacity(PREFIX_BYTES + 96 + self.topic.len() + self.payload.len());
        last.put_u8(VERSION);
        last.put_u32(0);
        Codec::Msgpack.encode_into(self, &mut last)?;
        let len = u32::try_from(last.len() - PREFIX_BYTES).map_err(|_| FrameError::TooLarge {
            part: "event envelope",
            bytes: last.len() as u64,
            bytes_max: u32::MAX as usize,
        })?;
        last[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        Ok([
            Bytes::copy_from_slice(self.topic.as_bytes()),
            Bytes::copy_from_slice(&self.publisher_id.0.to_be_bytes()),
            Bytes::copy_from_slice(&self.sequence.to_be_bytes()),
            last.freeze(),
        ])
    }

    /// Reads the frames of a ZMQ message. The envelope's payload shares their memory.
    ///
    /// # Errors
    /// When there are not four, when version or length are wrong, or when frames and envelope contradict each other.
    pub fn from_zmq(frames: &[Bytes]) -> Result<Self, FrameError> {
        let [topic, publisher, sequence, last] = frames else {
            return Err(malformed("event message", format!("{} frames, not 4", frames.len())));
        };
        let mut prefix =
            last.get(..PREFIX_BYTES).ok_or_else(|| malformed("event envelope", "no version and length"))?;
        let (version, len) = (prefix.get_u8(), prefix.get_u32() as usize);
        if version != VERSION {
            return Err(malformed("event envelope", format!("version {version}, not {VERSION}")));
        }
        if len != last.len() - PREFIX_BYTES {
            let there = last.len() - PREFIX_BYTES;
            return Err(malformed("event envelope", format!("claims {len} bytes and has {there}")));
        }
        let envelope = Self::from_nats(&last.slice(PREFIX_BYTES..))?;
        let agrees = topic[..] == *envelope.topic.as_bytes()
            && publisher[..] == envelope.publisher_id.0.to_be_bytes()
            && sequence[..] == envelope.sequence.to_be_bytes();
        if !agrees {
            return Err(malformed("event message", "its frames and its envelope name different events"));
        }
        Ok(envelope)
    }
}

fn malformed(part: &'static str, why: impl std::fmt::Display) -> FrameError {
    FrameError::Malformed { part, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            publisher_id: PublisherId(0x000c_ef65_349e_66ab),
            sequence: 7,
            published_at_ms: 1_795_465_820_858,
            topic: "kv-events".into(),
            payload: Bytes::from_static(&[0x90]),
        }
    }

    #[test]
    fn both_dresses_round_trip() {
        assert_eq!(Envelope::from_zmq(&envelope().to_zmq().unwrap()).unwrap(), envelope());
        assert_eq!(Envelope::from_nats(&envelope().to_nats().unwrap()).unwrap(), envelope());
    }

    #[test]
    fn the_payload_is_not_copied() {
        let message = envelope().to_nats().unwrap();
        let payload = Envelope::from_nats(&message).unwrap().payload;
        assert!(message.as_ptr_range().contains(&payload.as_ptr()));
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = |change: fn(&mut Vec<Bytes>)| {
            let mut frames = envelope().to_zmq().unwrap().to_vec();
            change(&mut frames);
            Envelope::from_zmq(&frames).unwrap_err().to_string()
        };
        assert!(broken(|f| f[0] = Bytes::from_static(b"kv_metrics")).contains("different events"));
        assert!(broken(|f| f[1] = Bytes::from_static(&[0; 8])).contains("different events"));
        assert!(broken(|f| f[2] = Bytes::from_static(&[0; 8])).contains("different events"));
        assert!(broken(|f| f[3] = f[3].slice(..4)).contains("no version and length"));
        assert!(broken(|f| f[3] = f[3].slice(..20)).contains("claims"));
        assert!(broken(|f| f[3] = Bytes::from([&[2], &f[3][1..]].concat())).contains("version 2"));
        assert!(broken(|f| drop(f.pop())).contains("3 frames"));
    }
}
