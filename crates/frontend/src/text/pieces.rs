//! The bytes of each token, for tokenizers whose text is the concatenation of them.
//!
//! Two kinds qualify: byte-level vocabularies (each character stands for a byte), and SentencePiece vocabularies with
//! `▁` for a space and `<0xNN>` for a byte. Anything else is decoded by the reference tokenizer.

use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// Bytes of every token id, in one arena.
#[derive(Debug)]
pub(crate) struct Pieces {
    arena: Vec<u8>,
    /// End of each token in the arena; token `i` begins where `i - 1` ends.
    ends: Vec<u32>,
    longest: usize,
}

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Each character stands for a byte.
    ByteLevel,
    /// `▁` is a space, `<0xNN>` a byte, everything else itself.
    SentencePiece,
}

impl Spelling {
    /// The spelling that a `decoder` of `tokenizer.json` means, if it is one of the two.
    pub(crate) fn of_decoder(decoder: &Value) -> Option<Self> {
        let decoder = Decoder::deserialize(decoder).ok()?;
        let steps = match decoder.kind.as_str() {
            "Sequence" => decoder.decoders,
            _ => vec![decoder],
        };
        let kinds: Vec<&str> = steps.iter().map(|step| step.kind.as_str()).collect();
        if kinds.contains(&"ByteLevel") && kinds.iter().all(|kind| ["ByteLevel", "Fuse"].contains(kind)) {
            return Some(Self::ByteLevel);
        }
        let replaces_space = steps.iter().any(Decoder::replaces_space);
        let known = steps.iter().all(|step| match step.kind.as_str() {
            "Replace" => step.replaces_space(),
            // `Strip` takes the first space of the whole text: an answer goes on behind a prompt, so not its own.
            "ByteFallback" | "Fuse" => true,
            "Strip" => step.stop == 0 && step.content.as_deref() == Some(" "),
            _ => false,
        });
        (replaces_space && known && kinds.contains(&"ByteFallback")).then_some(Self::SentencePiece)
    }

    fn append(self, token: &str, bytes_of: &HashMap<char, u8>, arena: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(|c| bytes_of.get(&c).copied()).collect();
                // A token with another character (an added one) is its own text, as in the reference.
                arena.extend(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
            }
            Self::SentencePiece => match byte_token(token) {
                Some(byte) => arena.push(byte),
                None => arena.extend(token.replace('▁', " ").into_bytes()),
            },
        }
    }
}

/// The fields of a decoder that matter here.
#[derive(Deserialize)]
struct Decoder {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    decoders: Vec<Decoder>,
    #[serde(default)]
    pattern: Option<Value>,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    stop: usize,
}

impl Decoder {
    fn replaces_space(&self) -> bool {
        let pattern = self.pattern.as_ref().and_then(|p| p.get("String")).and_then(Value::as_str);
        self.kind == "Replace" && pattern == Some("▁") && self.content.as_deref() == Some(" ")
    }
}

/// The byte of `<0xNN>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// The characters that byte-level vocabularies use for the 256 bytes: printable Latin-1 is itself, the others follow
/// U+0100 in order.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut alphabet = HashMap::with_capacity(256);
    for byte in 0..=u8::MAX {
        let code = if printable(byte) { u32::from(byte) } else { next };
        if !printable(byte) {
            next += 1;
        }
        if let Some(c) = char::from_u32(code) {
            alphabet.insert(c, byte);
        }
    }
    alphabet
}

impl Pieces {
    /// The table of `tokens` (text by id; `None` where an id has no token) in this spelling.
    pub(crate) fn build(tokens: &[Option<String>], spelling: Spelling) -> Self {
        let alphabet = byte_level_alphabet();
        let mut arena = Vec::with_capacity(tokens.len() * 8);
        let mut ends = Vec::with_capacity(tokens.len());
        let mut longest = 0;
        for token in tokens {
            let start = arena.len();
            if let Some(token) = token {
                spelling.append(token, &alphabet, &mut arena);
            }
            longest = longest.max(arena.len() - start);
            // A vocabulary of 4 GiB of text does not load; saturating keeps the table consistent all the same.
            ends.push(u32::try_from(arena.len()).unwrap_or(u32::MAX));
        }
        Self { arena, ends, longest }
    }

    /// Bytes of a token; empty for an id without one.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(&end) = self.ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.arena[start as usize..end as usize]
    }

    /// Bytes of the longest token.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_byte_level_alphabet_names_every_byte_once() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
        assert_eq!(alphabet[&'a'], b'a');
    }

    #[test]
    fn a_decoder_is_one_of_two_spellings_or_left_to_the_reference() {
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let llama = json!({"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(Spelling::of_decoder(&json!({"type": "ByteLevel"})), Some(Spelling::ByteLevel));
        assert_eq!(Spelling::of_decoder(&llama), Some(Spelling::SentencePiece));
        assert_eq!(Spelling::of_decoder(&json!({"type": "WordPiece", "prefix": "##"})), None);
        assert_eq!(Spelling::of_decoder(&Value::Null), None);
    }

    #[test]
    fn sentencepiece_bytes_and_spaces_are_spelled_out() {
        let tokens = [Some("▁a▁".to_owned()), Some("<0xE2>".to_owned()), None, Some("<0xZZ>".to_owned())];
        let pieces = Pieces::build(&tokens, Spelling::SentencePiece);
        assert_eq!(pieces.bytes(0), b" a ");
        assert_eq!(pieces.bytes(1), [0xe2]);
        assert_eq!(pieces.bytes(2), b"");
        assert_eq!(pieces.bytes(3), b"<0xZZ>");
        assert_eq!(pieces.bytes(99), b"");
    }
}
