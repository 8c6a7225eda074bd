//! Updates of workers: a new generation beside the old one, and the way back.
//!
//! All workers of a graph are one generation, named by their hash: a prefill worker never serves a decode worker of
//! another generation. [`step`] moves one component by what is ready now; [`plan`] says for the whole graph whether to go
//! forward, to go back, or that it is done.

mod plan;
mod step;

pub use plan::{Decision, Observed, Phase, Request, plan};
pub use step::{Counts, Limits, Next, step};
