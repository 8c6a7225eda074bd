//! Which requests may share cached blocks.

use protocol::kv::{HASH_SEED, TokensHash};
use protocol::request::RoutingHints;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The seed of a request's block hashes: requests share blocks only if they have the same LoRA adapter and cache salt.
///
/// With a LoRA adapter it is Dynamo's rule (lib/kv-router/src/protocols.rs, release 1.6), so that a router that hashes
/// the same way finds the blocks. The salt's part is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Namespace(u64);

impl Namespace {
    /// The namespace of requests without adapter and salt; its hashes are those of [`protocol::kv::tokens_hash`].
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self(HASH_SEED);

    /// The namespace of a request with these hints.
    pub(super) fn of(routing: Option<&RoutingHints>) -> Self {
        let named = |name: Option<&String>| name.filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec());
        let mut seed = HASH_SEED;
        if let Some(lora) = routing.and_then(|hints| named(hints.lora_name.as_ref())) {
            seed = seed.wrapping_add(xxh3_64(&lora));
        }
        if let Some(salt) = routing.and_then(|hints| named(hints.cache_salt.as_ref())) {
            seed = xxh3_64_with_seed(&salt, seed);
        }
        Self(seed)
    }

    /// Hash of one block of tokens in this namespace.
    pub(super) fn tokens_hash(self, tokens: &[u32]) -> TokensHash {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for token in tokens {
            bytes.extend_from_slice(&token.to_le_bytes());
        }
        TokensHash(xxh3_64_with_seed(&bytes, self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(lora: Option<&str>, salt: Option<&str>) -> Namespace {
        let hints = RoutingHints {
            lora_name: lora.map(Into::into),
            cache_salt: salt.map(Into::into),
            ..RoutingHints::default()
        };
        Namespace::of(Some(&hints))
    }

    #[test]
    fn only_requests_of_one_adapter_and_one_salt_share_a_namespace() {
        let all = [(None, None), (Some("a"), None), (None, Some("a")), (Some("a"), Some("a")), (None, Some("b"))];
        for (i, &(lora, salt)) in all.iter().enumerate() {
            for (j, &(other_lora, other_salt)) in all.iter().enumerate() {
                assert_eq!(namespace(lora, salt) == namespace(other_lora, other_salt), i == j);
            }
        }
        assert_eq!(namespace(Some(""), Some("")), Namespace::PLAIN, "an empty name is no name");
        assert_eq!(Namespace::of(None), Namespace::PLAIN);
    }

    #[test]
    fn the_plain_namespace_hashes_as_every_router_does() {
        let tokens = [1, 2, 70_000, 4];
        assert_eq!(Namespace::PLAIN.tokens_hash(&tokens), protocol::kv::tokens_hash(&tokens));
        assert_ne!(namespace(None, Some("a")).tokens_hash(&tokens), protocol::kv::tokens_hash(&tokens));
    }
}
