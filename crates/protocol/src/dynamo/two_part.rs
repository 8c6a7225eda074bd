//! The two-part message: `u64 header_len | u64 body_len | u64 checksum | header | body`, big-endian.
//!
//! Four shapes: header only (control), body only (data), both (a request), neither. The checksum is written 0 and not
//! read: release builds of Dynamo 1.6.1 do the same. Source: Dynamo 1.6.1 on the wire, §4.2.

use super::{CONTROL_BYTES_MAX, EncodeError, FRAME_BYTES_MAX, FrameError};
use crate::discovery::Codec;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

/// Bytes before the header.
pub const PREFIX_BYTES: usize = 24;

/// One message. An empty part is an absent one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwoPart {
    /// JSON of a control message.
    pub header: Bytes,
    /// Body in the negotiated codec.
    pub body: Bytes,
}

/// Which parts a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Header only.
    Control,
    /// Body only.
    Data,
    /// Both.
    Request,
    /// Neither.
    Empty,
}

impl TwoPart {
    /// A control message.
    pub fn control(header: impl Into<Bytes>) -> Self {
        Self { header: header.into(), body: Bytes::new() }
    }

    /// A data message.
    pub fn data(body: impl Into<Bytes>) -> Self {
        Self { header: Bytes::new(), body: body.into() }
    }

    /// Which parts there are.
    pub fn shape(&self) -> Shape {
        match (self.header.is_empty(), self.body.is_empty()) {
            (false, true) => Shape::Control,
            (true, false) => Shape::Data,
            (false, false) => Shape::Request,
            (true, true) => Shape::Empty,
        }
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        PREFIX_BYTES + self.header.len() + self.body.len()
    }

    /// Appends the message to `out`.
    ///
    /// # Errors
    /// When a part is over its limit; `out` is then untouched.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        check(self.header.len() as u64, self.body.len() as u64)?;
        out.reserve(self.wire_len());
        put_prefix(out, self.header.len(), self.body.len());
        out.put_slice(&self.header);
        out.put_slice(&self.body);
        Ok(())
    }

    /// Takes one whole message off the front of `buffer`; `None` until it is all there.
    ///
    /// # Errors
    /// When a part claims more than its limit. The connection is then lost.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        if buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let mut prefix = &buffer[..PREFIX_BYTES];
        let (header_len, body_len) = check(prefix.get_u64(), prefix.get_u64())?;
        let whole = PREFIX_BYTES + header_len + body_len;
        if buffer.len() < whole {
            return Ok(None);
        }
        let mut frame = buffer.split_to(whole).freeze();
        frame.advance(PREFIX_BYTES);
        let header = frame.split_to(header_len);
        Ok(Some(Self { header, body: frame }))
    }
}

/// Appends a control message whose header is the JSON of `value`, in one piece.
///
/// # Errors
/// When the value does not encode or is over [`CONTROL_BYTES_MAX`]; `out` is then untouched.
pub fn encode_control<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_in_place(Codec::Json, value, out, |len| (len, 0))
}

/// Appends a data message whose body is `value`, written straight into `out`: one buffer and one write for each item.
///
/// # Errors
/// When the value does not encode or is over [`FRAME_BYTES_MAX`]; `out` is then untouched.
pub fn encode_data<T: Serialize + ?Sized>(codec: Codec, value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_in_place(codec, value, out, |len| (0, len))
}

fn encode_in_place<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    out: &mut BytesMut,
    split: impl Fn(usize) -> (usize, usize),
) -> Result<(), EncodeError> {
    let start = out.len();
    put_prefix(out, 0, 0);
    let written = codec.encode_into(value, out).and_then(|()| {
        let (header_len, body_len) = split(out.len() - start - PREFIX_BYTES);
        check(header_len as u64, body_len as u64)?;
        out[start..start + 8].copy_from_slice(&(header_len as u64).to_be_bytes());
        out[start + 8..start + 16].copy_from_slice(&(body_len as u64).to_be_bytes());
        Ok(())
    });
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn put_prefix(out: &mut BytesMut, header_len: usize, body_len: usize) {
    out.put_u64(header_len as u64);
    out.put_u64(body_len as u64);
    out.put_u64(0);
}

/// Both lengths as `usize`, when each is within its limit.
fn check(header_len: u64, body_len: u64) -> Result<(usize, usize), FrameError> {
    let within = |part, bytes: u64, bytes_max: usize| {
        let len = usize::try_from(bytes).ok().filter(|&len| len <= bytes_max);
        len.ok_or(FrameError::TooLarge { part, bytes, bytes_max })
    };
    let header = within("control header", header_len, CONTROL_BYTES_MAX)?;
    let body = within("body", body_len, FRAME_BYTES_MAX - PREFIX_BYTES - header)?;
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(message: &TwoPart) -> BytesMut {
        let mut out = BytesMut::new();
        message.encode_into(&mut out).unwrap();
        out
    }

    #[test]
    fn the_four_shapes_round_trip_back_to_back() {
        let messages = [
            TwoPart::control(&b"\"kill\""[..]),
            TwoPart::data(&b"body"[..]),
            TwoPart { header: Bytes::from_static(b"h"), body: Bytes::from_static(b"b") },
            TwoPart::default(),
        ];
        let shapes = [Shape::Control, Shape::Data, Shape::Request, Shape::Empty];
        assert_eq!(messages.clone().map(|m| m.shape()), shapes);
        let mut wire = BytesMut::new();
        messages.iter().for_each(|m| m.encode_into(&mut wire).unwrap());
        for message in messages {
            assert_eq!(TwoPart::decode(&mut wire).unwrap(), Some(message));
        }
        assert!(wire.is_empty());
    }

    #[test]
    fn a_kill_frame_is_30_bytes() {
        let mut out = BytesMut::new();
        encode_control("kill", &mut out).unwrap();
        assert_eq!(out.len(), 30);
        assert_eq!(&out[..8], [0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(&out[24..], b"\"kill\"");
    }

    #[test]
    fn nothing_is_taken_until_the_last_byte() {
        let whole = bytes_of(&TwoPart { header: Bytes::from_static(b"hh"), body: Bytes::from_static(b"bbb") });
        for len in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..len]);
            assert_eq!(TwoPart::decode(&mut part), Ok(None), "{len} bytes");
            assert_eq!(part.len(), len);
        }
    }

    #[test]
    fn lengths_over_the_limits_are_refused_before_the_bytes_come() {
        let claim = |header: u64, body: u64| {
            let mut wire = BytesMut::new();
            wire.put_u64(header);
            wire.put_u64(body);
            wire.put_u64(0);
            TwoPart::decode(&mut wire)
        };
        let rest = (FRAME_BYTES_MAX - PREFIX_BYTES) as u64;
        assert_eq!(claim(CONTROL_BYTES_MAX as u64, rest - CONTROL_BYTES_MAX as u64), Ok(None));
        assert_eq!(claim(0, rest), Ok(None));
        assert!(claim(CONTROL_BYTES_MAX as u64 + 1, 0).is_err());
        assert!(claim(0, rest + 1).is_err());
        assert!(claim(1, rest).is_err());
        assert!(claim(u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn the_checksum_is_not_read() {
        let mut wire = bytes_of(&TwoPart::data(&b"x"[..]));
        wire[16..24].fill(0xff);
        assert_eq!(TwoPart::decode(&mut wire).unwrap(), Some(TwoPart::data(&b"x"[..])));
    }

    #[test]
    fn what_we_could_not_read_we_do_not_send() {
        let mut out = BytesMut::new();
        assert!(encode_control(&"x".repeat(CONTROL_BYTES_MAX), &mut out).is_err());
        assert!(encode_data(Codec::Json, &"x".repeat(FRAME_BYTES_MAX), &mut out).is_err());
        assert!(out.is_empty());
    }
}
