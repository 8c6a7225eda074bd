//! Everything of a model that turns text into tokens and back.

use crate::text::{ChatTemplate, TemplateError, TokenCache, Tokenizer, TokenizerError, template};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest JSON or Jinja file of a model beside its tokenizer, bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Files of a model on this machine, already checked against the card's hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// `tokenizer_config.json`: special tokens and, mostly, the template.
    pub tokenizer_config: Option<PathBuf>,
    /// `config.json`: end-of-sequence tokens, size of the vocabulary.
    pub config: Option<PathBuf>,
    /// `generation_config.json`: end-of-sequence tokens.
    pub generation_config: Option<PathBuf>,
    /// It wins over the one in `tokenizer_config.json`.
    pub chat_template: Option<TemplateFile>,
}

/// A file with a chat template. What it is the card says: a kept copy is named by its hash, without an ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateFile {
    /// The template itself, as `chat_template.jinja`.
    Jinja(PathBuf),
    /// JSON with the template in `chat_template`, as `chat_template.json`: a text, or a list of named ones.
    Json(PathBuf),
}

/// Why a model's text side does not load.
#[derive(Debug, thiserror::Error)]
pub enum ModelTextError {
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Another file.
    #[error("read {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Tokenizer, template, end-of-sequence tokens and limits of one model. Immutable; share it.
#[derive(Debug)]
pub struct ModelText {
    pub(super) name: String,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) token_cache: TokenCache,
    pub(super) template: Option<ChatTemplate>,
    /// In order of `generation_config.json`, `config.json`, `tokenizer_config.json`, each once.
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) context_length: Option<u32>,
    pub(super) mdc_sum: Option<String>,
    /// Ids from here on are no tokens of the model.
    pub(super) vocabulary_len: usize,
}

impl ModelText {
    /// Loads the files. Blocks, up to a second or two for the largest tokenizers. `context_length` in tokens, `None` or
    /// 0 if unknown; `mdc_sum` is the card's checksum, sent along with each request.
    ///
    /// # Errors
    /// When a file cannot be read or understood; the text names it.
    pub fn load(
        name: &str,
        files: &ModelFiles,
        context_length: Option<u32>,
        mdc_sum: Option<String>,
    ) -> Result<Self, ModelTextError> {
        let mut tokenizer = Tokenizer::load(&files.tokenizer)?;
        let tokenizer_config = read_json(files.tokenizer_config.as_deref())?;
        let config = read_json(files.config.as_deref())?;
        let generation_config = read_json(files.generation_config.as_deref())?;
        let source = files.chat_template.as_ref().map(read_template).transpose()?;
        let template = ChatTemplate::of_model(source.as_deref(), &tokenizer_config)?;
        let eos_token_ids = eos_token_ids(&tokenizer, &generation_config, &config, &tokenizer_config);
        let model_vocabulary = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0);
        tokenizer.release_reference();
        let vocabulary_len = tokenizer.vocabulary_len().max(usize::try_from(model_vocabulary).unwrap_or(0));
        Ok(Self {
            name: name.to_owned(),
            tokenizer: Arc::new(tokenizer),
            token_cache: TokenCache::new(0),
            template,
            eos_token_ids,
            context_length: context_length.filter(|&length| length > 0),
            mdc_sum,
            vocabulary_len,
        })
    }

    /// The same with a cache of tokens of at most so many bytes; without one, every prompt is tokenized whole.
    #[must_use]
    pub fn with_token_cache(self, bytes_max: usize) -> Self {
        Self { token_cache: TokenCache::new(bytes_max), ..self }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Tokens that end an answer.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Whether chats can be served: the model has a template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Context, tokens, when known.
    pub fn context_length(&self) -> Option<u32> {
        self.context_length
    }
}

fn read(path: &Path) -> Result<String, ModelTextError> {
    let failed = |reason: String| ModelTextError::File { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(format!("it has {size} bytes; at most {MAX_FILE_BYTES} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

/// The JSON of a file; null without one.
fn read_json(path: Option<&Path>) -> Result<Value, ModelTextError> {
    let Some(path) = path else { return Ok(Value::Null) };
    let failed = |error: serde_json::Error| ModelTextError::File { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_str(&read(path)?).map_err(failed)
}

fn read_template(file: &TemplateFile) -> Result<String, ModelTextError> {
    let path = match file {
        TemplateFile::Jinja(path) => return read(path),
        TemplateFile::Json(path) => path,
    };
    let json = read_json(Some(path))?;
    let reason = "it has no text in `chat_template`".to_owned();
    let template = template::source_in_config(json.get("chat_template")).map(str::to_owned);
    template.ok_or_else(|| ModelTextError::File { path: path.clone(), reason })
}

fn eos_token_ids(tokenizer: &Tokenizer, generation: &Value, config: &Value, tokenizer_config: &Value) -> Vec<u32> {
    let mut ids = Vec::new();
    for field in
        [generation.get("eos_token_id"), config.get("eos_token_id"), config.pointer("/text_config/eos_token_id")]
    {
        let listed = match field {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        ids.extend(listed.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    }
    let eos_token = tokenizer_config.get("eos_token");
    let eos_token = eos_token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    ids.extend(eos_token.and_then(|token| tokenizer.token_id(token)));
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}
