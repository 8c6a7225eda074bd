//! API keys: who may ask.
//!
//! A keys file has one key a line: `name sha256:<64 hex digits of the key's SHA-256>`. Empty lines and lines that
//! begin with `#` are skipped. A name is 1 to 64 of `a-z A-Z 0-9 . _ -`; one name may stand on several lines, which is
//! how a key is rotated. The hash of a key: `printf %s "$KEY" | sha256sum`. The key itself is never stored or logged.

use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of one file. More is a mistake: the list is scanned for each request, 20 ns a key.
pub const KEYS_MAX: usize = 10_000;
/// Largest keys file, bytes.
const KEYS_FILE_BYTES_MAX: u64 = 2 << 20;
const NAME_LEN_MAX: usize = 64;
/// Hex digits of a tenant's cache salt: 128 bits, so that no two are ever alike.
const SALT_HEX_DIGITS: usize = 32;

/// The keys that are accepted, or that none is asked for.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Option<Arc<[ApiKey]>>,
}

struct ApiKey {
    name: Arc<str>,
    sha256: [u8; 32],
}

/// Whose key a request bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No keys are asked for here.
    Anyone,
    /// The holder of a key of this name.
    Named(Arc<str>),
}

impl Caller {
    /// The name for logs and metrics; `-` when no keys are asked for.
    pub fn name(&self) -> &str {
        match self {
            Self::Anyone => "-",
            Self::Named(name) => name,
        }
    }

    /// The cache salt of this caller's requests, when it `asked` for one or not. With keys it is made of the key's name
    /// and, below it, what was asked for: two holders never share cached blocks, nor can one of them see by the time of
    /// an answer what another has asked. Keys of one name do share. Without keys it is what was asked for.
    pub(crate) fn cache_salt(&self, asked: Option<&str>) -> Option<String> {
        let Self::Named(name) = self else { return asked.map(str::to_owned) };
        // A key derivation, so that no salt that a client can write is the salt of another.
        let mut hasher = blake3::Hasher::new_derive_key("busbar 2026-11-27 cache salt of a tenant");
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(asked.unwrap_or_default().as_bytes());
        Some(hasher.finalize().to_hex()[..SALT_HEX_DIGITS].to_owned())
    }
}

impl ApiKeys {
    /// No key is asked for.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a keys file.
    ///
    /// # Errors
    /// When it cannot be read, is too large, holds no key, or a line is malformed; the error tells file and line.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let failed = |reason: String| KeysError { path: path.to_owned(), reason };
        let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if size > KEYS_FILE_BYTES_MAX {
            return Err(failed(format!("it has {size} bytes, the most is {KEYS_FILE_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// Reads the text of a keys file.
    ///
    /// # Errors
    /// The first malformed line with its number, or that there is no key at all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(parse_line(line).map_err(|why| format!("line {}: {why}", number + 1))?);
        }
        if keys.is_empty() {
            return Err("it holds no key; add a line `name sha256:<64 hex digits>`".into());
        }
        if keys.len() > KEYS_MAX {
            return Err(format!("it holds {} keys, the most is {KEYS_MAX}", keys.len()));
        }
        Ok(Self { keys: Some(keys.into()) })
    }

    /// Whether a key is asked for.
    pub fn required(&self) -> bool {
        self.keys.is_some()
    }

    /// Who bears `authorization` (the header's value, `Bearer KEY`); `None` when it is not accepted.
    ///
    /// The key is hashed first and every stored hash is compared in full, so the time tells nothing of the keys.
    pub fn check(&self, authorization: Option<&str>) -> Option<Caller> {
        let Some(keys) = &self.keys else { return Some(Caller::Anyone) };
        let (scheme, key) = authorization?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        let mut found = None;
        for candidate in keys.iter() {
            if equal_in_constant_time(&candidate.sha256, &hash) {
                found = Some(Caller::Named(candidate.name.clone()));
            }
        }
        found
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keys {
            None => f.write_str("ApiKeys(none)"),
            Some(keys) => write!(f, "ApiKeys({} keys)", keys.len()),
        }
    }
}

/// A keys file that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("read the API keys of {}: {reason}", path.display())]
pub struct KeysError {
    path: PathBuf,
    reason: String,
}

fn parse_line(line: &str) -> Result<ApiKey, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(hash), None) = (words.next(), words.next(), words.next()) else {
        return Err("it is not `name sha256:<64 hex digits>`".into());
    };
    let name_is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !name_is_plain || name.len() > NAME_LEN_MAX {
        return Err(format!("the name \"{name}\" is not 1 to {NAME_LEN_MAX} of a-z A-Z 0-9 . _ -"));
    }
    let digits =
        hash.strip_prefix("sha256:").ok_or("the hash does not begin with `sha256:`; a key is never written")?;
    let sha256 = parse_hex(digits).ok_or("the hash is not 64 hex digits")?;
    Ok(ApiKey { name: name.into(), sha256 })
}

fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn equal_in_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |seen, (x, y)| seen | (x ^ y));
    // The compiler may not turn the fold into an early exit.
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf %s "sk-alpha" | sha256sum
    const ALPHA: &str = "9fdaf8ab2e24b4a4d6c0a9a1a3ca57d1ae8be3c3c5c3a7f2a7b7b1c6b6dc2f0e";

    fn line_of(name: &str, key: &str) -> String {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        format!("{name} sha256:{hex}\n")
    }

    #[test]
    fn a_known_key_names_its_holder_and_any_other_is_refused() {
        let keys = ApiKeys::parse(&(line_of("alice", "sk-a") + &line_of("bob", "sk-b"))).unwrap();
        assert_eq!(keys.check(Some("Bearer sk-b")), Some(Caller::Named("bob".into())));
        assert_eq!(keys.check(Some("bearer sk-a")), Some(Caller::Named("alice".into())));
        for refused in [None, Some(""), Some("Bearer"), Some("Bearer sk-c"), Some("Basic sk-a"), Some("sk-a")] {
            assert_eq!(keys.check(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn a_cache_salt_is_the_tenants_own_and_what_it_asks_for_stands_below_it() {
        let named = |name: &str| Caller::Named(name.into());
        let (alice, bob) = (named("alice"), named("bob"));
        let of_alice = alice.cache_salt(None).unwrap();
        assert_eq!(alice.cache_salt(None), Some(of_alice.clone()), "her keys share");
        assert_eq!(alice.cache_salt(Some("")), Some(of_alice.clone()), "an empty salt is none");
        let all = [
            of_alice.clone(),
            bob.cache_salt(None).unwrap(),
            bob.cache_salt(Some("alice")).unwrap(),
            bob.cache_salt(Some(&of_alice)).unwrap(),
            alice.cache_salt(Some("x")).unwrap(),
            named("alic").cache_salt(Some("e")).unwrap(),
            named("a").cache_salt(Some("lice")).unwrap(),
        ];
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "{all:?}");
        assert_eq!(Caller::Anyone.cache_salt(Some("x")).as_deref(), Some("x"));
        assert_eq!(Caller::Anyone.cache_salt(None), None);
    }

    #[test]
    fn without_a_keys_file_anyone_may_ask() {
        assert_eq!(ApiKeys::none().check(None), Some(Caller::Anyone));
    }

    #[test]
    fn a_malformed_line_is_told_with_its_number_and_never_skipped() {
        let check = |line: &str, why: &str| {
            let error = ApiKeys::parse(&format!("# keys\n\n{line}\n")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(why), "{line} -> {error}");
        };
        check("alice", "it is not `name sha256");
        check("alice sk-secret", "does not begin with `sha256:`");
        check("alice sha256:12", "not 64 hex digits");
        check(&format!("al/ce sha256:{ALPHA}"), "the name");
        check(&format!("alice sha256:{ALPHA} more"), "it is not `name sha256");
    }

    #[test]
    fn a_file_without_a_key_is_an_error_and_not_an_open_door() {
        assert!(ApiKeys::parse("# nothing\n").unwrap_err().contains("holds no key"));
    }

    #[test]
    fn debug_output_holds_no_hash() {
        let keys = ApiKeys::parse(&line_of("alice", "sk-a")).unwrap();
        assert_eq!(format!("{keys:?}"), "ApiKeys(1 keys)");
    }
}
