//! Tokens to text, one at a time. A character whose bytes lie in several tokens comes out whole, or not at all.

use crate::text::Tokenizer;
use std::sync::Arc;

/// Tokens that the reference decoder gets to see before a new one. Its text then does not depend on earlier ones: the
/// widest known rule (cleaning of spaces, stripping at the start) looks one token back.
const REFERENCE_WINDOW: usize = 8;

/// Turns the tokens of one answer into text. The answer goes on behind a prompt: no leading space is taken away.
///
/// What comes out, put together, is the decoding of the whole: bytes that can be no character become U+FFFD as soon as
/// that is certain, and bytes that may still become one are held until they do, or until [`Detokenizer::finish`].
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// At most 3 bytes: the beginning of a character.
    partial: Vec<u8>,
    /// Only when the reference decodes: the last tokens, and how many of them are shown.
    window: Vec<u32>,
    shown: usize,
}

impl Detokenizer {
    /// For one answer of this tokenizer.
    pub fn new(tokenizer: &Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer: Arc::clone(tokenizer), skip_special, partial: Vec::new(), window: Vec::new(), shown: 0 }
    }

    /// Takes the next token and appends to `out` the text that is now certain.
    pub fn push(&mut self, id: u32, out: &mut String) {
        if self.skip_special && self.tokenizer.is_special(id) {
            return;
        }
        match self.tokenizer.piece(id) {
            Some(bytes) if self.partial.is_empty() => append(bytes, &mut self.partial, out),
            Some(bytes) => {
                let mut joined = std::mem::take(&mut self.partial);
                joined.extend_from_slice(bytes);
                append(&joined, &mut self.partial, out);
            }
            None => self.push_by_reference(id, out),
        }
    }

    /// Appends what is held back; the beginning of a character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.partial.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.partial.clear();
        }
        if self.shown < self.window.len() {
            let before = self.tokenizer.decode(&self.window[..self.shown], self.skip_special);
            let all = self.tokenizer.decode(&self.window, self.skip_special);
            out.push_str(all.get(before.len()..).unwrap_or_default());
            self.shown = self.window.len();
        }
    }

    /// Decodes the last tokens with and without the new one; the difference is its text.
    fn push_by_reference(&mut self, id: u32, out: &mut String) {
        self.window.push(id);
        let before = self.tokenizer.decode(&self.window[..self.shown], self.skip_special);
        let all = self.tokenizer.decode(&self.window, self.skip_special);
        // A replacement character at the end may be the beginning of a character.
        if all.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() - self.shown < REFERENCE_WINDOW {
            return;
        }
        out.push_str(all.get(before.len()..).unwrap_or_default());
        let surplus = self.window.len().saturating_sub(REFERENCE_WINDOW);
        self.window.drain(..surplus);
        self.shown = self.window.len();
    }
}

/// Appends the characters of `bytes` to `out` and leaves the beginning of one at the end in `partial`, which is empty.
fn append(mut bytes: &[u8], partial: &mut Vec<u8>, out: &mut String) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => return out.push_str(text),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                let Some(invalid) = error.error_len() else {
                    partial.extend_from_slice(rest);
                    return;
                };
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[invalid..];
            }
        }
    }
}
