//! A GGUF file becomes a model, or a clear error.

use super::backend::{backend, with_reason};
use super::error::EmbeddedError;
use super::model_file;
use super::request::Vocabulary;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use std::path::Path;

/// Loads the model `path` with `n_gpu_layers` of its layers on a GPU. Blocks: 0.1 s for 135 M parameters in the page
/// cache, minutes for a large model on a slow disk.
///
/// # Errors
/// The file is not there, no GGUF, truncated, or of an architecture that llama.cpp does not know.
pub(super) fn load_model(path: &Path, n_gpu_layers: u32) -> Result<LlamaModel, EmbeddedError> {
    model_file::check(path)?;
    let params = LlamaModelParams::default().with_n_gpu_layers(n_gpu_layers);
    with_reason(|| LlamaModel::load_from_file(backend(), path, &params))
        .map_err(|reason| EmbeddedError::Load { path: path.into(), reason })
}

/// What `model` says about its tokens.
pub(super) fn vocabulary(model: &LlamaModel) -> Vocabulary {
    let vocab = model.vocab();
    let end_tokens = vocab.tokens().filter(|&token| vocab.is_eog(token)).map(|token| token.0.cast_unsigned()).collect();
    Vocabulary { n_tokens: vocab.n_tokens().cast_unsigned(), end_tokens }
}

/// Whether a part of a sequence's cells can be shared and dropped. Not with a recurrent state, which cannot be cut;
/// and not with a sliding window, because llama.cpp reuses cells that have left a sequence's window, and a holder's
/// blocks would look as if they had.
pub(super) fn can_share_prefixes(model: &LlamaModel) -> bool {
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let window = model.meta_val_str(&format!("{architecture}.attention.sliding_window"));
    let has_window = window.is_ok_and(|tokens| tokens != "0");
    !model.is_recurrent() && !model.is_hybrid() && !has_window
}
