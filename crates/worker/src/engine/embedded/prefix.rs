//! The prefix cache: a radix tree over full blocks of tokens, and where llama.cpp keeps their cells.
//!
//! Pure: no llama.cpp, no clock. It decides; the engine's thread carries out.
//!
//! A running sequence pins the deepest block that it shares (its *tip*) and so all above it. Only pinned blocks have
//! cells of llama.cpp: its attention walks every cell below the highest used one, so a block that nobody uses is
//! *parked*, its bytes copied out and its cells freed, until it is pinned again.
//!
//! The cells of a pinned block are kept alive by a *holder*: a sequence id of llama.cpp that never decodes. A holder may
//! keep blocks of unrelated prompts as long as each has another depth, because llama.cpp names a cell by sequence and
//! position. So a block is found in the KV memory by (holder, depth). A running sequence pins one block of a depth, so
//! as many holders as sequences run are enough.
//!
//! Only unpinned leaves can be evicted, least recently used first.

use super::depths::Depths;
use super::namespace::Namespace;
use protocol::kv::{BlockHash, KvChange, RemovedBlocks, StoredBlock, StoredBlocks, TokensHash, block_hash};
use std::collections::{BTreeSet, HashMap};

/// A block of the tree. Valid until the block is evicted, which a pin prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockId(u32);

/// What a block hangs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Parent {
    /// Nothing: it is the first block of a prompt. The namespace is in the block's own hash.
    Root,
    /// The block before it.
    Block(BlockId),
}

/// Cells of the KV memory: those of sequence `holder` at `depth · block_size ..`, one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Sequence id, counted from 0 among the holders.
    pub(super) holder: u32,
    /// Index of the block in its prompt.
    pub(super) depth: u32,
}

/// What [`PrefixCache::store`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The block has no cells yet but those that the caller computed: let the holder at `place` have them too.
    New {
        /// The block.
        block: BlockId,
        /// Where it now lives.
        place: Place,
    },
    /// Another running sequence computed it first: drop our cells and share those at `place`.
    Known {
        /// The block.
        block: BlockId,
        /// Where it lives.
        place: Place,
    },
    /// It cannot be cached: its hash collides with that of another block.
    Refused,
}

struct Node {
    parent: Parent,
    tokens: Box<[u32]>,
    tokens_hash: TokensHash,
    block_hash: BlockHash,
    depth: u32,
    /// Where its cells are. `None` while it is parked, which is while it has no users.
    holder: Option<u32>,
    children: Vec<BlockId>,
    /// Pins, and children that have users. A block with users cannot be evicted.
    users: u32,
    last_used: u64,
}

/// The tree, its holders and the changes not yet published.
pub(super) struct PrefixCache {
    block_size: usize,
    nodes: HashMap<BlockId, Node>,
    index: HashMap<(Parent, TokensHash), BlockId>,
    depths: Depths,
    /// Unpinned leaves by last use: what can be evicted, in order.
    leaves: BTreeSet<(u64, BlockId)>,
    /// Blocks with users.
    pinned: usize,
    next_id: u32,
    uses: u64,
    changes: Vec<KvChange>,
}

impl PrefixCache {
    /// An empty cache of blocks of `block_size` tokens, over 0, with `holders` sequence ids, at least as many as prompts
    /// are pinned at once.
    pub(super) fn new(block_size: u32, holders: u32) -> Self {
        Self {
            block_size: block_size as usize,
            nodes: HashMap::new(),
            index: HashMap::new(),
            depths: Depths::new(holders),
            leaves: BTreeSet::new(),
            pinned: 0,
            next_id: 0,
            uses: 0,
            changes: Vec::new(),
        }
    }

    /// Blocks in the cache.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where the cells of a pinned block are.
    pub(super) fn place(&self, block: BlockId) -> Place {
        let node = self.node(block);
        Place { holder: node.holder.expect("a pinned block has cells"), depth: node.depth }
    }

    /// The cached block that holds `tokens`, exactly one block of them, under `parent`.
    pub(super) fn child(&self, namespace: Namespace, parent: Parent, tokens: &[u32]) -> Option<BlockId> {
        let hash = namespace.tokens_hash(tokens);
        let block = *self.index.get(&(parent, hash))?;
        (*self.node(block).tokens == *tokens).then_some(block)
    }

    /// Keeps `block` and all above it until [`Self::unpin`]. Gives those that were parked, parents first: the caller
    /// brings their cells back.
    pub(super) fn pin(&mut self, block: BlockId) -> Vec<(BlockId, Place)> {
        self.leaves.remove(&(self.node(block).last_used, block));
        let mut parked = Vec::new();
        let mut at = Parent::Block(block);
        while let Parent::Block(block) = at {
            let node = self.node_mut(block);
            node.users += 1;
            if node.users > 1 {
                break;
            }
            at = node.parent;
            self.pinned += 1;
            parked.push(block);
        }
        parked.into_iter().rev().map(|block| (block, self.give_place(block))).collect()
    }

    /// Ends one pin. The blocks that it alone kept count as used now, so they outlive those that were left earlier.
    /// Gives them with the places that they leave: the caller parks them.
    pub(super) fn unpin(&mut self, block: BlockId) -> Vec<(BlockId, Place)> {
        self.uses += 1;
        let now = self.uses;
        let mut left = Vec::new();
        let mut at = Parent::Block(block);
        while let Parent::Block(block) = at {
            let node = self.node_mut(block);
            assert!(node.users > 0, "a pin is ended once");
            node.users -= 1;
            if node.users > 0 {
                break;
            }
            node.last_used = now;
            at = node.parent;
            let place = self.place(block);
            self.node_mut(block).holder = None;
            self.depths.free(place);
            self.pinned -= 1;
            self.list_if_leaf(block);
            left.push((block, place));
        }
        left
    }

    /// Puts a computed block under `parent`, which the caller has pinned if it is a block. The result is pinned once
    /// for the caller, and the caller's pin of the parent is ended.
    pub(super) fn store(&mut self, namespace: Namespace, parent: Parent, depth: u32, tokens: &[u32]) -> Stored {
        let tokens_hash = namespace.tokens_hash(tokens);
        if let Some(&block) = self.index.get(&(parent, tokens_hash)) {
            if *self.node(block).tokens != *tokens {
                return Stored::Refused;
            }
            let was_parked = !self.pin(block).is_empty();
            self.leave_parent(parent);
            let place = self.place(block);
            // The caller's cells are as good as the parked bytes, and there already.
            return if was_parked { Stored::New { block, place } } else { Stored::Known { block, place } };
        }
        let block = self.insert(parent, tokens, tokens_hash, depth);
        self.pin(block);
        self.leave_parent(parent);
        Stored::New { block, place: self.place(block) }
    }

    /// Evicts the least recently used leaf that nobody pins. `None` when every block is pinned.
    pub(super) fn evict_one(&mut self) -> Option<BlockId> {
        let (_, block) = self.leaves.pop_first()?;
        self.remove(block);
        Some(block)
    }

    /// Blocks that are pinned, or above a pinned one: what eviction cannot free.
    pub(super) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Whether `block` is among [`Self::pinned`].
    pub(super) fn is_pinned(&self, block: BlockId) -> bool {
        self.node(block).users > 0
    }

    /// The changes since the last call, in order, consecutive ones merged.
    pub(super) fn take_changes(&mut self) -> Vec<KvChange> {
        std::mem::take(&mut self.changes)
    }

    /// Forgets every block. The caller clears the KV memory.
    pub(super) fn clear(&mut self) {
        let holders = self.depths.holders();
        let mut changes = std::mem::take(&mut self.changes);
        if !self.nodes.is_empty() {
            changes.push(KvChange::Cleared);
        }
        let (next_id, uses) = (self.next_id, self.uses);
        *self = Self::new(u32::try_from(self.block_size).expect("it was a u32"), holders);
        (self.next_id, self.uses, self.changes) = (next_id, uses, changes);
    }

    /// Every cached block by its published name.
    #[cfg(test)]
    pub(super) fn block_hashes(&self) -> impl Iterator<Item = BlockHash> + '_ {
        self.nodes.values().map(|node| node.block_hash)
    }

    fn node(&self, block: BlockId) -> &Node {
        self.nodes.get(&block).expect("a block id lives as long as its block")
    }

    fn node_mut(&mut self, block: BlockId) -> &mut Node {
        self.nodes.get_mut(&block).expect("a block id lives as long as its block")
    }

    /// Ends the pin of a block whose child is pinned.
    fn leave_parent(&mut self, parent: Parent) {
        if let Parent::Block(parent) = parent {
            let left = self.unpin(parent);
            assert!(left.is_empty(), "the child keeps it");
        }
    }

    /// A place for a block that has just been pinned, if it can be with the holder of its parent: a prompt in one holder
    /// is one copy.
    fn give_place(&mut self, block: BlockId) -> Place {
        let node = self.node(block);
        let depth = node.depth;
        let wish = match node.parent {
            Parent::Root => 0,
            Parent::Block(parent) => self.place(parent).holder,
        };
        let holder = self.depths.free_holder(depth, wish).expect("no more prompts are pinned than there are holders");
        let place = Place { holder, depth };
        self.depths.put(place, block);
        self.node_mut(block).holder = Some(holder);
        place
    }

    fn list_if_leaf(&mut self, block: BlockId) {
        let node = self.node(block);
        if node.users == 0 && node.children.is_empty() {
            self.leaves.insert((node.last_used, block));
        }
    }

    fn insert(&mut self, parent: Parent, tokens: &[u32], tokens_hash: TokensHash, depth: u32) -> BlockId {
        let block = BlockId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let above = match parent {
            Parent::Root => None,
            Parent::Block(parent) => {
                let node = self.node_mut(parent);
                assert!(node.users > 0, "a block grows below a pinned one");
                node.children.push(block);
                Some(node.block_hash)
            }
        };
        let name = block_hash(above, tokens_hash);
        let node = Node {
            parent,
            tokens: tokens.into(),
            tokens_hash,
            block_hash: name,
            depth,
            holder: None,
            children: Vec::new(),
            users: 0,
            last_used: self.uses,
        };
        self.nodes.insert(block, node);
        self.index.insert((parent, tokens_hash), block);
        self.note_stored(above, depth, StoredBlock { block_hash: name, tokens_hash, mm_extra_info: None });
        block
    }

    fn remove(&mut self, block: BlockId) {
        let node = self.nodes.remove(&block).expect("a listed leaf exists");
        self.index.remove(&(node.parent, node.tokens_hash));
        if let Parent::Block(parent) = node.parent {
            let above = self.node_mut(parent);
            above.children.retain(|&child| child != block);
            self.list_if_leaf(parent);
        }
        self.note_removed(node.block_hash);
    }

    fn note_stored(&mut self, parent: Option<BlockHash>, depth: u32, block: StoredBlock) {
        if let (Some(KvChange::Stored(last)), Some(parent)) = (self.changes.last_mut(), parent)
            && last.blocks.last().is_some_and(|before| before.block_hash == parent)
        {
            last.blocks.push(block);
            return;
        }
        let stored = StoredBlocks { parent_hash: parent, start_position: Some(depth), blocks: vec![block] };
        self.changes.push(KvChange::Stored(stored));
    }

    fn note_removed(&mut self, name: BlockHash) {
        if let Some(KvChange::Removed(last)) = self.changes.last_mut() {
            last.block_hashes.push(name);
            return;
        }
        self.changes.push(KvChange::Removed(RemovedBlocks { block_hashes: vec![name] }));
    }
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
