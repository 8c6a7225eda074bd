//! The request frame: `u16 path_len | path | u16 headers_len | headers | u32 payload_len | payload`, big-endian.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.1. The payload is one [two-part message](super::two_part).

use super::{FRAME_BYTES_MAX, FrameError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Header that repeats the path.
pub const ENDPOINT_PATH: &str = "x-endpoint-path";
/// Header with the request's id.
pub const REQUEST_ID: &str = "request-id";
/// Header with the time of sending, decimal nanoseconds since 1970.
pub const FRONTEND_SEND_TS_NS: &str = "x-frontend-send-ts-ns";

/// Bytes of the three length fields.
const LENGTHS_BYTES: usize = 2 + 2 + 4;

/// One request on a request connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFrame {
    /// `{instance:x}/{namespace}/{component}/{endpoint}`: what follows `HOST:PORT/` in the endpoint's record.
    pub path: String,
    /// Texts beside the payload, in the order of the wire.
    pub headers: Headers,
    /// A two-part message.
    pub payload: Bytes,
}

impl RequestFrame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// When the path or the headers are over 65 535 bytes, or the frame over [`FRAME_BYTES_MAX`]; `out` is then
    /// untouched.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let headers = serde_json::to_vec(&self.headers)
            .map_err(|e| FrameError::Malformed { part: "request headers", why: e.to_string() })?;
        let path_len = short("request path", self.path.len())?;
        let headers_len = short("request headers", headers.len())?;
        let before_payload = LENGTHS_BYTES + self.path.len() + headers.len();
        let payload_len = payload_within(self.payload.len() as u64, before_payload)?;
        out.reserve(before_payload + self.payload.len());
        out.put_u16(path_len);
        out.put_slice(self.path.as_bytes());
        out.put_u16(headers_len);
        out.put_slice(&headers);
        out.put_u32(payload_len);
        out.put_slice(&self.payload);
        Ok(())
    }

    /// Takes one whole frame off the front of `buffer`; `None` until it is all there.
    ///
    /// # Errors
    /// When the frame claims more than [`FRAME_BYTES_MAX`], the path is not UTF-8 or the headers are not a JSON object
    /// of strings. The connection is then lost.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(bounds) = Bounds::read(buffer)? else { return Ok(None) };
        if buffer.len() < bounds.end() {
            return Ok(None);
        }
        let mut frame = buffer.split_to(bounds.end()).freeze();
        frame.advance(2);
        let path = frame.split_to(bounds.path);
        frame.advance(2);
        let headers = frame.split_to(bounds.headers);
        frame.advance(4);
        let path = std::str::from_utf8(&path)
            .map_err(|e| FrameError::Malformed { part: "request path", why: e.to_string() })?
            .to_owned();
        let headers = serde_json::from_slice(&headers)
            .map_err(|e| FrameError::Malformed { part: "request headers", why: e.to_string() })?;
        Ok(Some(Self { path, headers, payload: frame }))
    }
}

/// The three lengths of a frame whose start has arrived.
struct Bounds {
    path: usize,
    headers: usize,
    payload: usize,
}

impl Bounds {
    fn read(buffer: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(path) = buffer.get(..2).map(|mut b| usize::from(b.get_u16())) else { return Ok(None) };
        let after_path = 2 + path;
        let Some(headers) = buffer.get(after_path..after_path + 2).map(|mut b| usize::from(b.get_u16())) else {
            return Ok(None);
        };
        let after_headers = after_path + 2 + headers;
        let Some(payload) = buffer.get(after_headers..after_headers + 4).map(|mut b| b.get_u32()) else {
            return Ok(None);
        };
        let payload = payload_within(u64::from(payload), after_headers + 4)? as usize;
        Ok(Some(Self { path, headers, payload }))
    }

    fn end(&self) -> usize {
        LENGTHS_BYTES + self.path + self.headers + self.payload
    }
}

fn short(part: &'static str, len: usize) -> Result<u16, FrameError> {
    let bytes_max = usize::from(u16::MAX);
    u16::try_from(len).map_err(|_| FrameError::TooLarge { part, bytes: len as u64, bytes_max })
}

fn payload_within(bytes: u64, before: usize) -> Result<u32, FrameError> {
    let bytes_max = FRAME_BYTES_MAX - before;
    let fits = u32::try_from(bytes).ok().filter(|&len| len as usize <= bytes_max);
    fits.ok_or(FrameError::TooLarge { part: "request payload", bytes, bytes_max })
}

/// Texts by name, in the order of the wire; a name stands once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The text under `name`; names are case-sensitive.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets a text, in place when the name is there, else at the end.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        pairs.into_iter().for_each(|(name, value)| headers.insert(name, value));
        headers
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        // A name that stands twice keeps its last text. The search in `insert` would be quadratic in what a stranger
        // sends (up to 10 000 names in 65 535 bytes), so duplicates are found by sorting once.
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| pairs[a].0.cmp(&pairs[b].0).then(b.cmp(&a)));
        order.dedup_by(|later, kept| pairs[*later].0 == pairs[*kept].0);
        if order.len() < pairs.len() {
            order.sort_unstable();
            pairs = order.into_iter().map(|i| std::mem::take(&mut pairs[i])).collect();
        }
        Ok(Headers(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> RequestFrame {
        RequestFrame {
            path: "8efc80f73ac882a4/dynamo/backend/generate".into(),
            headers: [(REQUEST_ID, "198982c6"), (ENDPOINT_PATH, "8efc")].into_iter().collect(),
            payload: Bytes::from_static(b"payload"),
        }
    }

    #[test]
    fn pipelined_frames_come_out_one_by_one() {
        let mut wire = BytesMut::new();
        frame().encode_into(&mut wire).unwrap();
        RequestFrame::default().encode_into(&mut wire).unwrap();
        assert_eq!(RequestFrame::decode(&mut wire).unwrap(), Some(frame()));
        assert_eq!(RequestFrame::decode(&mut wire).unwrap(), Some(RequestFrame::default()));
        assert_eq!(RequestFrame::decode(&mut wire), Ok(None));
    }

    #[test]
    fn nothing_is_taken_until_the_last_byte() {
        let mut wire = BytesMut::new();
        frame().encode_into(&mut wire).unwrap();
        for len in 0..wire.len() {
            let mut part = BytesMut::from(&wire[..len]);
            assert_eq!(RequestFrame::decode(&mut part), Ok(None), "{len} bytes");
            assert_eq!(part.len(), len);
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_before_it_comes() {
        let mut wire = BytesMut::from(&[0, 0, 0, 2, b'{', b'}'][..]);
        let most = u32::try_from(FRAME_BYTES_MAX - wire.len() - 4).unwrap();
        wire.put_u32(most);
        assert_eq!(RequestFrame::decode(&mut wire), Ok(None));
        wire.truncate(6);
        wire.put_u32(most + 1);
        assert!(matches!(RequestFrame::decode(&mut wire), Err(FrameError::TooLarge { part: "request payload", .. })));
    }

    #[test]
    fn a_path_too_long_to_send_is_an_error_that_names_it() {
        let long = RequestFrame { path: "x".repeat(65_536), ..RequestFrame::default() };
        let mut out = BytesMut::new();
        let error = long.encode_into(&mut out).unwrap_err();
        assert_eq!(error.to_string(), "request path of 65536 bytes is over the limit of 65535");
        assert!(out.is_empty());
    }

    #[test]
    fn headers_are_strings_and_the_last_of_a_name_wins() {
        let read = |json: &str| serde_json::from_str::<Headers>(json);
        let headers = read(r#"{"b":"1","a":"2","b":"3","c":"4"}"#).unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3"), ("c", "4")]);
        assert!(read(r#"{"a":1}"#).is_err());
        assert!(read("[]").is_err());
        assert_eq!(read("{}").unwrap(), Headers::default());
    }
}
