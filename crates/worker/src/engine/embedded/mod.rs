//! The embedded engine: llama.cpp in this process.
//!
//! The engine's own are the scheduling (continuous batching with chunked prefill), the prefix cache with its events,
//! the sampling and the constraints; llama.cpp multiplies. One thread owns llama.cpp's context and runs step after
//! step ([`runner`]); requests are checked on the caller's thread ([`request`]) and sent to it through a bounded
//! channel; every sequence has a bounded channel back.
//!
//! A C++ assertion ends the process, so whoever needs more than one life runs the worker as a child.

mod advance;
mod backend;
pub mod config;
mod depths;
mod device;
mod error;
mod ffi;
mod guided;
mod handle;
mod load_model;
mod logprobs;
mod model_file;
mod namespace;
mod outlet;
mod penalties;
mod plan;
mod pool;
mod prefix;
mod quantize;
mod request;
mod runner;
mod sampling;
mod sequence;
mod shared;
mod stop;

pub use config::{EmbeddedConfig, threads_for};
pub use error::EmbeddedError;
pub use handle::start;
pub use quantize::requantize_q8_0;
