//! An engine without a model: a paged, prefix-cached block pool, a scheduler of continuous batching, a timing model,
//! and a next token that is a pure function of the tokens before it.
//!
//! **Invariant:** pure. No clock, no I/O, no hidden randomness. The set of blocks rebuilt from the emitted KV changes
//! is the pool's own set at every moment, every `cached_tokens` is what that set predicts, and no token depends on
//! how long a step takes.
//!
//! Start with [`batch`] (steps), then [`pool`] (blocks), [`tokens`] (text) and [`timing`] (how long a step takes).
//! The mock engine runs them against the clock; [`replay`] runs them against none, for sizing.

pub mod batch;
pub mod cost;
mod lru;
pub mod pool;
pub mod profile;
pub mod replay;
pub mod spread;
pub mod timing;
pub mod tokens;
