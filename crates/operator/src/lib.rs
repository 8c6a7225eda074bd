//! The operator: makes the cluster what the graphs say, and says what it sees.
//!
//! **Invariant:** nothing is decided here that [`graph`] can decide: reconcile = read, `graph::cluster` (pure),
//! server-side apply, prune by label, status. A reconcile that is cut off anywhere and run again ends in the same objects.

pub mod adapter;
pub mod certificate;
pub mod install;
pub mod leader;
pub mod webhook;
