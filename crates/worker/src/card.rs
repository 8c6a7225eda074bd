//! The model card of a folder in Hugging Face's layout.
//!
//! A frontend takes the tokenizer, the template and the generation defaults from the files that the card names, and
//! verifies their BLAKE3. Source: Dynamo 1.6.1 on the wire, §3.

use crate::engine::EngineProfile;
use protocol::card::{CheckedFile, GenConfig, ModelCard, ModelInfo, PromptFormatter, RuntimeConfig, TokenizerKind};
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// How often a broken stream may go on at another worker. Dynamo's default is 0; ours makes a lost worker invisible
/// (a worker, its successor and that one's successor may all fail).
pub const DEFAULT_MIGRATION_LIMIT: u32 = 3;

/// Most bytes of a configuration file that is read whole; the largest in the wild (added tokens, templates) have
/// about 10 MB. The tokenizer itself is hashed as a stream.
const CONFIG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is served under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// The name in requests and in `/v1/models`.
    pub name: String,
    /// Other names of the same model.
    pub aliases: Vec<String>,
    /// Folder with config.json, tokenizer.json, tokenizer_config.json and, if the model has them,
    /// generation_config.json and chat_template.jinja.
    pub folder: PathBuf,
    /// Where the model comes from: folder or repository. It is part of the card's checksum, so workers of one model
    /// must agree on it. The folder when absent.
    pub source_path: Option<String>,
    /// A Jinja template of the user's own, instead of the model's.
    pub chat_template: Option<PathBuf>,
    /// How often a broken stream may go on elsewhere.
    pub migration_limit: u32,
}

impl ServedModel {
    /// The model in `folder` under one name, with the defaults of the rest.
    pub fn new(name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            folder: folder.into(),
            source_path: None,
            chat_template: None,
            migration_limit: DEFAULT_MIGRATION_LIMIT,
        }
    }
}

/// Why a folder makes no card.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// A file that every model needs is not there.
    #[error(
        "the model folder {folder} has no {file}; a Hugging Face model folder needs config.json, tokenizer.json and tokenizer_config.json"
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A configuration file is not JSON.
    #[error("{path} is not valid JSON; download the model again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration file that no model has.
    #[error("{path} has {bytes} bytes, a configuration file has at most {CONFIG_BYTES_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The name is empty in a URL.
    #[error("the model name {0:?} has no letter or digit; give another with --model-name")]
    Name(String),
}

/// The name in URLs and metric labels: lower case, anything but letters, digits, `-` and `_` becomes `_`, and none
/// of those at the front. The stock rule.
pub fn slug(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' { c } else { '_' };
    let slug: String = name.to_lowercase().chars().map(kept).collect();
    slug.trim_start_matches('_').to_owned()
}

/// Reads and hashes the model's files, and says what `profile`'s engine can do with it. Blocking: some milliseconds
/// a megabyte of tokenizer.
///
/// # Errors
/// A file that is missing, unreadable or not JSON; a name without a slug.
pub fn build(model: &ServedModel, profile: &EngineProfile) -> Result<ModelCard, CardError> {
    let slug = slug(&model.name);
    if slug.is_empty() {
        return Err(CardError::Name(model.name.clone()));
    }
    let folder =
        std::path::absolute(&model.folder).map_err(|source| CardError::Read { path: model.folder.clone(), source })?;
    let files = Files { folder };
    let config_file = files.required("config.json")?;
    let tokenizer = files.required("tokenizer.json")?;
    let config = read_json(Path::new(&config_file.path))?;
    let formatter = files.optional("tokenizer_config.json")?;
    let template_file = files.template(model)?;
    let inline_template = match &formatter {
        Some(file) => read_json(Path::new(&file.path))?.get("chat_template").is_some_and(|t| !t.is_null()),
        None => false,
    };
    let chat = template_file.is_some() || inline_template;
    let Some(formatter) = formatter else {
        return Err(CardError::Missing { folder: files.folder, file: "tokenizer_config.json" });
    };
    let gen_config = files.optional("generation_config.json")?;
    Ok(ModelCard {
        display_name: model.name.clone(),
        slug,
        source_path: Some(model.source_path.clone().unwrap_or_else(|| files.folder.display().to_string())),
        model_info: Some(ModelInfo::HfConfigJson(config_file)),
        tokenizer: Some(TokenizerKind::HfTokenizerJson(tokenizer)),
        prompt_formatter: Some(PromptFormatter::HfTokenizerConfigJson(formatter)),
        chat_template_file: template_file,
        gen_config: gen_config.map(GenConfig::HfGenerationConfigJson),
        architectural_max_context_length: architectural_context(&config),
        context_length: profile.context_length,
        kv_cache_block_size: profile.block_size,
        migration_limit: model.migration_limit,
        // A base model has no template: it completes, and a chat request gets a clear 404 instead of nonsense.
        model_type: if chat { "Chat | Completions" } else { "Completions" }.into(),
        model_input: "Tokens".into(),
        worker_type: Some("aggregated".into()),
        needs: Vec::new(),
        aliases: model.aliases.clone(),
        runtime_config: runtime_config(profile),
        media_decoder: None,
        media_fetcher: None,
        extra_files: Vec::new(),
    })
}

/// Says that a constrained answer which another worker began can go on here. A frontend sends it nowhere else.
pub fn say_that_guided_answers_resume(card: &mut ModelCard) {
    let own = card.runtime_config.other.entry("runtime_data").or_insert_with(|| json!({}));
    if let Some(own) = own.as_object_mut() {
        own.insert("busbar_resumes_guided".into(), json!(true));
    }
}

/// Replaces each file's path by what `place` says, a URL of the system server say; `None` leaves it. Checksums and
/// sizes stay.
pub fn move_files(card: &mut ModelCard, mut place: impl FnMut(&Path) -> Option<String>) {
    for file in card_files(card) {
        if let Some(place) = place(Path::new(&file.path)) {
            file.path = place;
        }
    }
}

fn card_files(card: &mut ModelCard) -> impl Iterator<Item = &mut CheckedFile> {
    let info = card.model_info.as_mut().map(|ModelInfo::HfConfigJson(file)| file);
    let tokenizer = card.tokenizer.as_mut().map(|kind| match kind {
        TokenizerKind::HfTokenizerJson(file) | TokenizerKind::TikTokenModel(file) => file,
    });
    let gen_config = card.gen_config.as_mut().map(|GenConfig::HfGenerationConfigJson(file)| file);
    let formatters = [card.prompt_formatter.as_mut(), card.chat_template_file.as_mut()];
    let formatters = formatters.into_iter().flatten().map(|formatter| match formatter {
        PromptFormatter::HfTokenizerConfigJson(file) => file,
        PromptFormatter::HfChatTemplate { file, .. } | PromptFormatter::HfChatTemplateJson { file, .. } => file,
    });
    info.into_iter().chain(tokenizer).chain(gen_config).chain(formatters)
}

/// The files of one folder, hashed as they are asked for.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn required(&self, file: &'static str) -> Result<CheckedFile, CardError> {
        self.optional(file)?.ok_or_else(|| CardError::Missing { folder: self.folder.clone(), file })
    }

    fn optional(&self, file: &'static str) -> Result<Option<CheckedFile>, CardError> {
        let path = self.folder.join(file);
        if path.is_file() { self.checked(&path).map(Some) } else { Ok(None) }
    }

    /// The user's template, else the model's own file.
    fn template(&self, model: &ServedModel) -> Result<Option<PromptFormatter>, CardError> {
        if let Some(custom) = &model.chat_template {
            let path =
                std::path::absolute(custom).map_err(|source| CardError::Read { path: custom.clone(), source })?;
            let file = self.checked(&path)?;
            return Ok(Some(PromptFormatter::HfChatTemplate { is_custom: true, file }));
        }
        let file = self.optional("chat_template.jinja")?;
        Ok(file.map(|file| PromptFormatter::HfChatTemplate { is_custom: false, file }))
    }

    fn checked(&self, path: &Path) -> Result<CheckedFile, CardError> {
        let failed = |source| CardError::Read { path: path.to_owned(), source };
        let mut hasher = blake3::Hasher::new();
        let size = io::copy(&mut std::fs::File::open(path).map_err(failed)?, &mut hasher).map_err(failed)?;
        Ok(CheckedFile {
            path: path.display().to_string(),
            checksum: format!("blake3:{}", hasher.finalize().to_hex()),
            size: Some(size),
        })
    }
}

fn read_json(path: &Path) -> Result<Value, CardError> {
    let failed = |source| CardError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > CONFIG_BYTES_MAX {
        return Err(CardError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| CardError::Json { path: path.to_owned(), source })
}

/// `max_position_embeddings`, or that of the text part of a multimodal model.
fn architectural_context(config: &Value) -> Option<u32> {
    let of = |value: &Value| value.get("max_position_embeddings")?.as_u64().and_then(|n| u32::try_from(n).ok());
    of(config).or_else(|| of(config.get("text_config")?))
}

/// The stock keys, in the stock order.
fn runtime_config(profile: &EngineProfile) -> RuntimeConfig {
    let mut other = Map::new();
    let mut set = |key: &str, value: Value| other.insert(key.into(), value);
    set("tool_call_parser", Value::Null);
    set("reasoning_parser", Value::Null);
    set("tool_call_arguments_format", json!("json_string"));
    set("structural_tag_mode", json!("off"));
    set("structural_tag_scope", json!("auto"));
    set("structural_tag_schema", json!("auto"));
    set("exclude_tools_when_tool_choice_none", json!(true));
    set("data_parallel_start_rank", json!(0));
    set("data_parallel_size", json!(1));
    set("enable_local_indexer", json!(true));
    set("kv_event_publishing_enabled", json!(true));
    set("runtime_data", json!({"busbar_engine": profile.engine}));
    set("enable_eagle", json!(false));
    RuntimeConfig {
        context_length: Some(profile.context_length),
        total_kv_blocks: Some(profile.total_kv_blocks),
        max_num_seqs: Some(u64::from(profile.max_num_seqs)),
        max_num_batched_tokens: Some(u64::from(profile.max_num_batched_tokens)),
        other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const STOCK: &str = include_str!("../tests/data/stock-mocker-card.json");

    fn profile() -> EngineProfile {
        EngineProfile {
            engine: "mock",
            device: "cpu",
            context_length: 1024,
            block_size: 16,
            total_kv_blocks: 96,
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
        }
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const WHOLE: &[(&str, &str)] = &[
        ("config.json", r#"{"max_position_embeddings": 131072}"#),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", r#"{"chat_template": "{{ messages }}"}"#),
        ("generation_config.json", "{}"),
    ];

    #[test]
    fn a_slug_is_lower_case_letters_digits_hyphens_and_underscores() {
        for (name, expected) in [
            ("tiny", "tiny"),
            ("Qwen/Qwen3-0.6B", "qwen_qwen3-0_6b"),
            ("/models/tiny", "models_tiny"),
            ("SmolLM2 135M", "smollm2_135m"),
            ("模型", ""),
        ] {
            assert_eq!(slug(name), expected, "{name}");
        }
    }

    #[test]
    fn a_card_has_the_keys_and_limits_of_the_stock_card() {
        let dir = folder(WHOLE);
        let mut model = ServedModel::new("tiny", dir.path());
        (model.source_path, model.migration_limit) = (Some("/models/tiny".into()), 0);
        let mut card = build(&model, &profile()).unwrap();
        move_files(&mut card, |path| {
            let file = path.file_name().unwrap().to_string_lossy();
            Some(format!("http://192.0.2.2:9301/v1/metadata/dynamo/backend/generate/tiny/_base/{file}"))
        });
        let mut ours = serde_json::to_value(&card).unwrap();
        let mut stock: Value = serde_json::from_str(STOCK).unwrap();
        for card in [&mut ours, &mut stock] {
            card["runtime_config"]["runtime_data"].take();
            for pointer in [
                "/model_info/hf_config_json",
                "/tokenizer/hf_tokenizer_json",
                "/prompt_formatter/hf_tokenizer_config_json",
                "/gen_config/hf_generation_config_json",
            ] {
                let file = card.pointer_mut(pointer).unwrap();
                assert!(file["checksum"].as_str().unwrap().starts_with("blake3:"));
                assert_eq!(file["checksum"].take().as_str().unwrap().len(), 71);
                assert!(file["size"].take().is_u64());
            }
        }
        assert_eq!(ours, stock);
    }

    #[test]
    fn the_checksum_is_the_blake3_of_the_bytes_and_the_size_is_theirs() {
        let dir = folder(WHOLE);
        let card = build(&ServedModel::new("m", dir.path()), &profile()).unwrap();
        let Some(TokenizerKind::HfTokenizerJson(file)) = card.tokenizer else { panic!("a tokenizer") };
        assert_eq!(file.checksum, format!("blake3:{}", blake3::hash(b"{}").to_hex()));
        assert_eq!(file.size, Some(2));
        assert_eq!(fs::read(&file.path).unwrap(), b"{}");
    }

    #[test]
    fn a_template_file_wins_and_the_users_own_wins_over_it() {
        let dir = folder(WHOLE);
        fs::write(dir.path().join("chat_template.jinja"), "model's").unwrap();
        let mut model = ServedModel::new("m", dir.path());
        let template = |model: &ServedModel| match build(model, &profile()).unwrap().chat_template_file {
            Some(PromptFormatter::HfChatTemplate { is_custom, file }) => {
                (is_custom, fs::read_to_string(file.path).unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(template(&model), (false, "model's".into()));
        fs::write(dir.path().join("mine.jinja"), "mine").unwrap();
        model.chat_template = Some(dir.path().join("mine.jinja"));
        assert_eq!(template(&model), (true, "mine".into()));
    }

    #[test]
    fn a_model_without_a_template_completes_but_does_not_chat() {
        let dir = folder(WHOLE);
        fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": null}"#).unwrap();
        let card = build(&ServedModel::new("base", dir.path()), &profile()).unwrap();
        assert_eq!(card.model_type, "Completions");
    }

    #[test]
    fn the_context_of_a_multimodal_model_is_that_of_its_text_part() {
        let nested = json!({"text_config": {"max_position_embeddings": 4096}});
        assert_eq!(architectural_context(&nested), Some(4096));
        assert_eq!(architectural_context(&json!({})), None);
    }

    #[test]
    fn a_folder_that_is_no_model_is_named_with_what_it_lacks() {
        for missing in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            let dir = folder(WHOLE);
            fs::remove_file(dir.path().join(missing)).unwrap();
            let error = build(&ServedModel::new("m", dir.path()), &profile()).unwrap_err().to_string();
            assert!(error.contains(&format!("has no {missing}")), "{error}");
        }
        let dir = folder(WHOLE);
        fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = build(&ServedModel::new("m", dir.path()), &profile()).unwrap_err();
        assert!(matches!(error, CardError::Json { .. }), "{error}");
        assert!(matches!(build(&ServedModel::new("//", dir.path()), &profile()), Err(CardError::Name(_))));
    }
}
