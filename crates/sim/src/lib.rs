//! An engine without a model: a paged, prefix-cached block pool, a scheduler of continuous batching, a timing model,
//! and a next token that is a pure function of the tokens before it.
//!
//! **Invariant:** pure. No clock, no I/O, no hidden randomness. The set of blocks rebuilt from the emitted KV changes
//! is the pool's own set at every moment, and every `cached_tokens` is what that set predicts.
//!
//! Start with [`batch`] (steps), then [`pool`] (blocks), [`tokens`] (text) and [`timing`] (how long a step takes).

pub mod batch;
mod lru;
pub mod pool;
pub mod timing;
pub mod tokens;
