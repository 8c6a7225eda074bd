//! What can be wrong with a frame or a body.

use crate::discovery::Codec;

/// A frame that cannot be read. The connection that it came on is lost: the next frame's start is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A part claims more bytes than we take.
    #[error("{part} of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// What the peer claims, or what was to be sent.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// A part is not what it must be.
    #[error("{part} is malformed: {why}")]
    Malformed {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// A body or header that does not decode; the connection is still good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the JSON that was expected.
    #[error("does not decode as JSON: {0}")]
    Json(String),
    /// Not the MessagePack that was expected.
    #[error("does not decode as MessagePack: {0}")]
    Msgpack(String),
}

impl DecodeError {
    pub(super) fn of(codec: Codec, cause: impl std::fmt::Display) -> Self {
        match codec {
            Codec::Json => Self::Json(cause.to_string()),
            Codec::Msgpack => Self::Msgpack(cause.to_string()),
        }
    }
}

/// A value that cannot be written: a bug of the caller, or a value over a limit. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The value has no form in this codec.
    #[error("cannot encode the value: {0}")]
    Value(String),
    /// The frame would be over a limit of the wire.
    #[error("cannot send the frame: {0}")]
    Frame(#[from] FrameError),
}
