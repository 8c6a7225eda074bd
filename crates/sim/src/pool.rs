//! The block pool: paged KV memory whose full blocks are shared by prefix.
//!
//! A block is *cached* once all its tokens are computed: it has a rolling hash, other sequences may use it, and it
//! stays after its sequence until room is needed (least recently used first, the ends of prefixes before their
//! beginnings). Blocks that are not full belong to one sequence. Only cached blocks make KV changes.

use crate::lru::Lru;
use protocol::kv::{BlockHash, KvChange, RemovedBlocks, StoredBlock, StoredBlocks, TokensHash, block_hash};
use protocol::space::{tokens_hash_seeded, tokens_hashes_seeded};
use std::collections::HashMap;

/// One sequence of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// The pool has no block left, not even an unused one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has {available} blocks to give, but {needed} are needed")]
pub struct PoolFull {
    /// Blocks needed.
    pub needed: usize,
    /// Blocks free or unused.
    pub available: usize,
}

#[derive(Debug)]
struct Cached {
    /// Sequences that use it.
    users: u32,
    /// Place in the order of eviction; meaningless while used.
    stamp: u64,
}

#[derive(Debug)]
struct Sequence {
    /// Seed of its cache space.
    seed: u64,
    /// All its tokens, computed or not.
    tokens: Vec<u32>,
    /// Leading tokens whose KV is computed.
    computed: usize,
    /// Its leading full blocks, all cached.
    hashes: Vec<BlockHash>,
    /// Blocks of its own, behind these.
    private: usize,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    block_size: usize,
    capacity: usize,
    prefix_caching: bool,
    cached: HashMap<BlockHash, Cached>,
    unused: Lru,
    sequences: HashMap<SequenceId, Sequence>,
    /// Sum of the sequences' private blocks.
    private: usize,
    changes: Vec<KvChange>,
}

impl Pool {
    /// An empty pool of `capacity` blocks of `block_size` tokens; both at least 1.
    pub fn new(block_size: usize, capacity: usize) -> Self {
        assert!(block_size > 0 && capacity > 0, "a pool has at least one block of at least one token");
        Self {
            block_size,
            capacity,
            prefix_caching: true,
            cached: HashMap::new(),
            unused: Lru::default(),
            sequences: HashMap::new(),
            private: 0,
            changes: Vec::new(),
        }
    }

    /// The same pool, sharing nothing and telling nothing.
    pub fn without_prefix_caching(mut self) -> Self {
        self.prefix_caching = false;
        self
    }

    /// Starts a sequence: takes the cached blocks of its prefix and room for the rest of `tokens`. Returns the cached
    /// tokens: whole blocks, at most one token less than there are, because the last must be computed to go on.
    ///
    /// # Errors
    /// [`PoolFull`]; nothing has changed then.
    pub fn start(&mut self, id: SequenceId, tokens: Vec<u32>, seed: u64) -> Result<usize, PoolFull> {
        self.start_leaving(id, tokens, seed, 0)
    }

    /// As [`Pool::start`], if `reserve` blocks that a sequence could take are left after it.
    ///
    /// # Errors
    /// [`PoolFull`]; nothing has changed then.
    pub fn start_leaving(
        &mut self,
        id: SequenceId,
        tokens: Vec<u32>,
        seed: u64,
        reserve: usize,
    ) -> Result<usize, PoolFull> {
        assert!(!self.sequences.contains_key(&id), "a sequence starts once");
        let hashes = self.cached_prefix(&tokens, seed);
        let private = tokens.len().div_ceil(self.block_size) - hashes.len();
        self.take(&hashes);
        let (needed, available) = (private + reserve, self.available_blocks());
        let room = if needed > available { Err(PoolFull { needed, available }) } else { self.make_room(private) };
        if let Err(full) = room {
            self.give_back(&hashes);
            return Err(full);
        }
        self.private += private;
        let computed = hashes.len() * self.block_size;
        self.sequences.insert(id, Sequence { seed, tokens, computed, hashes, private });
        Ok(computed)
    }

    /// Tokens that [`Pool::start`] would find cached.
    pub fn cached_tokens(&self, tokens: &[u32], seed: u64) -> usize {
        self.cached_prefix(tokens, seed).len() * self.block_size
    }

    /// Cached blocks at the beginning of `tokens` that a new sequence could use.
    fn cached_prefix(&self, tokens: &[u32], seed: u64) -> Vec<BlockHash> {
        if !self.prefix_caching {
            return Vec::new();
        }
        let most = tokens.len().saturating_sub(1) / self.block_size * self.block_size;
        let mut parent = None;
        let mut found = Vec::new();
        for tokens in tokens_hashes_seeded(&tokens[..most], self.block_size, seed) {
            let hash = block_hash(parent, tokens);
            if !self.cached.contains_key(&hash) {
                break;
            }
            parent = Some(hash);
            found.push(hash);
        }
        found
    }

    /// Appends a token that is not computed yet.
    ///
    /// # Errors
    /// [`PoolFull`], if it needs a new block and there is none; nothing has changed then.
    pub fn append(&mut self, id: SequenceId, token: u32) -> Result<(), PoolFull> {
        let sequence = self.sequence(id);
        let blocks = sequence.hashes.len() + sequence.private;
        if sequence.tokens.len() == blocks * self.block_size {
            self.make_room(1)?;
            self.private += 1;
            self.sequence_mut(id).private += 1;
        }
        self.sequence_mut(id).tokens.push(token);
        Ok(())
    }

    /// Computes the next `count` tokens of a sequence; every block that becomes full is cached.
    pub fn compute(&mut self, id: SequenceId, count: usize) {
        let block_size = self.block_size;
        let sequence = self.sequence_mut(id);
        sequence.computed += count;
        assert!(sequence.computed <= sequence.tokens.len(), "only tokens that are there can be computed");
        let full = sequence.computed / block_size;
        let (from, seed) = (sequence.hashes.len(), sequence.seed);
        if !self.prefix_caching || full == from {
            return;
        }
        let tokens = &self.sequence(id).tokens[from * block_size..full * block_size];
        let tokens: Vec<TokensHash> = tokens.chunks(block_size).map(|block| tokens_hash_seeded(block, seed)).collect();
        let mut stored = Vec::new();
        for tokens in tokens {
            let parent = self.sequence(id).hashes.last().copied();
            let hash = block_hash(parent, tokens);
            if let Some(cached) = self.cached.get_mut(&hash) {
                // Another sequence computed the same block meanwhile: this copy goes, and the run of new blocks ends.
                if cached.users == 0 {
                    self.unused.remove(cached.stamp);
                }
                cached.users += 1;
                self.tell_stored(&mut stored);
            } else {
                self.cached.insert(hash, Cached { users: 1, stamp: 0 });
                stored.push((parent, StoredBlock { block_hash: hash, tokens_hash: tokens, mm_extra_info: None }));
            }
            self.private -= 1;
            let sequence = self.sequence_mut(id);
            sequence.private -= 1;
            sequence.hashes.push(hash);
        }
        self.tell_stored(&mut stored);
    }

    fn tell_stored(&mut self, stored: &mut Vec<(Option<BlockHash>, StoredBlock)>) {
        let Some(&(parent_hash, _)) = stored.first() else { return };
        let blocks = stored.drain(..).map(|(_, block)| block).collect();
        self.changes.push(KvChange::Stored(StoredBlocks { parent_hash, start_position: None, blocks }));
    }

    /// Ends a sequence. Its cached blocks stay until room is needed.
    pub fn end(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        self.private -= sequence.private;
        self.give_back(&sequence.hashes);
    }

    /// Takes everything out of the cache. Does nothing and returns false while sequences are there: they use it.
    pub fn clear(&mut self) -> bool {
        if !self.sequences.is_empty() {
            return false;
        }
        self.cached.clear();
        self.unused.clear();
        self.changes.push(KvChange::Cleared);
        true
    }

    /// The changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<KvChange> {
        std::mem::take(&mut self.changes)
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks with something in them, cached ones included.
    pub fn used_blocks(&self) -> usize {
        self.cached.len() + self.private
    }

    /// Blocks of running sequences; a shared one counts once.
    pub fn active_blocks(&self) -> usize {
        self.used_blocks() - self.unused.len()
    }

    /// Blocks that a new sequence could take.
    pub fn available_blocks(&self) -> usize {
        self.capacity - self.active_blocks()
    }

    /// Whether a block is cached.
    pub fn is_cached(&self, block: BlockHash) -> bool {
        self.cached.contains_key(&block)
    }

    /// Every cached block, in no order.
    pub fn cached_blocks(&self) -> impl Iterator<Item = BlockHash> + '_ {
        self.cached.keys().copied()
    }

    /// Whether a sequence is started and not ended.
    pub fn contains(&self, id: SequenceId) -> bool {
        self.sequences.contains_key(&id)
    }

    /// A sequence's tokens that are not computed.
    pub fn uncomputed(&self, id: SequenceId) -> usize {
        let sequence = self.sequence(id);
        sequence.tokens.len() - sequence.computed
    }

    /// A sequence's tokens.
    pub fn tokens(&self, id: SequenceId) -> &[u32] {
        &self.sequence(id).tokens
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences.get(&id).expect("the caller names a started sequence")
    }

    fn sequence_mut(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences.get_mut(&id).expect("the caller names a started sequence")
    }

    fn take(&mut self, blocks: &[BlockHash]) {
        for block in blocks {
            let cached = self.cached.get_mut(block).expect("only cached blocks are taken");
            if cached.users == 0 {
                self.unused.remove(cached.stamp);
            }
            cached.users += 1;
        }
    }

    fn give_back(&mut self, blocks: &[BlockHash]) {
        // From the end: the last blocks of a prefix are evicted first, so a cached block's parent is always cached.
        for block in blocks.iter().rev() {
            let cached = self.cached.get_mut(block).expect("a block in use is cached");
            cached.users -= 1;
            if cached.users == 0 {
                cached.stamp = self.unused.add(*block);
            }
        }
    }

    /// Evicts unused blocks until `blocks` are free.
    fn make_room(&mut self, blocks: usize) -> Result<(), PoolFull> {
        let available = self.available_blocks();
        if available < blocks {
            return Err(PoolFull { needed: blocks, available });
        }
        let mut gone = Vec::new();
        while self.capacity - self.used_blocks() < blocks {
            let block = self.unused.pop_oldest().expect("available blocks are free or unused");
            self.cached.remove(&block);
            gone.push(block);
        }
        if !gone.is_empty() {
            self.changes.push(KvChange::Removed(RemovedBlocks { block_hashes: gone }));
        }
        Ok(())
    }
}
