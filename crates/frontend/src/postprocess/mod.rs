//! From an engine's tokens to what the client may see: whole characters, no stop strings, one reason for the end.

mod raiser;
mod stop_strings;

pub use raiser::{Finish, Raised, Raiser};
pub use stop_strings::{StopFinder, Verdict};
