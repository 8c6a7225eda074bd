//! A model of bytes, for the mock engine where no model is wanted: its tokenizer has one token a byte, and no weights.

use super::cache::{ModelCache, WriteLock, publish, remove};
use super::error::ModelError;
use super::hf_files::byte_character;
use super::local::{LocalModel, Weights};
use super::progress::Progress;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Name under which it is served.
pub const NAME: &str = "mock";
/// Tokens of context, as the mock engine's pool is large enough for.
const CONTEXT_LENGTH: u32 = 32_768;
/// Counts up when the files change.
const FORMAT: u32 = 1;
/// ids of the special tokens: behind the 256 bytes.
const BEGIN: u32 = 256;
const END: u32 = 257;
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes the files, if they are not there, and describes the model.
///
/// # Errors
/// Those of the file system.
pub async fn byte_model(cache: &ModelCache, progress: &dyn Progress) -> Result<LocalModel, ModelError> {
    let parent = cache.folder("mock-bytes")?;
    let folder = parent.join(format!("v{FORMAT}"));
    if !folder.is_dir() {
        let _lock = WriteLock::take(&parent, progress).await?;
        if !folder.is_dir() {
            let temporary = parent.join("writing");
            remove(&temporary)?;
            std::fs::create_dir_all(&temporary).map_err(ModelError::io("create", &temporary))?;
            write(&temporary)?;
            publish(&temporary, &folder)?;
        }
    }
    Ok(LocalModel {
        served_name: NAME.to_owned(),
        gguf: None,
        hf_folder: folder,
        weights: Weights::Absent,
        architecture: "qwen2".to_owned(),
        context_length: CONTEXT_LENGTH,
        quantization: None,
        size: 0,
        has_chat_template: true,
    })
}

fn write(folder: &Path) -> Result<(), ModelError> {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mut vocabulary: Map<String, Value> =
        (0..=255u8).map(|byte| (byte_character(byte).to_string(), json!(byte))).collect();
    vocabulary.insert("<|im_start|>".into(), json!(BEGIN));
    vocabulary.insert("<|im_end|>".into(), json!(END));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(BEGIN, "<|im_start|>"), special(END, "<|im_end|>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": []}
    });
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 258,
        "max_position_embeddings": CONTEXT_LENGTH, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": BEGIN, "eos_token_id": END
    });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": null, "eos_token": "<|im_end|>",
        "model_max_length": CONTEXT_LENGTH, "chat_template": TEMPLATE
    });
    for (name, value) in [
        ("config.json", config),
        ("generation_config.json", json!({"bos_token_id": BEGIN, "eos_token_id": [END]})),
        ("tokenizer_config.json", tokenizer_config),
        ("tokenizer.json", tokenizer),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, value.to_string()).map_err(ModelError::io("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NoProgress;

    #[tokio::test]
    async fn a_token_is_a_byte_and_any_text_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::at(root.path());
        let model = byte_model(&cache, &NoProgress).await.unwrap();
        assert_eq!(byte_model(&cache, &NoProgress).await.unwrap(), model);
        let tokenizer = tokenizers::Tokenizer::from_file(model.hf_folder.join("tokenizer.json")).unwrap();
        let text = "héllo 🙂\n";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids.get_ids(), text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
    }
}
