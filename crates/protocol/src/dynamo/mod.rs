//! The codec of Dynamo's bytes: frames, envelopes, file names. Version drift stays in this room.
//!
//! Everything here is sans-I/O: a decoder takes what has arrived in a [`BytesMut`](bytes::BytesMut), removes one whole
//! frame from its front, or leaves it untouched and answers `None` until more has come. No decoder allocates by a
//! length that only the peer claims, and none panics on any bytes.
//!
//! [`request_frame`] and [`ack`] are the request connection, [`two_part`] and [`control`] the response connection,
//! [`body`] what is inside both, [`envelope`] and
//! [`zmtp`] the event plane, [`file_name`] the file store, [`checksum`] and
//! [`card_sum`] the model card's BLAKE3 sums.

pub mod ack;
pub mod body;
pub mod card_sum;
pub mod checksum;
pub mod control;
pub mod envelope;
mod error;
pub mod file_name;
pub mod request_frame;
pub mod token_ids;
pub mod two_part;
pub mod zmtp;

pub use ack::Ack;
pub use card_sum::card_sum;
pub use control::{CallHome, ConnectionInfo, ControlWord, Handshake, Prologue, RequestControl};
pub use envelope::Envelope;
pub use error::{DecodeError, EncodeError, FrameError};
pub use request_frame::{Headers, RequestFrame};
pub use two_part::TwoPart;

/// Most bytes of one frame on either plane. Source: `DYN_TCP_MAX_MESSAGE_SIZE` of Dynamo 1.6.1, 32 MiB.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most bytes of a control header. Source: Dynamo 1.6.1 on the wire, §4.1, 128 KiB.
pub const CONTROL_BYTES_MAX: usize = 128 * 1024;

/// Deepest nesting of a body that is read; the deepest recorded is 8. It bounds the stack that a stranger can use.
pub const DEPTH_MAX: usize = 128;
