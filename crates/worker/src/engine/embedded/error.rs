//! Why the embedded engine cannot start, or cannot quantise a model.

use std::path::PathBuf;

/// A failure before the first request. Each text names the file or the setting and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The path names nothing, or no regular file.
    #[error("the model {path} is not a file that can be read: {reason}; give the path of a GGUF file")]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file does not start with GGUF's magic bytes.
    #[error("the model {path} is not a GGUF file: it starts with {found:?}, not with \"GGUF\"")]
    NotGguf {
        /// The path as given.
        path: PathBuf,
        /// Its first bytes, as text.
        found: String,
    },
    /// llama.cpp refuses the file: truncated, an unknown architecture, a broken tensor.
    #[error("the model {path} cannot be loaded: {reason}; fetch it again, or choose a model that llama.cpp knows")]
    Load {
        /// The path as given.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },
    /// The model loads, but there is no room for its context.
    #[error("no context of {kv_pool_tokens} tokens for the model {path}: {reason}; lower kv_pool_tokens")]
    Context {
        /// The path as given.
        path: PathBuf,
        /// Tokens asked for.
        kv_pool_tokens: u32,
        /// llama.cpp's own words.
        reason: String,
    },
    /// A setting that cannot be.
    #[error("{field} is {value}, but {rule}")]
    Setting {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// The process has no more threads.
    #[error("the engine's thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// llama.cpp's quantiser failed.
    #[error("the model {from} cannot be re-quantised to {to}: {reason}")]
    Quantize {
        /// The model read.
        from: PathBuf,
        /// The file that was to be written.
        to: PathBuf,
        /// What went wrong.
        reason: String,
    },
}
