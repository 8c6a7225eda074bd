//! The frontend as a whole, over real sockets: HTTP in, a scripted worker behind it.
//!
//! Nothing here waits by sleeping: every wait is for a condition, under a cap that only a defect reaches.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

mod answers;
mod caches;
mod edge;
mod failures;
mod heads;
mod hostile;
mod liveness;
mod losses;
mod metrics;
mod models;
mod nats;
#[path = "../../../runtime/tests/nats_server/mod.rs"]
mod nats_server;
mod page;
mod port;
#[path = "../../../runtime/tests/ports/mod.rs"]
mod ports;
mod replicas;
mod scripted_worker;
mod slow_clients;
mod stage;
mod tenants;

use ports::free_port;
