//! The model card: what a worker says of the model that it serves.
//!
//! Source: Dynamo 1.6.1 on the wire, §3. Unknown fields are skipped; optional ones are left out when absent.

use serde::{Deserialize, Serialize};

/// `card_json` of a model record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The served name.
    pub display_name: String,
    /// The name in URLs.
    pub slug: String,
    /// Folder or repository; part of the card's checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
    /// `config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_info: Option<ModelInfo>,
    /// `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerKind>,
    /// `tokenizer_config.json`, which holds the chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_formatter: Option<PromptFormatter>,
    /// A template of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_file: Option<PromptFormatter>,
    /// `generation_config.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gen_config: Option<GenConfig>,
    /// Context of the architecture, tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectural_max_context_length: Option<u32>,
    /// Context served, tokens, 0 when not told; `runtime_config.context_length` is the newer place. Read
    /// [`ModelCard::effective_context_length`].
    #[serde(default)]
    pub context_length: u32,
    /// Tokens per KV block; never 0 in a served card.
    pub kv_cache_block_size: u32,
    /// How often a broken stream may go on elsewhere.
    pub migration_limit: u32,
    /// Such as `Chat | Completions`.
    pub model_type: String,
    /// `Tokens`, `Text` or `Tensor`.
    pub model_input: String,
    /// `aggregated`, `prefill`, `decode` or `encode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_type: Option<String>,
    /// Alternatives of worker kinds that must be present.
    #[serde(default)]
    pub needs: Vec<Vec<String>>,
    /// Other names of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Limits of this worker.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// Multimodal; carried, not read.
    #[serde(default)]
    pub media_decoder: Option<serde_json::Value>,
    /// Multimodal; carried, not read.
    #[serde(default)]
    pub media_fetcher: Option<serde_json::Value>,
    /// More files beside the model, such as `preprocessor_config.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_files: Vec<CheckedFile>,
}

impl ModelCard {
    /// Context of the model as served, tokens, 0 when no field tells: that of `runtime_config`, else of the
    /// architecture, else the old field's.
    pub fn effective_context_length(&self) -> u32 {
        let newer = self.runtime_config.context_length.or(self.architectural_max_context_length);
        newer.unwrap_or(self.context_length)
    }

    /// The files that the card names, in the order of its checksum: configuration, tokenizer, prompt formatter, chat
    /// template, generation defaults.
    pub fn files(&self) -> impl Iterator<Item = &CheckedFile> {
        [
            self.model_info.as_ref().map(|ModelInfo::HfConfigJson(file)| file),
            self.tokenizer.as_ref().map(TokenizerKind::file),
            self.prompt_formatter.as_ref().map(PromptFormatter::file),
            self.chat_template_file.as_ref().map(PromptFormatter::file),
            self.gen_config.as_ref().map(|GenConfig::HfGenerationConfigJson(file)| file),
        ]
        .into_iter()
        .flatten()
    }
}

/// A file of the model with its BLAKE3, which a frontend verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedFile {
    /// Absolute path or URL.
    pub path: String,
    /// `blake3:` and 64 hex digits.
    pub checksum: String,
    /// Bytes, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Where the model's configuration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelInfo {
    /// `config.json`.
    HfConfigJson(CheckedFile),
}

/// Where the tokenizer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// `tokenizer.json`.
    HfTokenizerJson(CheckedFile),
    /// A tiktoken file.
    TikTokenModel(CheckedFile),
}

impl TokenizerKind {
    /// The file.
    pub fn file(&self) -> &CheckedFile {
        match self {
            Self::HfTokenizerJson(file) | Self::TikTokenModel(file) => file,
        }
    }
}

/// Where the chat template is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormatter {
    /// Inside `tokenizer_config.json`.
    HfTokenizerConfigJson(CheckedFile),
    /// A Jinja file.
    #[serde(alias = "hf_chat_template_jinja")]
    HfChatTemplate {
        /// Given by the user, not by the model.
        is_custom: bool,
        /// The file.
        file: CheckedFile,
    },
    /// A JSON file that holds it under `chat_template`.
    HfChatTemplateJson {
        /// Given by the user, not by the model.
        is_custom: bool,
        /// The file.
        file: CheckedFile,
    },
}

impl PromptFormatter {
    /// The file.
    pub fn file(&self) -> &CheckedFile {
        match self {
            Self::HfTokenizerConfigJson(file) => file,
            Self::HfChatTemplate { file, .. } | Self::HfChatTemplateJson { file, .. } => file,
        }
    }
}

/// Where the generation defaults are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenConfig {
    /// `generation_config.json`.
    HfGenerationConfigJson(CheckedFile),
}

/// Limits and switches of one worker. What we do not read stays in `other`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Context served, tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// KV blocks of the worker.
    #[serde(default)]
    pub total_kv_blocks: Option<u64>,
    /// Sequences at once.
    #[serde(default)]
    pub max_num_seqs: Option<u64>,
    /// Tokens a step.
    #[serde(default)]
    pub max_num_batched_tokens: Option<u64>,
    /// Everything else, kept as it came.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl RuntimeConfig {
    /// First data-parallel rank, 0 unless told.
    pub fn data_parallel_start_rank(&self) -> u32 {
        self.number("data_parallel_start_rank").unwrap_or(0)
    }

    /// Data-parallel ranks, 1 unless told.
    pub fn data_parallel_size(&self) -> u32 {
        self.number("data_parallel_size").unwrap_or(1).max(1)
    }

    fn number(&self, key: &str) -> Option<u32> {
        self.other.get(key)?.as_u64().and_then(|n| u32::try_from(n).ok())
    }
}
