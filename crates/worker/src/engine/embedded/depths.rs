//! Which holder keeps a block at which depth.

use super::prefix::{BlockId, Place};

/// For each depth, a slot for every holder.
pub(super) struct Depths {
    holders: u32,
    by_depth: Vec<Vec<Option<BlockId>>>,
}

impl Depths {
    /// No block anywhere.
    pub(super) fn new(holders: u32) -> Self {
        Self { holders, by_depth: Vec::new() }
    }

    /// Holders in all.
    pub(super) fn holders(&self) -> u32 {
        self.holders
    }

    /// A holder that keeps nothing at `depth`, `wish` if it can be. `None` when all keep something.
    pub(super) fn free_holder(&mut self, depth: u32, wish: u32) -> Option<u32> {
        let depth = depth as usize;
        if self.by_depth.len() <= depth {
            self.by_depth.resize_with(depth + 1, || vec![None; self.holders as usize]);
        }
        let slots = &self.by_depth[depth];
        if slots[wish as usize].is_none() {
            return Some(wish);
        }
        let free = slots.iter().position(Option::is_none)?;
        u32::try_from(free).ok()
    }

    /// Notes that `block` lives at `place`, which was free.
    pub(super) fn put(&mut self, place: Place, block: BlockId) {
        let slot = &mut self.by_depth[place.depth as usize][place.holder as usize];
        assert!(slot.is_none(), "a place keeps one block");
        *slot = Some(block);
    }

    /// Frees a place.
    pub(super) fn free(&mut self, place: Place) {
        self.by_depth[place.depth as usize][place.holder as usize] = None;
    }
}
