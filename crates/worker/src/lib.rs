//! A worker: one engine behind Dynamo's wire. It announces a model, answers `generate`, tells the routers what its
//! KV cache holds and how loaded it is, and leaves without cutting a stream.
//!
//! **Invariant:** what leaves this crate about the KV cache is exactly what the engine reported, in order and once:
//! the published events, the recovery answers and the engine's own set of blocks agree. An engine's failure ends the
//! stream that it concerns with a typed error and nothing else.
//!
//! Start with [`service`] (a worker's life), then [`engine`] (what a guest must do), `handler` (one request), [`indexer`]
//! and `publish` (the cache, told), [`card`] and [`register`] (what discovery sees), [`model`] (models on disk).

pub mod card;
pub mod engine;
mod fanout;
mod handler;
pub mod indexer;
pub mod metrics;
pub mod model;
mod publish;
pub mod refusal;
pub mod register;
pub mod service;
mod transport_metrics;
mod vitals;

pub use service::{Worker, WorkerConfig, WorkerError, run};
