//! `config.json`, `generation_config.json` and `tokenizer_config.json`.

use super::HfFilesError;
use super::vocabulary::{TokenType, Vocabulary};
use crate::model::gguf::GgufHeader;
use serde_json::{Map, Value, json};

/// The shape of the model, in the names of Hugging Face's configurations.
pub(super) fn config_json(header: &GgufHeader, vocabulary: &Vocabulary) -> Result<Value, HfFilesError> {
    let architecture = header.architecture();
    let context = header.architecture_number("context_length").ok_or_else(|| HfFilesError::Metadata {
        key: format!("{architecture}.context_length"),
        what: "is missing".into(),
    })?;
    let (model_type, class) = hf_names(architecture);
    let mut config = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(key.to_owned(), value);
        }
    };
    let number = |suffix: &str| header.architecture_number(suffix).map(Value::from);
    let float = |suffix: &str| header.architecture_float(suffix).map(rounded);
    put("architectures", Some(json!([class])));
    put("model_type", Some(json!(model_type)));
    put("max_position_embeddings", Some(context.into()));
    put("vocab_size", Some(vocabulary.tokens.len().into()));
    put("hidden_size", number("embedding_length"));
    put("intermediate_size", number("feed_forward_length"));
    put("num_hidden_layers", number("block_count"));
    put("num_attention_heads", number("attention.head_count"));
    put("num_key_value_heads", number("attention.head_count_kv").or_else(|| number("attention.head_count")));
    put("head_dim", number("attention.key_length").or_else(|| number("rope.dimension_count")));
    put("rms_norm_eps", float("attention.layer_norm_rms_epsilon"));
    put("rope_theta", float("rope.freq_base"));
    put("sliding_window", number("attention.sliding_window"));
    put("num_local_experts", number("expert_count").filter(|n| *n != json!(0)));
    put("num_experts_per_tok", number("expert_used_count").filter(|n| *n != json!(0)));
    put("tie_word_embeddings", Some((!header.has_tensor("output.weight")).into()));
    put("torch_dtype", Some(json!("float16")));
    put("bos_token_id", vocabulary.special.bos.map(Value::from));
    put("eos_token_id", vocabulary.special.eos.map(Value::from));
    put("pad_token_id", vocabulary.special.pad.map(Value::from));
    Ok(Value::Object(config))
}

/// The tokens that begin and end an answer. Several ends are a list, as in Llama 3's own file.
pub(super) fn generation_config_json(vocabulary: &Vocabulary) -> Value {
    let special = &vocabulary.special;
    let eos = match special.end_of_generation.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let all = [
        ("_from_model_config", Some(json!(true))),
        ("bos_token_id", special.bos.map(Value::from)),
        ("eos_token_id", Some(eos).filter(|eos| !eos.is_null())),
        ("pad_token_id", special.pad.map(Value::from)),
    ];
    Value::Object(all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

/// Template and special tokens, by their texts.
pub(super) fn tokenizer_config_json(header: &GgufHeader, vocabulary: &Vocabulary) -> Value {
    let special = &vocabulary.special;
    let text = |id: Option<u32>| id.and_then(|id| vocabulary.text(id)).map(|text| json!(text));
    let mut decoder = Map::new();
    for ((content, kind), id) in vocabulary.tokens.iter().zip(&vocabulary.types).zip(0u32..) {
        let special = matches!(kind, TokenType::Control | TokenType::Unknown);
        if special || *kind == TokenType::UserDefined {
            let token = json!({
                "content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": special,
            });
            decoder.insert(id.to_string(), token);
        }
    }
    let all = [
        ("add_bos_token", Some(json!(special.add_bos))),
        ("add_eos_token", Some(json!(special.add_eos))),
        ("add_prefix_space", Some(json!(false))),
        ("added_tokens_decoder", Some(Value::Object(decoder))),
        ("bos_token", text(special.bos)),
        ("chat_template", header.text("tokenizer.chat_template").map(|text| json!(text))),
        ("clean_up_tokenization_spaces", Some(json!(false))),
        ("eos_token", text(special.eos)),
        ("model_max_length", header.architecture_number("context_length").map(Value::from)),
        ("pad_token", text(special.pad)),
        ("tokenizer_class", Some(json!("PreTrainedTokenizerFast"))),
        ("unk_token", text(special.unk)),
    ];
    Value::Object(all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

/// Hugging Face's `model_type` and class for llama.cpp's name of an architecture. Names that are alike in both need no
/// row; an unknown class only shows, nobody here loads weights by it.
fn hf_names(architecture: &str) -> (String, String) {
    let known = [
        ("llama", "llama", "LlamaForCausalLM"),
        ("llama4", "llama4", "Llama4ForConditionalGeneration"),
        ("mistral3", "mistral3", "Mistral3ForConditionalGeneration"),
        ("qwen2", "qwen2", "Qwen2ForCausalLM"),
        ("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM"),
        ("qwen3", "qwen3", "Qwen3ForCausalLM"),
        ("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
        ("gemma", "gemma", "GemmaForCausalLM"),
        ("gemma2", "gemma2", "Gemma2ForCausalLM"),
        ("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
        ("phi3", "phi3", "Phi3ForCausalLM"),
        ("smollm3", "smollm3", "SmolLM3ForCausalLM"),
        ("gpt-oss", "gpt_oss", "GptOssForCausalLM"),
        ("deepseek2", "deepseek_v2", "DeepseekV2ForCausalLM"),
        ("granite", "granite", "GraniteForCausalLM"),
        ("olmo2", "olmo2", "Olmo2ForCausalLM"),
    ];
    if let Some((_, model_type, class)) = known.iter().find(|(name, _, _)| *name == architecture) {
        return ((*model_type).to_owned(), (*class).to_owned());
    }
    let mut class = String::new();
    for part in architecture.split(['-', '_']) {
        let mut characters = part.chars();
        class.extend(characters.next().map(|c| c.to_ascii_uppercase()));
        class.extend(characters);
    }
    (architecture.replace('-', "_"), format!("{class}ForCausalLM"))
}

/// GGUF stores f32; the shortest text that reads back as the same f32 is what the model's authors wrote.
fn rounded(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "the number was an f32 in the file")]
    let single = number as f32;
    single.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
