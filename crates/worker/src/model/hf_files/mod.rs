//! Hugging Face's files from a GGUF's metadata.
//!
//! A GGUF holds a model's tokenizer, chat template and shape in its own words; Dynamo's frontend, ours, and every
//! library of the field read them from `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and
//! `config.json`. What is written here tokenizes as llama.cpp does with the same GGUF:
//! `tests/model_tokenization.rs` holds the two equal.

mod byte_alphabet;
mod config;
mod pre_tokenizer;
mod tokenizer;
mod vocabulary;

pub(super) use byte_alphabet::character as byte_character;
pub use vocabulary::{SpecialTokens, TokenType, Vocabulary};

use super::gguf::GgufHeader;
use serde_json::Value;
use std::path::Path;

/// Counts up when the files that this module writes change, so that cached ones are written again.
pub const FORMAT: u32 = 1;
/// The files that are written, in the order in which they are written.
pub const FILES: [&str; 4] = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"];

/// Why no files can be written for a GGUF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HfFilesError {
    /// `tokenizer.ggml.model` is a kind that is not known here.
    #[error(
        "its tokenizer is of the kind `{kind}` (`tokenizer.ggml.model`); `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE) are supported"
    )]
    TokenizerKind {
        /// The kind; `(none)` where the key is missing.
        kind: String,
    },
    /// `tokenizer.ggml.pre` is a kind that is not known here.
    #[error("its pre-tokenizer `{kind}` (`tokenizer.ggml.pre`) is not supported")]
    PreTokenizerKind {
        /// The kind.
        kind: String,
    },
    /// A key is missing or contradicts another one.
    #[error("`{key}` {what}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file could not be written.
    #[error("cannot write {file}: {reason}")]
    Write {
        /// File name.
        file: String,
        /// The system's reason.
        reason: String,
    },
}

/// The files' contents.
pub struct HfFiles {
    /// `(file name, JSON)`, in the order of [`FILES`].
    pub files: Vec<(&'static str, Value)>,
    /// Whether the model has a chat template.
    pub has_chat_template: bool,
}

impl HfFiles {
    /// Builds the files from a GGUF's header. Pure: the same header gives the same bytes.
    ///
    /// # Errors
    /// [`HfFilesError`] naming the kind or the key.
    pub fn from_gguf(header: &GgufHeader) -> Result<HfFiles, HfFilesError> {
        let vocabulary = Vocabulary::from_gguf(header)?;
        let tokenizer = tokenizer::tokenizer_json(header, &vocabulary)?;
        let tokenizer_config = config::tokenizer_config_json(header, &vocabulary);
        let has_chat_template = tokenizer_config.get("chat_template").is_some();
        let files = vec![
            (FILES[0], config::config_json(header, &vocabulary)?),
            (FILES[1], config::generation_config_json(&vocabulary)),
            (FILES[2], tokenizer_config),
            (FILES[3], tokenizer),
        ];
        Ok(HfFiles { files, has_chat_template })
    }

    /// Writes the files into `folder`, which exists and which nobody reads yet.
    ///
    /// # Errors
    /// [`HfFilesError::Write`].
    pub fn write(&self, folder: &Path) -> Result<(), HfFilesError> {
        for (name, json) in &self.files {
            let failed = |reason: String| HfFilesError::Write { file: (*name).to_owned(), reason };
            // The tokenizer is megabytes of table that nobody reads; the others are for people too.
            let text = if *name == "tokenizer.json" { json.to_string() } else { format!("{json:#}\n") };
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| failed(error.to_string()))?;
            std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }
}
