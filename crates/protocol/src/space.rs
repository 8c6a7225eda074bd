//! Cache spaces: which requests may share cached blocks at all.
//!
//! Two requests share blocks only if their LoRA adapter and their cache salt are equal. The space is mixed into the
//! seed of every block's hash, so an index needs no key of its own for it. Source: crate dynamo-kv-hashing 1.6.1,
//! `salt.rs` (the rule, not the code).

use crate::kv::{HASH_SEED, TokensHash};
use crate::request::RoutingHints;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// LoRA adapter and cache salt of a request. Empty texts count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Space {
    /// Name of the LoRA adapter.
    pub lora: Option<String>,
    /// Tenant or other reason to keep caches apart.
    pub salt: Option<String>,
}

impl Space {
    /// The space that a request asks for.
    pub fn of(hints: Option<&RoutingHints>) -> Self {
        let Some(hints) = hints else { return Self::default() };
        Self { lora: hints.lora_name.clone(), salt: hints.cache_salt.clone() }
    }

    /// Seed of the blocks' hashes: [`HASH_SEED`] in the plain space.
    pub fn seed(&self) -> u64 {
        // Adapter and salt hash under different seeds, so that a salt can never pass for an adapter of that name.
        let part = |text: &Option<String>, seed| match text.as_deref() {
            None | Some("") => 0,
            Some(text) => xxh3_64_with_seed(text.as_bytes(), seed),
        };
        HASH_SEED.wrapping_add(part(&self.lora, 0)).wrapping_add(part(&self.salt, 1))
    }
}

/// Hash of one full block of tokens in the space of `seed`.
pub fn tokens_hash_seeded(tokens: &[u32], seed: u64) -> TokensHash {
    // Blocks of up to 64 tokens, all usual sizes, need no heap.
    let mut small = [0u8; 256];
    let length = tokens.len() * 4;
    if length <= small.len() {
        for (bytes, token) in small.chunks_exact_mut(4).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        return TokensHash(xxh3_64_with_seed(&small[..length], seed));
    }
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    TokensHash(xxh3_64_with_seed(&bytes, seed))
}

/// Hashes of the full blocks of `tokens` in the space of `seed`. `block_size` is in tokens, over 0.
pub fn tokens_hashes_seeded(tokens: &[u32], block_size: usize, seed: u64) -> Vec<TokensHash> {
    tokens.chunks_exact(block_size).map(|block| tokens_hash_seeded(block, seed)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Space, tokens_hash_seeded, tokens_hashes_seeded};
    use crate::kv::{HASH_SEED, tokens_hash, tokens_hashes};

    fn space(lora: &str, salt: &str) -> Space {
        Space { lora: Some(lora.into()), salt: Some(salt.into()) }
    }

    #[test]
    fn the_plain_space_hashes_as_without_a_space() {
        let tokens: Vec<u32> = (0..200).collect();
        assert_eq!(Space::default().seed(), HASH_SEED);
        assert_eq!(space("", "").seed(), HASH_SEED);
        assert_eq!(tokens_hashes_seeded(&tokens, 16, HASH_SEED), tokens_hashes(&tokens, 16));
        assert_eq!(tokens_hash_seeded(&tokens, HASH_SEED), tokens_hash(&tokens));
    }

    #[test]
    fn adapters_and_salts_keep_blocks_apart_even_under_one_name() {
        let seeds = [space("a", ""), space("b", ""), space("", "a"), space("", "b"), space("a", "b"), space("b", "a")];
        let unique: std::collections::BTreeSet<u64> = seeds.iter().map(Space::seed).collect();
        assert_eq!(unique.len(), seeds.len());
    }
}
