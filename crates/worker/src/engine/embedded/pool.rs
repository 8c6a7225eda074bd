//! The KV pool: the prefix cache, the running sequences' own cells, and llama.cpp's memory kept equal to both.
//!
//! Every full block of a running sequence belongs to the cache as soon as it is computed; a sequence owns only the
//! last part of a block. So the cells in use are `pinned blocks · block_size + own cells`, exactly. Cached blocks and own
//! cells together never pass the pool's size, so llama.cpp is never asked for more than it has.
//!
//! What no running sequence uses is parked in this process's own memory, because attention costs time for every cell
//! in use: with 4,000 parked tokens in the cells a step of eight sequences took a sixth longer (2 cores, SmolLM2-135M,
//! 2026-11-24). Copying a token out or back costs about 5 µs, computing it 2 ms.

use super::config::Limits;
use super::device::{Device, Parked, Row, SeqId};
use super::prefix::{BlockId, Parent, PrefixCache, Stored};
use super::sequence::{Residence, Sequence};
use protocol::kv::KvChange;
use std::collections::HashMap;

/// A sequence with a place in the pool.
pub(super) struct Running {
    pub(super) sequence: Sequence,
    pub(super) residence: Residence,
}

impl Running {
    /// Tokens not yet computed; at least one.
    pub(super) fn pending(&self) -> u32 {
        self.sequence.len() - self.residence.computed
    }
}

/// The pool of one engine.
pub(super) struct Pool<'m> {
    pub(super) device: Device<'m>,
    cache: PrefixCache,
    /// The cells of each block that was ever left, until it is evicted: at most the pool's size again.
    parked: HashMap<BlockId, Parked>,
    cacheable: bool,
    cells: u32,
    block_size: u32,
    idle: Vec<SeqId>,
}

impl<'m> Pool<'m> {
    /// An empty pool. Without holders there is no prefix cache.
    pub(super) fn new(device: Device<'m>, limits: &Limits, holders: u32) -> Self {
        Self {
            cells: device.cells(),
            device,
            cache: PrefixCache::new(limits.block_size, holders),
            parked: HashMap::new(),
            cacheable: holders > 0,
            block_size: limits.block_size,
            idle: (0..limits.max_num_seqs).rev().map(SeqId).collect(),
        }
    }

    /// Whether a waiting sequence, with one block to grow for it and each that runs, fits beside what the running ones
    /// have and still need.
    pub(super) fn has_room_for(&self, sequence: &Sequence, running: &[Running]) -> bool {
        let hit = self.matched(sequence, None, 0);
        let shared = hit.iter().filter(|&&block| self.cache.is_pinned(block)).count();
        let pinned = u32::try_from(self.cache.pinned()).unwrap_or(u32::MAX);
        let need = sequence.len() - u32::try_from(shared).unwrap_or(0) * self.block_size;
        let promised: u32 = running.iter().map(|r| r.residence.own_cells(self.block_size) + r.pending()).sum();
        let growth = (u32::try_from(running.len()).unwrap_or(u32::MAX) + 1) * self.block_size;
        pinned * self.block_size + promised + need + growth <= self.cells
    }

    /// Gives a sequence an id and what the cache has of it.
    pub(super) fn settle(&mut self, sequence: &mut Sequence) -> Residence {
        let seq = self.idle.pop().expect("no more sequences run than there are ids");
        let mut residence = Residence::new(seq, self.cacheable, !sequence.was_admitted);
        self.take_cached(sequence, &mut residence);
        residence
    }

    /// Shares blocks that another sequence has computed meanwhile. Gives the prompt tokens newly found.
    pub(super) fn catch_up(&mut self, running: &mut Running) -> u32 {
        if running.pending() <= 1 {
            return 0;
        }
        self.take_cached(&mut running.sequence, &mut running.residence)
    }

    fn take_cached(&mut self, sequence: &mut Sequence, residence: &mut Residence) -> u32 {
        if residence.private {
            return 0;
        }
        let whole = residence.shared_blocks * self.block_size;
        let hit = self.matched(sequence, residence.tip, whole);
        let Some(&tip) = hit.last() else { return 0 };
        // A started block gives way to the whole one.
        self.device.forget_from(residence.seq, whole);
        residence.computed = whole;
        for (block, place) in self.cache.pin(tip) {
            self.device.restore(&self.parked[&block], place);
        }
        if let Some(before) = residence.tip.replace(tip) {
            let left = self.cache.unpin(before);
            assert!(left.is_empty(), "the new tip is below the old one");
        }
        for &block in &hit {
            self.device.share(self.cache.place(block), residence.seq);
        }
        let blocks = u32::try_from(hit.len()).unwrap_or(0);
        let found = blocks * self.block_size;
        residence.shared_blocks += blocks;
        residence.computed += found;
        if !residence.counts_hits {
            return 0;
        }
        sequence.cached_tokens += found;
        found
    }

    /// The cached blocks that continue a sequence after its first `whole` tokens. The last token is always computed: its
    /// logits are what the sequence is here for.
    fn matched(&self, sequence: &Sequence, tip: Option<BlockId>, whole: u32) -> Vec<BlockId> {
        let mut parent = tip.map_or(Parent::Root, Parent::Block);
        let mut found = Vec::new();
        let usable = &sequence.tokens[whole as usize..sequence.tokens.len() - 1];
        for tokens in usable.chunks_exact(self.block_size as usize) {
            let Some(block) = self.cache.child(sequence.namespace, parent, tokens) else { break };
            found.push(block);
            parent = Parent::Block(block);
        }
        found
    }

    /// Evicts until `rows` cells are free. False when the running sequences leave too few.
    pub(super) fn make_room(&mut self, rows: u32, running: &[Running]) -> bool {
        let own: u32 = running.iter().map(|r| r.residence.own_cells(self.block_size)).sum();
        while self.cached_cells() + own + rows > self.cells {
            let Some(block) = self.cache.evict_one() else { return false };
            self.parked.remove(&block);
        }
        true
    }

    fn cached_cells(&self) -> u32 {
        u32::try_from(self.cache.len()).unwrap_or(u32::MAX) * self.block_size
    }

    /// Adds the next `rows` tokens of a sequence to the batch. Gives the row of its last token's logits if that is
    /// among them.
    pub(super) fn add_rows(&mut self, running: &Running, rows: u32) -> Option<Row> {
        let Running { sequence, residence } = running;
        let end = residence.computed + rows;
        let mut logits_row = None;
        for position in residence.computed..end {
            let is_last = position + 1 == sequence.len();
            let row = self.device.add(residence.seq, position, sequence.tokens[position as usize], is_last);
            logits_row = is_last.then_some(row);
        }
        logits_row
    }

    /// Notes that `rows` more tokens of a sequence are computed and puts the blocks that are now full into the cache.
    pub(super) fn keep(&mut self, running: &mut Running, rows: u32) {
        let Running { sequence, residence } = running;
        residence.computed += rows;
        while !residence.private && residence.own_cells(self.block_size) >= self.block_size {
            let start = (residence.shared_blocks * self.block_size) as usize;
            let tokens = &sequence.tokens[start..start + self.block_size as usize];
            let parent = residence.tip.map_or(Parent::Root, Parent::Block);
            let block = match self.cache.store(sequence.namespace, parent, residence.shared_blocks, tokens) {
                Stored::New { block, place } => {
                    self.device.hold(residence.seq, place);
                    block
                }
                Stored::Known { block, place } => {
                    self.device.swap_for_shared(residence.seq, place);
                    block
                }
                Stored::Refused => {
                    residence.private = true;
                    break;
                }
            };
            residence.tip = Some(block);
            residence.shared_blocks += 1;
        }
    }

    /// Takes the place of a sequence that is over or preempted. Its cached blocks stay until they are evicted.
    pub(super) fn release(&mut self, residence: &Residence) {
        let &Residence { seq, tip, .. } = residence;
        for (block, place) in tip.map(|tip| self.cache.unpin(tip)).unwrap_or_default() {
            self.parked.entry(block).or_insert_with(|| self.device.save(place));
            self.device.evict(place);
        }
        self.device.forget(seq);
        self.idle.push(seq);
    }

    /// Empties the pool; no sequence may run.
    pub(super) fn reset(&mut self, limits: &Limits) {
        self.device.clear();
        self.cache.clear();
        self.parked.clear();
        self.idle = (0..limits.max_num_seqs).rev().map(SeqId).collect();
    }

    /// Changes of the cache since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<KvChange> {
        self.cache.take_changes()
    }

    /// Blocks in use, and those of them that running sequences need.
    pub(super) fn used_blocks(&self, running: &[Running]) -> (u64, u64) {
        let own = running.iter().map(|r| u64::from(r.residence.own_cells(self.block_size).div_ceil(self.block_size)));
        let own: u64 = own.sum();
        // Parts of blocks are counted whole, so the sum may pass the pool's size by a rounding.
        let all = u64::from(self.cells / self.block_size);
        ((self.cache.len() as u64 + own).min(all), (self.cache.pinned() as u64 + own).min(all))
    }

    /// The published names of all cached blocks.
    #[cfg(test)]
    pub(super) fn block_hashes(&self) -> std::collections::HashSet<protocol::kv::BlockHash> {
        self.cache.block_hashes().collect()
    }
}
