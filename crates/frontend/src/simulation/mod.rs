//! Whole deployments in one process, from one seed: real frontends, real workers around mock engines, a network in
//! memory, and tokio's clock standing still between events. Faults come at random; what must hold, holds at the end.
//!
//! One seed is one [`plan::Plan`]: who is there, who asks what and when, and what breaks. [`run::run`] plays it and
//! gives a log, which is the same for the same seed, and what was violated. A failure prints its seed;
//! `BUSBAR_TEST_SEED=N cargo test --release -p frontend --lib simulation` plays that seed alone and prints its log.
//!
//! Decisions: docs/decisions/0008-simulation.md.

mod audit;
mod bridge;
mod client;
mod deployment;
mod faults;
mod oracle;
mod plan;
mod planted;
mod run;
mod tests;

pub(crate) use planted::{Bug, planted};
