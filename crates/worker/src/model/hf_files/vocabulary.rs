//! A GGUF's vocabulary, checked once: tokens, what each is, merges or scores, and the tokens with a role.

use super::HfFilesError;
use super::pre_tokenizer::{self, PreTokenizer};
use crate::model::gguf::GgufHeader;
use std::collections::HashMap;

/// What a token is, in llama.cpp's words (`llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Ordinary text.
    Normal,
    /// Stands for what the vocabulary cannot say.
    Unknown,
    /// Has a role (turn, end, tool) and no text.
    Control,
    /// Text that is found before anything else is.
    UserDefined,
    /// A place without a use.
    Unused,
    /// One byte, as `<0x0A>`.
    Byte,
}

/// How words become tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Algorithm {
    /// Byte-level BPE: merges by rank inside pre-tokenized words.
    ByteLevelBpe { merges: Vec<(String, String)>, pre_tokenizer: PreTokenizer },
    /// SentencePiece BPE: merges by score, unknown characters as bytes.
    SentencePiece { scores: Vec<f64>, add_space_prefix: bool },
}

/// Tokens with a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Every token that ends an answer, `eos` first.
    pub end_of_generation: Vec<u32>,
    /// Whether encoding puts `bos` first.
    pub add_bos: bool,
    /// Whether encoding puts `eos` last.
    pub add_eos: bool,
}

/// A GGUF's vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// Texts by id; none is empty and none is there twice.
    pub tokens: Vec<String>,
    /// Kinds by id; as many as tokens.
    pub types: Vec<TokenType>,
    /// Tokens with a role.
    pub special: SpecialTokens,
    pub(super) algorithm: Algorithm,
}

/// Texts that end an answer wherever they are tokens with a role, because converters often forget to say so.
///
/// Source: `special_eog_ids` in llama.cpp's `src/llama-vocab.cpp`.
const END_TEXTS: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

impl Vocabulary {
    /// Reads the vocabulary from a header.
    ///
    /// # Errors
    /// An unknown kind of tokenizer or pre-tokenizer, or keys that are missing or disagree.
    pub fn from_gguf(header: &GgufHeader) -> Result<Vocabulary, HfFilesError> {
        let kind = header.text("tokenizer.ggml.model").unwrap_or("(none)");
        if kind != "gpt2" && kind != "llama" {
            return Err(HfFilesError::TokenizerKind { kind: kind.to_owned() });
        }
        let (tokens, ids) = read_tokens(header)?;
        let mut types = read_types(header, tokens.len())?;
        let (algorithm, add_bos_default) = if kind == "gpt2" {
            let pre_tokenizer = pre_tokenizer::by_name(header.text("tokenizer.ggml.pre"))?;
            let merges = read_merges(header, &ids)?;
            (Algorithm::ByteLevelBpe { merges, pre_tokenizer }, pre_tokenizer.add_bos_default)
        } else {
            let scores = read_scores(header, tokens.len())?;
            let add_space_prefix =
                header.get("tokenizer.ggml.add_space_prefix").and_then(|v| v.as_bool()).unwrap_or(true);
            (Algorithm::SentencePiece { scores, add_space_prefix }, true)
        };
        for text in END_TEXTS {
            if let Some(&id) = ids.get(text) {
                types[id as usize] = TokenType::Control;
            }
        }
        let special = read_special(header, &ids, kind == "llama", add_bos_default)?;
        Ok(Vocabulary { tokens, types, special, algorithm })
    }

    /// The text of token `id`.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }
}

fn bad(key: &str, what: impl Into<String>) -> HfFilesError {
    HfFilesError::Metadata { key: key.to_owned(), what: what.into() }
}

fn read_tokens(header: &GgufHeader) -> Result<(Vec<String>, HashMap<String, u32>), HfFilesError> {
    const KEY: &str = "tokenizer.ggml.tokens";
    let texts = header.texts(KEY).ok_or_else(|| bad(KEY, "is missing"))?;
    let mut tokens = Vec::with_capacity(texts.len());
    let mut ids = HashMap::with_capacity(texts.len());
    for (text, id) in texts.iter().zip(0u32..) {
        // llama.cpp names an empty token so.
        let text = if text.is_empty() { format!("[EMPTY_{id}]") } else { text.clone() };
        if let Some(first) = ids.insert(text.clone(), id) {
            return Err(bad(KEY, format!("holds {text:?} twice, as {first} and {id}")));
        }
        tokens.push(text);
    }
    if tokens.is_empty() {
        return Err(bad(KEY, "is empty"));
    }
    Ok((tokens, ids))
}

fn read_types(header: &GgufHeader, count: usize) -> Result<Vec<TokenType>, HfFilesError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(numbers) = header.integers(KEY) else { return Ok(vec![TokenType::Normal; count]) };
    if numbers.len() < count {
        return Err(bad(KEY, format!("has {} elements for {count} tokens", numbers.len())));
    }
    let of_number = |n: &i64| match n {
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        _ => TokenType::Normal,
    };
    Ok(numbers.iter().take(count).map(of_number).collect())
}

fn read_scores(header: &GgufHeader, count: usize) -> Result<Vec<f64>, HfFilesError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let mut scores = header.floats(KEY).ok_or_else(|| bad(KEY, "is missing"))?;
    if scores.len() < count {
        return Err(bad(KEY, format!("has {} elements for {count} tokens", scores.len())));
    }
    scores.truncate(count);
    if scores.iter().any(|score| score.is_nan()) {
        return Err(bad(KEY, "holds something that is no number"));
    }
    Ok(scores)
}

fn read_merges(header: &GgufHeader, ids: &HashMap<String, u32>) -> Result<Vec<(String, String)>, HfFilesError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let texts = header.texts(KEY).ok_or_else(|| bad(KEY, "is missing"))?;
    let mut merges = Vec::with_capacity(texts.len());
    for (rank, text) in texts.iter().enumerate() {
        // The first character may itself be a space.
        let first = text.chars().next().map_or(0, char::len_utf8);
        let (left, right) = match text[first..].find(' ') {
            Some(at) => (&text[..first + at], &text[first + at + 1..]),
            None => return Err(bad(KEY, format!("holds {text:?} (rank {rank}), which is no pair"))),
        };
        let known = [left, right, &format!("{left}{right}")].iter().all(|part| ids.contains_key(*part));
        if !known {
            return Err(bad(KEY, format!("holds {text:?} (rank {rank}), which makes no token of the vocabulary")));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

fn read_special(
    header: &GgufHeader,
    ids: &HashMap<String, u32>,
    is_sentence_piece: bool,
    add_bos_default: bool,
) -> Result<SpecialTokens, HfFilesError> {
    let count = ids.len() as u64;
    let id_at = |name: &str, default: Option<u32>| {
        let number = header.number(&format!("tokenizer.ggml.{name}_token_id"));
        number.filter(|&n| n < count).and_then(|n| u32::try_from(n).ok()).or(default)
    };
    let flag = |name: &str, default: bool| {
        header.get(&format!("tokenizer.ggml.{name}")).and_then(|v| v.as_bool()).unwrap_or(default)
    };
    let sentence_piece = |id: u32| is_sentence_piece.then_some(id).filter(|&id| u64::from(id) < count);
    let bos = id_at("bos", sentence_piece(1));
    let eos = id_at("eos", sentence_piece(2));
    let mut end_of_generation: Vec<u32> = Vec::new();
    let by_text = END_TEXTS.iter().filter_map(|text| ids.get(*text).copied());
    for id in [eos, id_at("eot", None), id_at("eom", None)].into_iter().flatten().chain(by_text) {
        if !end_of_generation.contains(&id) {
            end_of_generation.push(id);
        }
    }
    // In the harmony format `<|end|>` closes a message, not the answer.
    if ["<|return|>", "<|call|>", "<|end|>"].iter().all(|text| ids.contains_key(*text)) {
        end_of_generation.retain(|id| Some(id) != ids.get("<|end|>"));
    }
    let add_bos = flag("add_bos_token", add_bos_default);
    let add_eos = flag("add_eos_token", false);
    if add_bos && bos.is_none() {
        return Err(bad("tokenizer.ggml.bos_token_id", "is missing, but the tokenizer puts a BOS token first"));
    }
    if add_eos && eos.is_none() {
        return Err(bad("tokenizer.ggml.eos_token_id", "is missing, but the tokenizer puts an EOS token last"));
    }
    let (unk, pad) = (id_at("unknown", sentence_piece(0)), id_at("padding", None));
    Ok(SpecialTokens { bos, eos, unk, pad, end_of_generation, add_bos, add_eos })
}
