//! Engine names of blocks: the shared table, and tables of ranks whose names are their own.
//!
//! Most workers of a model give one prefix the same name, so one shared table serves all ranks at 5 bytes a block. A
//! rank whose names disagree (an engine that salts its hashes per process) gets a table of its own, 13 bytes a block.

use super::arena::{Arena, BlockId};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Spreads a name over all bits: engines may count instead of hash, and a table looks at the top bits too.
pub(super) fn spread(name: u64) -> u64 {
    let wide = u128::from(name ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Names on which all ranks that use this table agree.
#[derive(Debug, Default)]
pub(super) struct SharedNames(HashTable<BlockId>);

impl SharedNames {
    pub(super) fn find(&self, name: u64, arena: &Arena) -> Option<BlockId> {
        self.0.find(spread(name), |&id| arena.get(id).name() == Some(name)).copied()
    }

    /// Gives `block` the name. `Err` with the block that has it already, if that is another one.
    pub(super) fn claim(&mut self, name: u64, block: BlockId, arena: &mut Arena) -> Result<(), BlockId> {
        let same = |id: &BlockId| arena.get(*id).name() == Some(name);
        let rehash = |id: &BlockId| spread(arena.get(*id).name().expect("only named blocks are in the table"));
        match self.0.entry(spread(name), same, rehash) {
            Entry::Occupied(taken) if *taken.get() != block => return Err(*taken.get()),
            Entry::Occupied(_) => {}
            Entry::Vacant(free) => {
                free.insert(block);
            }
        }
        arena.set_name(block, name);
        Ok(())
    }

    pub(super) fn forget(&mut self, block: BlockId, arena: &Arena) {
        if let Some(name) = arena.get(block).name()
            && let Ok(entry) = self.0.find_entry(spread(name), |&id| id == block)
        {
            entry.remove();
        }
    }
}

/// One name of a rank: 12 bytes, without padding.
#[derive(Clone, Copy, Debug)]
struct OwnName {
    name: [u32; 2],
    block: BlockId,
}

impl OwnName {
    fn name(self) -> u64 {
        u64::from(self.name[0]) << 32 | u64::from(self.name[1])
    }
}

/// Names of one rank.
#[derive(Debug, Default)]
pub(super) struct OwnNames(HashTable<OwnName>);

impl OwnNames {
    pub(super) fn find(&self, name: u64) -> Option<BlockId> {
        self.0.find(spread(name), |own| own.name() == name).map(|own| own.block)
    }

    /// Gives the name to `block`; returns the other block that had it.
    pub(super) fn insert(&mut self, name: u64, block: BlockId) -> Option<BlockId> {
        let split = [(name >> 32) as u32, name as u32];
        match self.0.entry(spread(name), |own| own.name() == name, |own| spread(own.name())) {
            Entry::Occupied(mut taken) => {
                let before = std::mem::replace(&mut taken.get_mut().block, block);
                (before != block).then_some(before)
            }
            Entry::Vacant(free) => {
                free.insert(OwnName { name: split, block });
                None
            }
        }
    }

    pub(super) fn remove(&mut self, name: u64) {
        if let Ok(entry) = self.0.find_entry(spread(name), |own| own.name() == name) {
            entry.remove();
        }
    }

    /// Removes every name of `block`. Scans the table: only for a worker that renames a block, which no engine does in
    /// normal life.
    pub(super) fn forget_names_of(&mut self, block: BlockId) {
        self.0.retain(|own| own.block != block);
    }

    /// Drops the names of blocks that are gone.
    pub(super) fn retain_live(&mut self, arena: &Arena) {
        self.0.retain(|own| !arena.is_free(own.block));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, BlockId)> + '_ {
        self.0.iter().map(|own| (own.name(), own.block))
    }
}
