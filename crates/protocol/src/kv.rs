//! KV blocks: their hashes and the events that tell where they are.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.3; both hash rules were verified on its recording.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of both hashes.
pub const HASH_SEED: u64 = 1337;

/// Hash of one block's tokens alone: XXH3-64 over the token ids as u32 little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokensHash(pub u64);

/// Rolling hash of a block and all before it. An engine may send its own values; then only equality counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(pub u64);

/// Hash of one full block of tokens.
pub fn tokens_hash(tokens: &[u32]) -> TokensHash {
    let mut bytes = Vec::with_capacity(tokens.len() * 4);
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    TokensHash(xxh3_64_with_seed(&bytes, HASH_SEED))
}

/// Rolling hash: the first block's is its tokens hash, a later one's is over parent ‖ tokens hash, little-endian.
pub fn block_hash(parent: Option<BlockHash>, tokens: TokensHash) -> BlockHash {
    let Some(parent) = parent else { return BlockHash(tokens.0) };
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&parent.0.to_le_bytes());
    bytes[8..].copy_from_slice(&tokens.0.to_le_bytes());
    BlockHash(xxh3_64_with_seed(&bytes, HASH_SEED))
}

/// Hashes of the full blocks of `tokens`; the rest that fills no block has none. `block_size` is in tokens, over 0.
pub fn tokens_hashes(tokens: &[u32], block_size: usize) -> Vec<TokensHash> {
    tokens.chunks_exact(block_size).map(tokens_hash).collect()
}

/// The rolling hashes that belong to a chain of tokens hashes, root first; same length.
pub fn block_hashes(tokens: &[TokensHash]) -> Vec<BlockHash> {
    let mut parent = None;
    tokens
        .iter()
        .map(|&hash| {
            let rolled = block_hash(parent, hash);
            parent = Some(rolled);
            rolled
        })
        .collect()
}

/// Where a block is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageTier {
    /// The engine's own memory.
    #[default]
    Device,
    /// Pinned host memory.
    HostPinned,
    /// A disk.
    Disk,
    /// A store outside the worker.
    External,
}

/// An event as it stands in a `kv-events` message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerKvEvent {
    /// The worker.
    pub worker_id: crate::ids::InstanceId,
    /// Where.
    #[serde(default)]
    pub storage_tier: StorageTier,
    /// `worker` or `cache_owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency_domain: Option<String>,
    /// What happened.
    pub event: KvEvent,
}

/// One change of one rank's cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvEvent {
    /// Starts at 1, one up per event of a publisher.
    pub event_id: u64,
    /// The change.
    pub data: KvChange,
    /// Data-parallel rank.
    #[serde(default)]
    pub dp_rank: u32,
}

/// A change of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvChange {
    /// Consecutive blocks were stored under `parent_hash` (`None`: at the root).
    Stored(StoredBlocks),
    /// Blocks are gone.
    Removed(RemovedBlocks),
    /// All blocks of this worker and rank are gone.
    Cleared,
}

/// Consecutive stored blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlocks {
    /// The block before the first, `None` at the root.
    pub parent_hash: Option<BlockHash>,
    /// Block index of the first, when the engine tells.
    #[serde(default)]
    pub start_position: Option<u32>,
    /// The blocks, each the parent of the next.
    pub blocks: Vec<StoredBlock>,
}

/// One stored block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlock {
    /// The engine's name for block and prefix.
    pub block_hash: BlockHash,
    /// Hash of the tokens alone, by our rule.
    pub tokens_hash: TokensHash,
    /// Multimodal extras; carried, not read.
    #[serde(default)]
    pub mm_extra_info: Option<serde_json::Value>,
}

/// Removed blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedBlocks {
    /// Their engine names.
    pub block_hashes: Vec<BlockHash>,
}
