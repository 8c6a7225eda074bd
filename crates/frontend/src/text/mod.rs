//! Text and tokens: the tokenizer both ways, and the chat template.

pub(crate) mod control;
mod cuts;
mod detokenizer;
mod pieces;
mod python_json;
mod recent;
mod sample;
mod strftime;
pub mod template;
mod token_cache;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use template::{ChatTemplate, TemplateError, TemplateInput};
pub use token_cache::{Encoded, Reuse, TokenCache};
pub use tokenizer::{Encoder, Tokenizer, TokenizerError};
