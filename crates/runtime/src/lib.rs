//! The ground that workers and frontends stand on: discovery of each other, the request plane, the event plane, the
//! connection to NATS that either plane may go over, the system status server and owned tasks. All of it speaks Dynamo 1.6.
//!
//! **Invariant:** nothing here knows what a request means. Bodies are opaque to this crate; whoever sends a request
//! gets an answer or a [`RequestError`](request_plane::RequestError) within a named time, and every socket, queue and
//! task has an owner and a bound.
//!
//! Start with [`discovery`] to find peers, [`request_plane`] to talk to one, [`event_plane`] to hear what happens.
//! [`world`] is the machine below.

pub mod discovery;
pub mod event_plane;
pub mod nats;
pub mod request_plane;
pub mod system_server;
pub mod tasks;
pub mod world;

mod local_host;

pub use local_host::local_host;
