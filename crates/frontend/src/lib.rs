//! The OpenAI edge: admission, keys, text in and out, choice of a worker, migration, server-sent events, status page.
//!
//! **Invariant:** every request that is accepted is answered: with its tokens, or with one OpenAI error object, within
//! its deadline. What was shown to a client is never shown twice, and a client that leaves stops the engine.
//!
//! Start with [`start`]; the walk of one request is in `server::generate`, then `exchange`, `migrate`, `dispatch`.

mod admission;
pub mod config;
mod dispatch;
mod exchange;
mod feed;
mod frontend;
mod health;
mod key_ring;
pub mod keys;
mod lifeline;
mod metrics;
mod migrate;
mod models;
pub mod openai;
mod patience;
mod poison;
pub mod postprocess;
pub mod preprocess;
mod pulse;
mod replica;
mod retries;
mod sentry;
mod server;
#[cfg(test)]
mod simulation;
mod status;
mod suspicion;
mod tempo;
pub mod text;
mod vigil;
mod workers;

pub use config::{FrontendConfig, HttpConfig, LimitConfig, RouterConfig, RouterMode};
pub use frontend::{Frontend, FrontendError, start};
