//! Blocks that nobody uses, oldest first.

use protocol::kv::BlockHash;
use std::collections::BTreeMap;

/// Order in which unused blocks are evicted. A stamp is a position in it.
#[derive(Debug, Default)]
pub(crate) struct Lru {
    by_stamp: BTreeMap<u64, BlockHash>,
    next: u64,
}

impl Lru {
    /// Puts a block last; returns its stamp.
    pub(crate) fn add(&mut self, block: BlockHash) -> u64 {
        let stamp = self.next;
        self.next += 1;
        self.by_stamp.insert(stamp, block);
        stamp
    }

    pub(crate) fn remove(&mut self, stamp: u64) {
        self.by_stamp.remove(&stamp);
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<BlockHash> {
        self.by_stamp.pop_first().map(|(_, block)| block)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_stamp.len()
    }

    pub(crate) fn clear(&mut self) {
        self.by_stamp.clear();
    }
}
