//! A model that is on this machine, whole.

use std::path::PathBuf;

/// What the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// One GGUF file.
    Gguf,
    /// Safetensors in Hugging Face's layout.
    Safetensors,
    /// None: tokenizer and config alone, enough for the mock engine.
    Absent,
}

/// A model on this machine. Every path names a whole file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalModel {
    /// The name that clients ask for.
    pub served_name: String,
    /// The weights for the embedded engine.
    pub gguf: Option<PathBuf>,
    /// `config.json`, `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` (the last may be missing in
    /// a folder of the user's); for vLLM the safetensors too.
    pub hf_folder: PathBuf,
    /// What the weights are.
    pub weights: Weights,
    /// The GGUF's `general.architecture`, else `model_type` of `config.json`.
    pub architecture: String,
    /// Tokens that the model was made for.
    pub context_length: u32,
    /// How the weights are stored, as `Q8_0` or `bfloat16`, where it is known.
    pub quantization: Option<String>,
    /// Bytes of the weights.
    pub size: u64,
    /// Whether the model has a chat template; without one it can only complete.
    pub has_chat_template: bool,
}
