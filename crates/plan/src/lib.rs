//! From a platform file to what should exist: chart values, manifests, in order.
//!
//! **Invariant:** pure. Same file, same bytes; no file, clock, environment or credential is read here.
//!
//! Start with [`read()`], then [`plan()`]. What is done with a plan is the business of `deploy::cluster`.

mod check;
mod graphs;
mod plan;
mod read;
mod shape;
mod values;

pub use graphs::{GraphText, PlannedComponent, PlannedGraph};
pub use plan::{Check, GIVEN_IMAGE_WORD, Image, Plan, Question, Release, plan};
pub use read::{PLATFORM_BYTES_MAX, kind_of, read};
