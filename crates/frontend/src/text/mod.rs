//! Text and tokens: the tokenizer both ways, and the chat template.

pub(crate) mod control;
mod detokenizer;
mod pieces;
mod python_json;
mod sample;
mod strftime;
pub mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use template::{ChatTemplate, TemplateError, TemplateInput};
pub use tokenizer::{Encoder, Tokenizer, TokenizerError};
