//! The webhooks, the definitions, adapters and elections against a real API server.
//!
//! The webhooks are served by this process on the machine's address, as an operator outside of the cluster serves them.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod bad_input;
mod elections;
mod registration;
mod round_trip;
mod scaling;
mod stage;
