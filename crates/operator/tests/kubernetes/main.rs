//! The operator against a real API server, controller manager and scheduler; kwok's nodes run the pods.
//!
//! Needs the test cluster (`tests-env/kubernetes/cluster.sh up FOLDER; . FOLDER/env`) and fails without it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panic and says what it measured")]

mod cluster;
mod crashes;
mod graphs;
mod updates;
