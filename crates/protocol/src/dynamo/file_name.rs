//! File names of the file store: every byte that is not an ASCII letter or digit is written `%XX`, upper-case hex.
//!
//! Source: Dynamo 1.6.1 on the wire, §2.2.

use std::fmt::Write as _;

/// Files whose names begin so are being written; readers skip them.
pub const TEMPORARY_PREFIX: &str = ".tmp_";

/// The file name of a key, such as `dynamo%2Fbackend%2Fgenerate%2F8efc80f73ac882a4`.
pub fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len() * 3);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02X}").expect("a String can always grow");
        }
    }
    name
}

/// The key of a file name; `None` when a `%` is not followed by two hex digits, or the key is not UTF-8.
///
/// Bytes that [`escape`] would have escaped are taken as they are.
pub fn unescape(name: &str) -> Option<String> {
    let mut key = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            key.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        key.push((high * 16 + low) as u8);
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_as_recorded() {
        let key = "namespace/dynamo/component/backend/endpoint/generate/topic/kv_metrics/1d5721ce6fa38";
        let name =
            "namespace%2Fdynamo%2Fcomponent%2Fbackend%2Fendpoint%2Fgenerate%2Ftopic%2Fkv%5Fmetrics%2F1d5721ce6fa38";
        assert_eq!(escape(key), name);
        assert_eq!(unescape(name).as_deref(), Some(key));
        assert_eq!(escape("a-b.c:ü"), "a%2Db%2Ec%3A%C3%BC");
    }

    #[test]
    fn a_broken_escape_is_no_key() {
        for name in ["%", "%2", "%zz", "a%2", "%FF", "%+1"] {
            assert_eq!(unescape(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in ".*") {
            let name = escape(&key);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'%'));
            prop_assert_eq!(unescape(&name), Some(key));
        }

        #[test]
        fn no_name_panics(name in "[%0-9A-Fa-z.]*") {
            let _ = unescape(&name);
        }
    }
}
