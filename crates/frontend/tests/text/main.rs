//! The text side of the frontend, black box: requests, templates, tokenizers, answers.

// The fixtures outside the test functions are tests too, and say what they leave out; `json!` values are handed over whole.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::needless_pass_by_value)]

mod answers;
mod bombs;
mod control_tokens;
mod fuzz_entries;
mod prompts;
mod requests;
mod templates;
mod tokenizers;

use frontend::preprocess::{ModelFiles, ModelText};
use std::path::{Path, PathBuf};

/// The folder of committed test data.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The model `tiny-bpe`: byte-level BPE, ChatML, a context of 128 tokens, end-of-sequence tokens 2 and 0.
fn tiny_model() -> ModelText {
    let dir = data("tiny-bpe");
    let files = ModelFiles {
        tokenizer: dir.join("tokenizer.json"),
        tokenizer_config: Some(dir.join("tokenizer_config.json")),
        config: Some(dir.join("config.json")),
        generation_config: Some(dir.join("generation_config.json")),
        chat_template: None,
    };
    ModelText::load("tiny", &files, Some(128), Some("sum".into())).unwrap()
}
