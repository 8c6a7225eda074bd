//! The request plane over real TCP in one process: our client against our server, each against a stranger that we play
//! byte by byte, and both against recordings of stock Dynamo 1.6.1.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

mod cancels;
mod failures;
mod limits;
mod plane;
mod recorded;
mod strangers;
mod streams;
mod timeouts;
mod watch;
