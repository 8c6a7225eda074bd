//! GPT-2's alphabet: each byte as one printable character, in which byte-level vocabularies are written.

/// The character that stands for `byte`.
///
/// Printable Latin-1 stands for itself; the other bytes take U+0100 and up, in order.
pub(in crate::model) fn character(byte: u8) -> char {
    let stands_for_itself = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if stands_for_itself(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !stands_for_itself(b)).count() as u32;
    char::from_u32(0x100 + rank).expect("256 + at most 67 is a character")
}

/// Whether `byte` can be part of valid UTF-8 text at all.
pub(super) fn occurs_in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xC0 | 0xC1 | 0xF5..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_the_known_ones_are_the_known_ones() {
        let all: std::collections::BTreeSet<char> = (0..=255).map(character).collect();
        assert_eq!(all.len(), 256);
        assert_eq!([b' ', b'\n', b'\t', b'A', 0x7F, 0xAD].map(character), ['Ġ', 'Ċ', 'ĉ', 'A', 'ġ', 'Ń']);
    }
}
