//! OpenAI's HTTP types: what clients send, what they get back, and the error object.
//!
//! Bytes become a [`request`] in one step that also validates ([`parse`]); nothing behind it checks again.

mod body;
pub mod error;
pub mod fields;
mod guided;
pub mod message;
pub mod nvext;
mod outline;
pub mod parse;
pub mod request;
pub mod response;
pub mod sse;
mod validate;

pub use error::ApiError;
pub use parse::{ParseRules, parse_chat, parse_chat_by, parse_completion, parse_completion_by};
pub use request::{ChatCompletionRequest, CompletionRequest};
