//! A folder in Hugging Face's layout, read.

use super::error::ModelError;
use super::gguf;
use super::local::{LocalModel, Weights};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Bytes of one JSON file that is read whole. `tokenizer.json` is not among them.
const JSON_LEN_MAX: u64 = 64 << 20;
/// What a frontend must find.
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

/// What a folder holds.
pub(super) struct HfFolder {
    pub(super) path: PathBuf,
    pub(super) model_type: String,
    pub(super) context_length: u32,
    pub(super) dtype: Option<String>,
    pub(super) has_chat_template: bool,
    /// Safetensors files; empty where there are none.
    pub(super) safetensors: Vec<PathBuf>,
    pub(super) ggufs: Vec<PathBuf>,
}

impl HfFolder {
    /// Whether the files that a frontend needs are in `folder`.
    pub(super) fn is_complete_for_a_frontend(folder: &Path) -> bool {
        NEEDED.iter().all(|name| folder.join(name).is_file())
    }

    /// Reads the folder and holds it against what it promises itself: every file that its index names is there.
    pub(super) fn read(folder: &Path) -> Result<HfFolder, ModelError> {
        let wrong = |what: String| ModelError::Folder { folder: folder.to_owned(), what };
        if let Some(missing) = NEEDED.iter().find(|name| !folder.join(name).is_file()) {
            return Err(wrong(format!("{missing} is missing")));
        }
        let config = read_json(folder, "config.json")?;
        let tokenizer_config = read_json(folder, "tokenizer_config.json")?;
        let text_config = config.get("text_config").unwrap_or(&config);
        let context = ["max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len"]
            .iter()
            .find_map(|key| text_config.get(*key).or_else(|| config.get(*key)).and_then(Value::as_u64))
            .ok_or_else(|| wrong("config.json has no `max_position_embeddings`".into()))?;
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
        let quantized = config.pointer("/quantization_config/quant_method").and_then(Value::as_str).map(str::to_owned);
        Ok(HfFolder {
            path: folder.to_owned(),
            model_type: text("model_type").ok_or_else(|| wrong("config.json has no `model_type`".into()))?,
            context_length: u32::try_from(context).unwrap_or(u32::MAX),
            dtype: quantized.or_else(|| text("dtype")).or_else(|| text("torch_dtype")),
            has_chat_template: tokenizer_config.get("chat_template").is_some()
                || folder.join("chat_template.jinja").is_file()
                || folder.join("chat_template.json").is_file(),
            safetensors: safetensors_in(folder)?,
            ggufs: gguf::files_in(folder).map_err(ModelError::io("list", folder))?,
        })
    }

    /// As a model without a GGUF.
    pub(super) fn into_model(self, served_name: String) -> LocalModel {
        let size = self.safetensors.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
        LocalModel {
            served_name,
            gguf: None,
            hf_folder: self.path,
            weights: if self.safetensors.is_empty() { Weights::Absent } else { Weights::Safetensors },
            architecture: self.model_type,
            context_length: self.context_length,
            quantization: self.dtype,
            size,
            has_chat_template: self.has_chat_template,
        }
    }
}

fn read_json(folder: &Path, name: &str) -> Result<Value, ModelError> {
    let path = folder.join(name);
    let wrong = |what: String| ModelError::Folder { folder: folder.to_owned(), what };
    let length = path.metadata().map_err(ModelError::io("read", &path))?.len();
    if length > JSON_LEN_MAX {
        return Err(wrong(format!("{name} has {length} bytes, the limit is {JSON_LEN_MAX}")));
    }
    let bytes = std::fs::read(&path).map_err(ModelError::io("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(format!("{name} is not JSON: {error}")))
}

fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        let single = folder.join("model.safetensors");
        return Ok(if single.is_file() { vec![single] } else { Vec::new() });
    }
    let wrong = |what: String| ModelError::Folder { folder: folder.to_owned(), what };
    let json = read_json(folder, "model.safetensors.index.json")?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| wrong("model.safetensors.index.json has no `weight_map`".into()))?;
    let names: std::collections::BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(wrong(format!("{name} is missing, model.safetensors.index.json names it")));
        }
        files.push(path);
    }
    Ok(files)
}
