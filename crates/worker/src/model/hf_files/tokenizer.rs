//! `tokenizer.json`.

use super::pre_tokenizer::byte_level;
use super::vocabulary::{Algorithm, SpecialTokens, TokenType, Vocabulary};
use super::{HfFilesError, byte_alphabet};
use crate::model::gguf::GgufHeader;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What SentencePiece writes for a space.
const SPACE: char = '▁';

/// The whole of `tokenizer.json`.
pub(super) fn tokenizer_json(header: &GgufHeader, vocabulary: &Vocabulary) -> Result<Value, HfFilesError> {
    let (normalizer, pre_tokenizer, decoder, model) = match &vocabulary.algorithm {
        Algorithm::ByteLevelBpe { merges, pre_tokenizer } => {
            let pairs: Vec<Value> = merges.iter().map(|(left, right)| json!([left, right])).collect();
            let model = bpe_model(vocabulary, &pairs, pre_tokenizer.ignore_merges, None);
            (Value::Null, pre_tokenizer.json(&unwritable(vocabulary)), byte_level(true), model)
        }
        Algorithm::SentencePiece { scores, add_space_prefix } => {
            let unk = vocabulary.special.unk.and_then(|id| vocabulary.text(id));
            let model = bpe_model(vocabulary, &merges_by_score(vocabulary, scores), false, Some(unk));
            (
                sentence_piece_normalizer(*add_space_prefix),
                Value::Null,
                sentence_piece_decoder(*add_space_prefix),
                model,
            )
        }
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(header, vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(vocabulary, &vocabulary.special),
        "decoder": decoder,
        "model": model,
    }))
}

/// The characters of GPT-2's alphabet that stand for bytes of possible text and that no token says alone.
fn unwritable(vocabulary: &Vocabulary) -> String {
    let known: std::collections::HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    (0..=255u8)
        .filter(|&byte| byte_alphabet::occurs_in_utf8(byte))
        .map(byte_alphabet::character)
        .filter(|c| !known.contains(c.encode_utf8(&mut [0; 4]) as &str))
        .collect()
}

/// `sentence_piece_unk` is given for SentencePiece alone: its characters fall back to bytes, then to that token.
fn bpe_model(
    vocabulary: &Vocabulary,
    merges: &[Value],
    ignore_merges: bool,
    sentence_piece_unk: Option<Option<&str>>,
) -> Value {
    let vocab: Map<String, Value> = vocabulary.tokens.iter().cloned().zip((0u32..).map(Value::from)).collect();
    let is_sentence_piece = sentence_piece_unk.is_some();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": sentence_piece_unk.flatten(),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": is_sentence_piece,
        "byte_fallback": is_sentence_piece,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    })
}

/// Tokens that are found in the text before anything else: those with a role (`special`, which a caller may ask to be
/// read as plain text) and the user-defined ones.
fn added_tokens(header: &GgufHeader, vocabulary: &Vocabulary) -> Vec<Value> {
    let name = header.text("general.name").unwrap_or_default().to_lowercase();
    // llama.cpp does the same by the same sign: Phi-3's template leaves line breaks after its tokens.
    let is_phi3 = name.contains("phi-3") || name.contains("phi3");
    let mut added = Vec::new();
    for ((text, kind), id) in vocabulary.tokens.iter().zip(&vocabulary.types).zip(0u32..) {
        let special = match kind {
            TokenType::Control | TokenType::Unknown => true,
            TokenType::UserDefined => false,
            TokenType::Normal | TokenType::Unused | TokenType::Byte => continue,
        };
        let rstrip = is_phi3 && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
        added.push(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": rstrip,
            "normalized": false, "special": special,
        }));
    }
    added
}

fn post_processor(vocabulary: &Vocabulary, special: &SpecialTokens) -> Value {
    let bos = special.bos.filter(|_| special.add_bos);
    let eos = special.eos.filter(|_| special.add_eos);
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let token = |id: Option<u32>, type_id: u8| {
        let text = id.and_then(|id| vocabulary.text(id))?;
        Some(json!({"SpecialToken": {"id": text, "type_id": type_id}}))
    };
    let around = |name: &str, type_id: u8| {
        let sequence = json!({"Sequence": {"id": name, "type_id": type_id}});
        [token(bos, type_id), Some(sequence), token(eos, type_id)].into_iter().flatten().collect::<Vec<_>>()
    };
    let special_tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .filter_map(|id| {
            let text = vocabulary.text(id)?;
            Some((text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        })
        .collect();
    let (single, second) = (around("A", 0), around("B", 1));
    let pair = [single.clone(), second].concat();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens})
}

fn sentence_piece_normalizer(add_space_prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if !add_space_prefix {
        return replace;
    }
    json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
}

fn sentence_piece_decoder(add_space_prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space_prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// SentencePiece joins the two neighbours whose joint token has the best score; Hugging Face's BPE wants those pairs
/// as a list, best first. Each token gives one pair for each way to cut it into two tokens.
fn merges_by_score(vocabulary: &Vocabulary, scores: &[f64]) -> Vec<Value> {
    let ids: HashMap<&str, usize> = vocabulary.tokens.iter().map(String::as_str).zip(0..).collect();
    let mut merges: Vec<(usize, &str, &str)> = Vec::new();
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((id, left, right));
            }
        }
    }
    // Equal scores: the lower id; equal token: the longer left part, which is what merging from the left makes.
    merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.0.cmp(&b.0)).then(b.1.len().cmp(&a.1.len())));
    merges.into_iter().map(|(_, left, right)| json!([left, right])).collect()
}
