//! The ack of a request: `u32 len | text`, one per request, in the order of the requests.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.1. An ack says that a request was taken, never that it will succeed.

use super::FrameError;
use bytes::{Buf, BufMut, BytesMut};

/// Most bytes of an ack's text that we read or send; the longest recorded is 40.
pub const ACK_BYTES_MAX: usize = 64 * 1024;

const OVERLOADED: &str = "Server overloaded";
const UNAVAILABLE: &str = "Server unavailable";

/// What a worker says of a request before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Taken; the answer comes over a connection that the worker makes.
    Taken,
    /// The worker is full: the text after `Server overloaded`.
    Overloaded(String),
    /// The worker does not serve this path, or is leaving: the text after `Server unavailable`.
    Unavailable(String),
    /// Any other text. Dynamo counts it as success; so must a caller that wants to work with its workers.
    Other(String),
}

impl Ack {
    /// The ack that a text means.
    pub fn of_text(text: &str) -> Self {
        let detail = |rest: &str| rest.trim_start_matches(':').trim_start().to_owned();
        if text.is_empty() {
            Self::Taken
        } else if let Some(rest) = text.strip_prefix(OVERLOADED) {
            Self::Overloaded(detail(rest))
        } else if let Some(rest) = text.strip_prefix(UNAVAILABLE) {
            Self::Unavailable(detail(rest))
        } else {
            Self::Other(text.to_owned())
        }
    }

    /// The text on the wire.
    pub fn text(&self) -> String {
        let worded = |word: &str, detail: &str| {
            if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") }
        };
        match self {
            Self::Taken => String::new(),
            Self::Overloaded(detail) => worded(OVERLOADED, detail),
            Self::Unavailable(detail) => worded(UNAVAILABLE, detail),
            Self::Other(text) => text.clone(),
        }
    }

    /// Whether the answer will come: everything but the two refusals.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Taken | Self::Other(_))
    }

    /// Appends the ack to `out`; a text over [`ACK_BYTES_MAX`] is cut at a character.
    pub fn encode_into(&self, out: &mut BytesMut) {
        let text = self.text();
        let text = &text[..text.floor_char_boundary(ACK_BYTES_MAX)];
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
    }

    /// Takes one whole ack off the front of `buffer`; `None` until it is all there.
    ///
    /// # Errors
    /// When it claims more than [`ACK_BYTES_MAX`] or is not UTF-8. The connection is then lost.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(len) = buffer.get(..4).map(|mut b| b.get_u32()) else { return Ok(None) };
        if len as usize > ACK_BYTES_MAX {
            return Err(FrameError::TooLarge { part: "ack", bytes: u64::from(len), bytes_max: ACK_BYTES_MAX });
        }
        let end = 4 + len as usize;
        if buffer.len() < end {
            return Ok(None);
        }
        let ack = buffer.split_to(end);
        let text =
            std::str::from_utf8(&ack[4..]).map_err(|e| FrameError::Malformed { part: "ack", why: e.to_string() })?;
        Ok(Some(Self::of_text(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_has_its_meaning_and_comes_back() {
        let cases = [
            ("", Ack::Taken),
            ("Server overloaded: worker at capacity", Ack::Overloaded("worker at capacity".into())),
            ("Server unavailable: gone", Ack::Unavailable("gone".into())),
            ("Server unavailable", Ack::Unavailable(String::new())),
            ("ok", Ack::Other("ok".into())),
        ];
        for (text, ack) in cases {
            let mut wire = BytesMut::new();
            ack.encode_into(&mut wire);
            assert_eq!(&wire[4..], text.as_bytes());
            assert_eq!(Ack::decode(&mut wire).unwrap(), Some(ack));
            assert!(wire.is_empty());
        }
    }

    #[test]
    fn only_the_two_refusals_are_refusals() {
        let taken = ["", "ok", "Server busy"].map(|text| Ack::of_text(text).is_taken());
        assert_eq!(taken, [true; 3]);
        let refused = ["Server overloaded: x", "Server unavailable: x"].map(|text| Ack::of_text(text).is_taken());
        assert_eq!(refused, [false; 2]);
    }

    #[test]
    fn an_ack_over_the_limit_is_refused_and_a_partial_one_waits() {
        let mut wire = BytesMut::from(&[0, 1, 0, 1][..]);
        assert!(Ack::decode(&mut wire).is_err());
        let mut wire = BytesMut::from(&[0, 0, 0, 2, b'o'][..]);
        assert_eq!(Ack::decode(&mut wire), Ok(None));
        assert_eq!(wire.len(), 5);
    }
}
