//! Makes what a plan says real, and tells what is: the processes of one machine, the image, a platform on a cluster.
//!
//! **Invariant:** whatever is started here can be found again from the run's folder alone, by pid *and* start time, so
//! that `status`, `logs` and `down` work from another terminal and never touch a stranger's process.
//!
//! Start with [`local::run`]; [`local::state`] is what another terminal reads. In a cluster the same holds by labels:
//! [`cluster::up`], [`cluster::down`]. [`image::push`] is the binary's way into a registry.

pub mod cluster;
pub mod image;
pub mod local;
