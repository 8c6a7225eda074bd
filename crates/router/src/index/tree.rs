//! Stores and removals: what an event does to runs and names.

use super::arena::{BlockId, NONE, RunId};
use super::ranks::Names;
use super::runs::{Children, Run, append, has_room};
use super::{Applied, Index};
use protocol::kv::{BlockHash, StoredBlock, StoredBlocks};

/// A place in the tree: after the first `at` blocks of `run`; the root is ([`NONE`], 0).
#[derive(Clone, Copy)]
struct Place {
    run: RunId,
    at: usize,
}

impl Index {
    pub(super) fn store(&mut self, rank: u32, tier: u32, stored: &StoredBlocks) -> Applied {
        // A block that goes by its parent's name would take the parent away under its own feet.
        if stored.parent_hash.is_some_and(|parent| stored.blocks.iter().any(|block| block.block_hash == parent)) {
            return Applied::ParentUnknown;
        }
        let Some(mut place) = self.place_after(rank, stored.parent_hash) else { return Applied::ParentUnknown };
        let mut chain = self.existing(place, &stored.blocks);
        if self.free_names(rank, &stored.blocks, &chain) {
            // A block was taken away, so runs may have been cut and joined: look again.
            let Some(again) = self.place_after(rank, stored.parent_hash) else { return Applied::ParentUnknown };
            place = again;
            chain = self.existing(place, &stored.blocks);
        }
        let (mut touched, mut held_before) = (Vec::new(), vec![false; stored.blocks.len()]);
        let (mut new, mut newly_held) = (0, 0);
        let mut at = 0;
        while at < chain.len() {
            let segment = self.hold_segment(rank, tier, &mut place, chain.len() - at, &stored.blocks[at..]);
            newly_held += if segment.first_tier { segment.blocks } else { 0 };
            held_before[at..at + segment.blocks].fill(!segment.first_tier);
            new += if segment.new { segment.blocks } else { 0 };
            at += segment.blocks;
            touched.push(place.run);
        }
        let fresh = &stored.blocks[at..];
        if !fresh.is_empty() {
            self.grow(rank, tier, place, fresh, &mut chain);
            (new, newly_held) = (new + fresh.len(), newly_held + fresh.len());
        }
        self.state_mut(rank).blocks += newly_held;
        self.name_all(rank, &stored.blocks, &chain, &held_before);
        for run in touched {
            if self.runs.is_live(run) {
                self.runs.join_around(run, &mut self.arena);
            }
        }
        Applied::Stored { new, known: stored.blocks.len() - new }
    }

    fn place_after(&self, rank: u32, parent: Option<BlockHash>) -> Option<Place> {
        let Some(parent) = parent else { return Some(Place { run: NONE, at: 0 }) };
        let block = self.arena.get(self.locate(rank, parent.0)?);
        Some(Place { run: block.run, at: (block.depth() - self.runs.get(block.run).depth) as usize + 1 })
    }

    /// The blocks of the tree that `blocks` match from `place` on.
    fn existing(&self, mut place: Place, blocks: &[StoredBlock]) -> Vec<BlockId> {
        let mut chain = Vec::with_capacity(blocks.len());
        for block in blocks {
            if place.run == NONE || place.at == self.runs.get(place.run).tokens.len() {
                match self.runs.child(place.run, block.tokens_hash.0) {
                    Some(run) => place = Place { run, at: 0 },
                    None => break,
                }
            }
            let run = self.runs.get(place.run);
            if run.tokens[place.at] != block.tokens_hash.0 {
                break;
            }
            chain.push(run.blocks[place.at]);
            place.at += 1;
        }
        chain
    }

    /// Takes from the rank every block whose name the event gives to a block of `chain`. True if there was one.
    fn free_names(&mut self, rank: u32, blocks: &[StoredBlock], chain: &[BlockId]) -> bool {
        let mut moved = false;
        for (at, (block, &id)) in blocks.iter().zip(chain).enumerate() {
            // Most blocks go by the name that they have; that needs one look, and no table.
            if self.arena.get(id).name() == Some(block.block_hash.0) && matches!(self.state(rank).names, Names::Shared)
            {
                continue;
            }
            // A block before this one in the event has another name by then, so it keeps its place.
            if let Some(other) = self.locate(rank, block.block_hash.0)
                && other != id
                && !chain[..at].contains(&other)
            {
                self.use_own_names(rank, &[]);
                self.drop_block(rank, other, block.block_hash.0);
                moved = true;
            }
        }
        moved
    }

    /// Gives the rank a tier of the run at `place`, as far as it matches; cuts the run there. `place` ends after it.
    fn hold_segment(
        &mut self,
        rank: u32,
        tier: u32,
        place: &mut Place,
        most: usize,
        blocks: &[StoredBlock],
    ) -> Segment {
        if place.run == NONE || place.at == self.runs.get(place.run).tokens.len() {
            let run = self.runs.child(place.run, blocks[0].tokens_hash.0);
            *place = Place { run: run.expect("the chain was walked before"), at: 0 };
        }
        let run = self.runs.get(place.run);
        let length = most.min(run.tokens.len() - place.at);
        let before = run.tiers(rank);
        if before & tier == 0 {
            let run = self.runs.isolate(place.run, place.at, place.at + length, &mut self.arena);
            *place = Place { run, at: length };
            self.runs.hold(run, rank, tier);
        } else {
            place.at += length;
        }
        self.runs.get_mut(place.run).touched = self.clock;
        Segment { blocks: length, new: before & tier == 0, first_tier: before == 0 }
    }

    /// Adds blocks that nobody holds at `place`; appends them to `chain`.
    fn grow(&mut self, rank: u32, tier: u32, place: Place, fresh: &[StoredBlock], chain: &mut Vec<BlockId>) {
        let holder = rank << super::runs::TIER_BITS | tier;
        let mut parent = place.run;
        if parent != NONE && place.at < self.runs.get(parent).tokens.len() {
            parent = self.runs.cut(parent, place.at, &mut self.arena).0;
        }
        let depth = if parent == NONE { 0 } else { self.runs.get(parent).depth + place_len(self.runs.get(parent)) };
        let tokens: Vec<u64> = fresh.iter().map(|block| block.tokens_hash.0).collect();
        let extends = parent != NONE && {
            let run = self.runs.get(parent);
            run.children.len() == 0 && run.holders == [holder] && has_room(run, fresh.len())
        };
        let run = if extends {
            parent
        } else {
            let (holders, touched) = (vec![holder], self.clock);
            let run = Run { tokens, blocks: Vec::new(), holders, children: Children::None, parent, depth, touched };
            self.runs.add(run)
        };
        let blocks: Vec<BlockId> = (depth..).take(fresh.len()).map(|depth| self.arena.add(run, depth)).collect();
        chain.extend_from_slice(&blocks);
        let clock = self.clock;
        let grown = self.runs.get_mut(run);
        if extends {
            append(&mut grown.tokens, &fresh.iter().map(|block| block.tokens_hash.0).collect::<Vec<u64>>());
        }
        append(&mut grown.blocks, &blocks);
        grown.touched = clock;
    }

    /// Names the stored blocks for the rank, in order.
    fn name_all(&mut self, rank: u32, blocks: &[StoredBlock], chain: &[BlockId], held_before: &[bool]) {
        for (at, (block, &id)) in blocks.iter().zip(chain).enumerate() {
            let name = block.block_hash.0;
            if matches!(self.state(rank).names, Names::Shared) {
                let named = self.arena.get(id).name();
                if named == Some(name) || (named.is_none() && self.shared.claim(name, id, &mut self.arena).is_ok()) {
                    continue;
                }
                self.use_own_names(rank, &chain[at..]);
            }
            self.name_own(rank, name, id, held_before[at]);
        }
    }

    fn name_own(&mut self, rank: u32, name: u64, id: BlockId, held_before: bool) {
        let Names::Own(own) = &mut self.state_mut(rank).names else { return };
        if held_before && own.find(name) != Some(id) {
            own.forget_names_of(id);
        }
        if let Some(other) = own.insert(name, id) {
            self.unhold_block(rank, other);
        }
    }

    pub(super) fn remove(&mut self, rank: u32, tier: u32, names: &[BlockHash]) -> Applied {
        let (mut gone, mut unknown, mut at) = (0, 0, 0);
        while at < names.len() {
            let Some(block) = self.locate(rank, names[at].0) else {
                (unknown, at) = (unknown + 1, at + 1);
                continue;
            };
            let length = self.stretch(rank, block, &names[at..]);
            let removed = self.remove_stretch(rank, tier, block, &names[at..at + length]);
            *(if removed { &mut gone } else { &mut unknown }) += length;
            at += length;
        }
        Applied::Removed { gone, unknown }
    }

    /// How many of `names`, from the first on, are consecutive blocks of one run.
    fn stretch(&self, rank: u32, first: BlockId, names: &[BlockHash]) -> usize {
        let start = self.arena.get(first);
        let mut length = 1;
        while length < names.len() {
            let next = self.locate(rank, names[length].0).map(|id| self.arena.get(id));
            if !next.is_some_and(|next| next.run == start.run && next.depth() == start.depth() + length as u32) {
                break;
            }
            length += 1;
        }
        length
    }

    /// Takes a tier of consecutive blocks of one run from the rank; false if it did not hold them there.
    fn remove_stretch(&mut self, rank: u32, tier: u32, first: BlockId, names: &[BlockHash]) -> bool {
        let length = names.len();
        let block = self.arena.get(first);
        let run = self.runs.get(block.run);
        if run.tiers(rank) & tier == 0 {
            return false;
        }
        let from = (block.depth() - run.depth) as usize;
        let run = self.runs.isolate(block.run, from, from + length, &mut self.arena);
        if self.runs.unhold(run, rank, tier) {
            let state = self.state_mut(rank);
            state.blocks -= length;
            if let Names::Own(own) = &mut state.names {
                names.iter().for_each(|name| own.remove(name.0));
            }
        }
        self.tidy(run);
        true
    }

    /// Takes a block and its name from the rank.
    fn drop_block(&mut self, rank: u32, block: BlockId, name: u64) {
        if let Names::Own(own) = &mut self.state_mut(rank).names {
            own.remove(name);
        }
        self.unhold_block(rank, block);
    }

    fn unhold_block(&mut self, rank: u32, block: BlockId) {
        let place = self.arena.get(block);
        let run = self.runs.get(place.run);
        if run.tiers(rank) == 0 {
            return;
        }
        let from = (place.depth() - run.depth) as usize;
        let run = self.runs.isolate(place.run, from, from + 1, &mut self.arena);
        if self.runs.unhold(run, rank, u32::MAX) {
            self.state_mut(rank).blocks -= 1;
        }
        self.tidy(run);
    }

    /// After a hold was taken away: removes the run and its ancestors if nothing needs them, and joins what is left
    /// with its neighbours.
    fn tidy(&mut self, run: RunId) {
        let left = self.prune(run);
        if left != NONE {
            self.runs.join_around(left, &mut self.arena);
        }
    }

    /// Removes the run and its ancestors as far as nothing needs them; returns the first that is needed.
    pub(super) fn prune(&mut self, mut run: RunId) -> RunId {
        while run != NONE && !self.is_needed(run) {
            run = self.forget_leaf(run);
        }
        run
    }

    /// Somebody holds the run or something under it.
    fn is_needed(&self, run: RunId) -> bool {
        let run = self.runs.get(run);
        !run.holders.is_empty() || run.children.len() > 0
    }

    /// Removes a leaf with its blocks; returns its parent.
    fn forget_leaf(&mut self, run: RunId) -> RunId {
        let gone = self.runs.remove_leaf(run);
        for block in gone.blocks {
            self.shared.forget(block, &self.arena);
            self.arena.release(block);
        }
        gone.parent
    }
}

/// What [`Index::hold_segment`] did.
struct Segment {
    blocks: usize,
    new: bool,
    first_tier: bool,
}

fn place_len(run: &Run) -> u32 {
    u32::try_from(run.tokens.len()).expect("a run is at most a few hundred blocks")
}

#[cfg(test)]
impl Index {
    /// Every invariant of the structure; panics on a broken one.
    pub(super) fn check(&self) {
        let (mut pairs, mut blocks) = (vec![0usize; self.ranks.len()], 0);
        for id in self.runs.ids() {
            let run = self.runs.get(id);
            assert_eq!(run.tokens.len(), run.blocks.len());
            assert!(!run.tokens.is_empty() && run.holders.windows(2).all(|w| w[0] >> 4 < w[1] >> 4));
            assert!(!run.holders.is_empty() || run.children.len() > 0, "nobody needs run {id}");
            assert_eq!(self.runs.child(run.parent, run.tokens[0]), Some(id));
            if run.parent != NONE {
                let parent = self.runs.get(run.parent);
                assert_eq!(run.depth, parent.depth + place_len(parent));
            }
            for (at, &block) in run.blocks.iter().enumerate() {
                let block = self.arena.get(block);
                assert_eq!((block.run, block.depth()), (id, run.depth + at as u32));
                if let Some(name) = block.name() {
                    assert_eq!(self.shared.find(name, &self.arena), Some(run.blocks[at]));
                }
            }
            blocks += run.blocks.len();
            for &holder in &run.holders {
                assert_ne!(super::runs::tiers_of(holder), 0);
                pairs[super::runs::rank_of(holder) as usize] += run.blocks.len();
            }
        }
        assert_eq!(blocks, self.arena.live());
        for (rank, state) in self.ranks.iter().enumerate() {
            let Some(state) = state else { continue };
            assert_eq!(state.blocks, pairs[rank], "count of {:?}", state.worker);
            if let Names::Own(own) = &state.names {
                assert_eq!(own.len(), state.blocks);
                assert!(own.iter().all(|(_, block)| self.tiers_of_block(rank as u32, block) != 0));
            }
        }
    }
}
