//! The operator: makes the cluster what the graphs say, and says what it sees.
//!
//! **Invariant:** nothing is decided here that [`graph`] can decide: reconcile = read, `graph::cluster` (pure),
//! server-side apply, prune by label, status. A reconcile that is cut off anywhere and run again ends in the same objects.
//!
//! Start with [`run()`]. While a process holds the lease ([`leader`]), two loops ([`reconcile`]) look at what changed in
//! [`cache`] and write through [`apply`]; [`rollout`] and [`restart`] decide the next step of an update, [`status`] says
//! how things stand; [`model`] brings models to their claims. [`webhook`] answers the API server in every process.

pub mod adapter;
pub mod apply;
pub mod cache;
pub mod certificate;
pub mod config;
pub mod events;
mod health;
pub mod install;
pub mod kinds;
pub mod leader;
pub mod metrics;
pub mod model;
mod pull_secrets;
pub mod reconcile;
pub mod restart;
pub mod revision;
pub mod rollout;
mod run;
pub mod status;
pub mod webhook;

pub use config::Config;
pub use run::{OperatorError, run};
