//! The choice of a worker: a prefix index of what every worker has cached, the load that is booked on each, and a
//! cost for every candidate.
//!
//! **Invariant:** pure. No I/O, no async, no clock and no hidden randomness: time and dice are arguments, so the same
//! inputs give the same placement.
//!
//! Start with [`select`] (the decision), then [`cost`] (its formula), [`copies`] (what keeps a conversation together),
//! [`index`] (who has which prefix), [`loads`]
//! (who is how busy) and [`config`] (all weights with their defaults).

pub mod config;
pub mod copies;
pub mod cost;
pub mod index;
pub mod loads;
pub mod prompt;
pub mod select;

pub use config::{RouterConfig, RouterMode};
pub use index::{Applied, Index, Overlaps, TierBlocks};
pub use loads::{Booking, BookingId, Loads, RankLoad};
pub use prompt::Prompt;
pub use select::{Placement, Request, SelectError, Snapshot, WorkerView, select};
