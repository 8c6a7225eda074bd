//! Tokens that are plain words: what the mock engine draws from, so that its answers can be read.

use super::error::ModelError;
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::Path;

/// Ranges that are kept: enough words for any mock, a bound on what a strange vocabulary can cost.
const RANGES_MAX: usize = 2048;
/// Letters of a word from which on it is left out; the longest ones of a vocabulary are mostly code.
const WORD_LEN_MAX: usize = 12;

/// Runs of token ids whose text is ASCII letters, with or without a space before, ascending.
///
/// # Errors
/// When `tokenizer.json` of the folder cannot be read, or holds no such token.
pub fn plain_tokens(hf_folder: &Path) -> Result<Vec<RangeInclusive<u32>>, ModelError> {
    let path = hf_folder.join("tokenizer.json");
    let wrong = |what: String| ModelError::Folder { folder: hf_folder.to_owned(), what };
    let bytes = std::fs::read(&path).map_err(ModelError::io("read", &path))?;
    let tokenizer: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("tokenizer.json: {error}")))?;
    let mut ids = plain_ids(&tokenizer["model"]["vocab"]);
    ids.sort_unstable();
    let ranges = runs(&ids);
    if ranges.is_empty() {
        return Err(wrong("tokenizer.json has no token that is a plain word".into()));
    }
    Ok(ranges)
}

/// A vocabulary is a map of text to id (BPE) or a list of text and score (unigram).
fn plain_ids(vocabulary: &Value) -> Vec<u32> {
    let id = |number: Option<u64>| number.and_then(|n| u32::try_from(n).ok());
    match vocabulary {
        Value::Object(map) => {
            map.iter().filter(|(text, _)| is_plain(text)).filter_map(|(_, n)| id(n.as_u64())).collect()
        }
        Value::Array(list) => {
            let text = |entry: &Value| entry.get(0).and_then(Value::as_str).is_some_and(is_plain);
            list.iter().enumerate().filter(|(_, entry)| text(entry)).filter_map(|(i, _)| id(Some(i as u64))).collect()
        }
        _ => Vec::new(),
    }
}

fn is_plain(text: &str) -> bool {
    let word = text.strip_prefix(['Ġ', '▁']).unwrap_or(text);
    !text.is_empty() && word.len() <= WORD_LEN_MAX && word.bytes().all(|b| b.is_ascii_lowercase())
}

fn runs(ids: &[u32]) -> Vec<RangeInclusive<u32>> {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for &id in ids {
        let kept = ranges.len();
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == id => *last = *last.start()..=id,
            _ if kept == RANGES_MAX => break,
            _ => ranges.push(id..=id),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn runs_of_words_are_found_and_code_is_left_out() {
        let vocabulary = json!({"a": 0, "Ġthe": 1, "{": 2, "Ġ": 3, "über": 4, "▁of": 5, "ĠThe": 6, "and": 7});
        let mut ids = plain_ids(&vocabulary);
        ids.sort_unstable();
        assert_eq!(runs(&ids), [0..=1, 3..=3, 5..=5, 7..=7]);
        assert_eq!(plain_ids(&json!([["<unk>", 0.0], ["▁of", -1.0]])), [1]);
    }
}
