//! Models on disk: from what a user or a manifest writes to files that an engine can load and a frontend can read.
//!
//! [`resolve`] is the one way in. It takes a [`ModelSource`] and gives a [`LocalModel`]: weights (a GGUF, or a folder
//! of safetensors) and the Hugging Face files beside them (`config.json`, `tokenizer.json`, `tokenizer_config.json`,
//! `generation_config.json`), which [`hf_files`] writes from a GGUF's metadata where they are not there.
//!
//! **Invariant:** a path that [`resolve`] returns names a whole file. Everything is written under another name and
//! renamed when it is complete and checked, by one writer at a time; a run that is killed leaves nothing that a later
//! one takes for complete.

mod byte_model;
mod cache;
mod error;
mod fits;
pub mod gguf;
mod gguf_file;
pub mod hf_files;
mod hf_folder;
mod hub;
mod lease;
mod local;
mod packaged;
mod pip;
mod plain_tokens;
mod progress;
mod resolve;
mod shared;
mod source;

pub use byte_model::{NAME as BYTE_MODEL, byte_model};
pub use cache::ModelCache;
pub use error::ModelError;
pub use fits::{EngineKind, fits};
pub use hub::{HubConfig, HubError, Token};
pub use local::{LocalModel, Weights};
pub use packaged::{PackagedModel, SMOLLM2, resolve_packaged};
pub use pip::PipCommand;
pub use plain_tokens::plain_tokens;
pub use progress::{NoProgress, Progress, Stage, Step};
pub use resolve::{Requantize, ResolveContext, resolve};
pub use shared::{Check, Filled, fill};
pub use source::{HubName, ModelSource, SourceError};
