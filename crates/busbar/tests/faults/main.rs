//! Faults, one scenario a file: the real binary as processes on one machine, many streams at once, and one thing that
//! goes wrong. Whatever it is, no request may fail, end early, lose a token or get one twice.
//!
//! The mock engine's next token is a function of the tokens before it, so an answer that moved to another worker is
//! byte for byte the undisturbed one, or something was lost or doubled.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it measured"
)]

mod crowd;
#[path = "../machine/mod.rs"]
mod machine;
mod proxy;
mod sockets;
mod stage;

mod events_partitioned;
mod frontend_killed;
mod frontends_rolled;
mod kv_events_lost;
mod long_prefill;
mod poison_request;
mod worker_hangs;
mod worker_killed_before_first_token;
mod worker_killed_in_mid_stream;
mod worker_killed_under_choices;
mod worker_killed_under_grammar;
mod worker_out_of_memory;
mod worker_partitioned;
mod worker_restarted_at_its_address;
mod worker_slow;
mod worker_speaks_garbage;
mod workers_rolled;
