//! ZMTP 3.x with the NULL mechanism, as far as PUB and SUB need it.
//!
//! Source: ZeroMQ RFC 37 (ZMTP 3.1) and the recordings of Dynamo 1.6.1 on the wire, §5.1. A 3.0 peer subscribes with
//! messages that begin with 01 or 00, a 3.1 peer with SUBSCRIBE and CANCEL commands; both are read.

use super::{FRAME_BYTES_MAX, FrameError};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 64;

/// Most bytes of a command. Ours are below 100; a topic is the only part that can grow.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// Most frames of a message. A Dynamo event has 4.
pub const MESSAGE_FRAMES_MAX: usize = 16;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a peer greets with. Its major version is 3 and its mechanism NULL, or it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Minor version: 0, or 1 and later, which know SUBSCRIBE commands.
    pub minor: u8,
}

impl Greeting {
    /// What we are: 3.1.
    pub const OURS: Self = Self { minor: 1 };

    /// The bytes.
    pub fn encode(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[0] = 0xff;
        // Byte 8 is padding; libzmq writes 1 so that a ZMTP 1.0 peer reads a frame of length 1.
        bytes[8] = 1;
        bytes[9] = 0x7f;
        bytes[10] = 3;
        bytes[11] = self.minor;
        bytes[12..16].copy_from_slice(b"NULL");
        bytes
    }

    /// Takes a greeting off the front of `buffer`; `None` until it is all there. Bytes that can become no greeting are
    /// refused as they come.
    ///
    /// # Errors
    /// When the peer does not speak ZMTP 3, or wants another mechanism than NULL.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let refused = |why: &str| Err(FrameError::Malformed { part: "ZMTP greeting", why: why.into() });
        let differs = |at: usize, wanted: u8| buffer.get(at).is_some_and(|&byte| byte != wanted);
        if differs(0, 0xff) || differs(9, 0x7f) {
            return refused("the peer does not speak ZMTP");
        }
        if buffer.get(10).is_some_and(|&major| major < 3) {
            return refused("the peer speaks a ZMTP before 3.0");
        }
        if buffer.len() < GREETING_BYTES {
            return Ok(None);
        }
        let greeting = buffer.split_to(GREETING_BYTES);
        if greeting[12..32] != *b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" {
            return refused("the peer wants another mechanism than NULL");
        }
        Ok(Some(Self { minor: if greeting[10] > 3 { 1 } else { greeting[11] } }))
    }

    /// The bytes that subscribe this peer's socket to a topic prefix.
    pub fn subscription(self, topic: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        if self.minor >= 1 {
            Command::Subscribe(Bytes::copy_from_slice(topic)).encode_into(&mut out);
        } else {
            put_frame(&mut out, 0, &[&[1], topic]);
        }
        out
    }
}

/// A command frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The handshake's end, with the peer's socket type (`PUB`, `SUB`, …).
    Ready(String),
    /// The peer refuses us; its reason.
    Error(String),
    /// Send messages whose topic begins so.
    Subscribe(Bytes),
    /// No longer send them.
    Cancel(Bytes),
    /// Answer with a [`Command::Pong`] of the same context.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// A command that we do not know, by name.
    Other(String),
}

impl Command {
    /// Appends the command's frame to `out`.
    pub fn encode_into(&self, out: &mut BytesMut) {
        let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        match self {
            Self::Ready(socket_type) => {
                let key = name("Socket-Type");
                let len = (socket_type.len() as u32).to_be_bytes();
                put_frame(out, COMMAND, &[&name("READY"), &key, &len, socket_type.as_bytes()]);
            }
            Self::Error(reason) => put_frame(out, COMMAND, &[&name("ERROR"), &name(reason)]),
            Self::Subscribe(topic) => put_frame(out, COMMAND, &[&name("SUBSCRIBE"), topic]),
            Self::Cancel(topic) => put_frame(out, COMMAND, &[&name("CANCEL"), topic]),
            // A time to live of 0 says that the peer need not watch us.
            Self::Ping(context) => put_frame(out, COMMAND, &[&name("PING"), &[0, 0], context]),
            Self::Pong(context) => put_frame(out, COMMAND, &[&name("PONG"), context]),
            Self::Other(text) => put_frame(out, COMMAND, &[&name(text)]),
        }
    }

    fn decode(mut body: Bytes) -> Result<Self, FrameError> {
        let name = short_text(&mut body).ok_or_else(|| malformed("ZMTP command", "its name is cut"))?;
        Ok(match &name[..] {
            b"READY" => Self::Ready(socket_type(body)?),
            b"ERROR" => Self::Error(lossy(&short_text(&mut body).unwrap_or_default())),
            b"SUBSCRIBE" => Self::Subscribe(body),
            b"CANCEL" => Self::Cancel(body),
            b"PING" if body.len() >= 2 => Self::Ping(body.slice(2..)),
            b"PONG" => Self::Pong(body),
            other => Self::Other(lossy(other)),
        })
    }
}

/// The `Socket-Type` among READY's properties, whose names are not case-sensitive.
fn socket_type(mut properties: Bytes) -> Result<String, FrameError> {
    let cut = || malformed("ZMTP READY", "a property is cut");
    let mut found = String::new();
    while !properties.is_empty() {
        let name = short_text(&mut properties).ok_or_else(cut)?;
        let len = properties.try_get_u32().map_err(|_| cut())? as usize;
        if len > properties.len() {
            return Err(cut());
        }
        let value = properties.split_to(len);
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            found = lossy(&value);
        }
    }
    Ok(found)
}

/// What a peer sends after its greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A command.
    Command(Command),
    /// All frames of a message.
    Message(Vec<Bytes>),
}

/// Reads frames and puts messages together.
#[derive(Debug, Default)]
pub struct Reader {
    frames: Vec<Bytes>,
    bytes: usize,
}

impl Reader {
    /// Takes the next command or whole message off the front of `buffer`; `None` until it is all there.
    ///
    /// # Errors
    /// When a frame or message is over its limit or a command is malformed. The connection is then lost.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        while let Some((flags, body)) = take_frame(buffer, FRAME_BYTES_MAX - self.bytes)? {
            if flags & COMMAND != 0 {
                return Ok(Some(Incoming::Command(Command::decode(body)?)));
            }
            self.bytes += body.len();
            self.frames.push(body);
            if flags & MORE == 0 {
                self.bytes = 0;
                return Ok(Some(Incoming::Message(std::mem::take(&mut self.frames))));
            }
            if self.frames.len() == MESSAGE_FRAMES_MAX {
                return Err(malformed("ZMTP message", format!("it has more than {MESSAGE_FRAMES_MAX} frames")));
            }
        }
        Ok(None)
    }
}

/// The message `frames` as it stands on the wire.
pub fn encode_message(frames: &[Bytes]) -> BytesMut {
    let bytes: usize = frames.iter().map(|frame| frame.len() + 9).sum();
    let mut out = BytesMut::with_capacity(bytes);
    for (index, frame) in frames.iter().enumerate() {
        let more = if index + 1 < frames.len() { MORE } else { 0 };
        put_frame(&mut out, more, &[frame]);
    }
    out
}

fn put_frame(out: &mut BytesMut, flags: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    match u8::try_from(len) {
        Ok(short) => out.put_slice(&[flags, short]),
        Err(_) => {
            out.put_u8(flags | LONG);
            out.put_u64(len as u64);
        }
    }
    parts.iter().for_each(|part| out.put_slice(part));
}

/// Flags and body of the first frame, once it is all there.
fn take_frame(buffer: &mut BytesMut, message_bytes_left: usize) -> Result<Option<(u8, Bytes)>, FrameError> {
    let Some(&flags) = buffer.first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
        return Err(malformed("ZMTP frame", format!("flags {flags:#04x} are none that ZMTP 3 has")));
    }
    let (start, bytes) = if flags & LONG == 0 {
        let Some(&len) = buffer.get(1) else { return Ok(None) };
        (2, u64::from(len))
    } else {
        let Some(mut len) = buffer.get(1..9) else { return Ok(None) };
        (9, len.get_u64())
    };
    let (part, bytes_max) = match flags & COMMAND {
        0 => ("ZMTP message", message_bytes_left),
        _ => ("ZMTP command", COMMAND_BYTES_MAX),
    };
    let fits = usize::try_from(bytes).ok().filter(|&len| len <= bytes_max);
    let len = fits.ok_or(FrameError::TooLarge { part, bytes, bytes_max })?;
    if buffer.len() < start + len {
        return Ok(None);
    }
    buffer.advance(start);
    Ok(Some((flags, buffer.split_to(len).freeze())))
}

/// A text after its length in one byte; `None` when it is cut.
fn short_text(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(bytes.try_get_u8().ok()?);
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn malformed(part: &'static str, why: impl Into<String>) -> FrameError {
    FrameError::Malformed { part, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut wire: BytesMut) -> Result<Vec<Incoming>, FrameError> {
        let mut reader = Reader::default();
        let mut all = Vec::new();
        while let Some(incoming) = reader.next(&mut wire)? {
            all.push(incoming);
        }
        Ok(all)
    }

    #[test]
    fn commands_round_trip() {
        let commands = [
            Command::Ready("PUB".into()),
            Command::Error("no".into()),
            Command::Subscribe(Bytes::from_static(b"kv-events")),
            Command::Cancel(Bytes::new()),
            Command::Ping(Bytes::from_static(b"ctx")),
            Command::Pong(Bytes::from_static(b"ctx")),
            Command::Other("JOIN".into()),
        ];
        for command in commands {
            let mut wire = BytesMut::new();
            command.encode_into(&mut wire);
            assert_eq!(read_all(wire).unwrap(), [Incoming::Command(command)]);
        }
    }

    #[test]
    fn messages_round_trip_in_short_and_long_frames() {
        let frames = vec![Bytes::new(), Bytes::from(vec![1; 255]), Bytes::from(vec![2; 256])];
        let wire = encode_message(&frames);
        assert_eq!(wire.len(), 2 + (2 + 255) + (9 + 256));
        for len in 0..wire.len() {
            assert_eq!(read_all(BytesMut::from(&wire[..len])), Ok(vec![]), "{len} bytes");
        }
        assert_eq!(read_all(wire).unwrap(), [Incoming::Message(frames)]);
    }

    #[test]
    fn a_subscription_takes_the_form_that_the_peer_knows() {
        assert_eq!(&Greeting { minor: 0 }.subscription(b"t")[..], b"\x00\x02\x01t");
        assert_eq!(&Greeting { minor: 1 }.subscription(b"t")[..], b"\x04\x0b\x09SUBSCRIBEt");
    }

    #[test]
    fn strangers_are_refused_at_the_first_wrong_byte() {
        let read = |bytes: &[u8]| Greeting::decode(&mut BytesMut::from(bytes));
        assert_eq!(read(&Greeting::OURS.encode()), Ok(Some(Greeting::OURS)));
        assert_eq!(read(&Greeting::OURS.encode()[..63]), Ok(None));
        assert!(read(b"GET / HTTP/1.1\r\n").is_err());
        assert!(read(b"\xff\0\0\0\0\0\0\0\x01\x7e").is_err());
        assert!(read(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01").unwrap_err().to_string().contains("before 3.0"));
        let mut curve = Greeting::OURS.encode();
        curve[12..17].copy_from_slice(b"CURVE");
        assert!(read(&curve).unwrap_err().to_string().contains("mechanism"));
    }

    #[test]
    fn limits_hold_before_the_bytes_come() {
        let claim = |flags: u8, len: u64| {
            let mut wire = BytesMut::from(&[flags][..]);
            wire.put_u64(len);
            read_all(wire)
        };
        assert_eq!(claim(LONG, FRAME_BYTES_MAX as u64), Ok(vec![]));
        assert!(claim(LONG, FRAME_BYTES_MAX as u64 + 1).is_err());
        assert!(claim(LONG, u64::MAX).is_err());
        assert!(claim(LONG | COMMAND, COMMAND_BYTES_MAX as u64 + 1).is_err());
        assert!(read_all(BytesMut::from(&[0x08, 0][..])).is_err(), "reserved flag");
        assert!(read_all(BytesMut::from(&[MORE, 0].repeat(MESSAGE_FRAMES_MAX)[..])).is_err(), "endless message");
    }

    #[test]
    fn the_whole_message_is_bounded_not_only_each_frame() {
        let half = Bytes::from(vec![0; FRAME_BYTES_MAX / 2 + 1]);
        assert!(read_all(encode_message(&[half.clone(), half])).is_err());
    }
}
