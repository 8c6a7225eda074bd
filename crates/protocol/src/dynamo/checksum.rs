//! Checksums of model files: `blake3:` and 64 hex digits. A stock frontend verifies them and knows no other algorithm.

const PREFIX: &str = "blake3:";

/// A checksum being made, for files that are read piece by piece.
#[derive(Clone, Default)]
pub struct Checksum(blake3::Hasher);

impl Checksum {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The text for a card's `checksum` field.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", self.0.finalize().to_hex())
    }
}

/// The checksum text of bytes in memory.
pub fn checksum_of(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", blake3::hash(bytes).to_hex())
}

/// The 64 hex digits of a checksum text, which name the file in caches; `None` when it is not of this form.
pub fn digest_of(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(PREFIX)?;
    (digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_blake3_of_all_bytes_however_they_come() {
        // The official test vector of BLAKE3 for no input.
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(checksum_of(b""), empty);
        let mut pieces = Checksum::default();
        pieces.update(b"ab");
        pieces.update(b"c");
        assert_eq!(pieces.text(), checksum_of(b"abc"));
    }

    #[test]
    fn only_blake3_texts_have_a_digest() {
        let text = checksum_of(b"abc");
        assert_eq!(digest_of(&text), text.strip_prefix("blake3:"));
        assert_eq!(digest_of("sha256:00"), None);
        assert_eq!(digest_of("blake3:00"), None);
    }
}
