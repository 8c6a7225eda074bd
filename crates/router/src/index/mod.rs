//! The prefix index: which worker rank has which prefix cached, fed by KV events.
//!
//! Keyed by our chain of tokens hashes; the request's LoRA and cache salt are in the seed of these hashes
//! ([`protocol::space`]), the data-parallel rank and the storage tier are in the holders. What engines call a block
//! (`block_hash`) serves only to find parents and removals.
//!
//! Memory: blocks that the same ranks hold one after another are one *run*, so a prefix shared by 200 workers costs
//! 200 words, not 200 entries a block. About 21 bytes a stored pair (a block on a rank) in the peers' benchmark (26 with names of their own), where
//! Dynamo's indexers take 41 to 128.
//!
//! A store whose parent this rank does not have is refused ([`Applied::ParentUnknown`]): without the parent nobody
//! knows which prefix the blocks belong to. A name that a rank gives to another block moves; a block that a rank
//! renames has only the new name.

mod arena;
mod evict;
mod names;
mod overlap;
mod ranks;
mod runs;
#[cfg(test)]
mod tests;
mod tree;

pub use overlap::{Overlap, Overlaps, TierBlocks};

use arena::Arena;
use hashbrown::HashMap;
use names::SharedNames;
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::{KvChange, StorageTier, WorkerKvEvent};
use ranks::Rank;
use runs::Runs;

/// Default bound of the index: about 10 million blocks on ranks, the caches of some 300 busy workers.
pub const DEFAULT_INDEX_BYTES: usize = 256 << 20;

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Blocks were stored.
    Stored {
        /// Not yet known of this rank and tier.
        new: usize,
        /// Known already.
        known: usize,
    },
    /// Blocks were removed.
    Removed {
        /// Held until now.
        gone: usize,
        /// Not held: removed before, or forgotten under the byte cap.
        unknown: usize,
    },
    /// All blocks of the rank were removed.
    Cleared {
        /// How many it held.
        gone: usize,
    },
    /// The event's number was applied before; nothing changed.
    Duplicate,
    /// Events are missing; **nothing was applied**. Recover, then apply this one again.
    Gap {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The rank does not hold the parent, so the blocks cannot be placed; nothing was stored. Its number counts as
    /// applied. After an eviction under the byte cap this is normal and needs no recovery.
    ParentUnknown,
}

/// The index. See the module's text.
#[derive(Debug)]
pub struct Index {
    arena: Arena,
    runs: Runs,
    shared: SharedNames,
    ranks: Vec<Option<Rank>>,
    rank_ids: HashMap<WorkerRank, u32>,
    max_bytes: usize,
    /// Events applied; the index's only notion of time.
    clock: u64,
    evicted: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(DEFAULT_INDEX_BYTES)
    }
}

impl Index {
    /// An empty index that stays under `max_bytes` by forgetting the prefixes whose last store is oldest.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            arena: Arena::default(),
            runs: Runs::default(),
            shared: SharedNames::default(),
            ranks: Vec::new(),
            rank_ids: HashMap::new(),
            max_bytes,
            clock: 0,
            evicted: 0,
        }
    }

    /// Applies one event in the order of its rank's numbers, which start at 1.
    pub fn apply(&mut self, event: &WorkerKvEvent) -> Applied {
        let rank = self.rank(WorkerRank { worker_id: event.worker_id, dp_rank: event.event.dp_rank });
        let (expected, got) = (self.state(rank).next_event_id, event.event.event_id);
        if got < expected {
            return Applied::Duplicate;
        }
        if got > expected {
            return Applied::Gap { expected, got };
        }
        self.state_mut(rank).next_event_id = got + 1;
        self.change(rank, event)
    }

    /// Replaces all that is known of a rank by a dump (its events in order, whatever their numbers) and goes on after
    /// `last_event_id`. Returns the blocks that it holds then.
    pub fn apply_dump(&mut self, worker: WorkerRank, events: &[WorkerKvEvent], last_event_id: u64) -> usize {
        self.begin_dump(worker);
        self.add_dumped(worker, events);
        self.resume_after(worker, last_event_id);
        self.blocks_of(worker)
    }

    /// The first step of [`Index::apply_dump`], for a caller that cannot hold its lock for a whole dump: forgets what
    /// the rank holds. [`Index::add_dumped`] follows as often as it takes, [`Index::resume_after`] ends it; meanwhile
    /// the rank's own events must wait, and the index answers with what is in already.
    pub fn begin_dump(&mut self, worker: WorkerRank) {
        let rank = self.rank(worker);
        self.drop_all(rank);
    }

    /// Adds events of a dump, in order, whatever their numbers.
    pub fn add_dumped(&mut self, worker: WorkerRank, events: &[WorkerKvEvent]) {
        let rank = self.rank(worker);
        for event in events {
            self.change(rank, event);
        }
    }

    /// Goes on after `last_event_id` without what was missed: for a hole that nobody can fill.
    pub fn resume_after(&mut self, worker: WorkerRank, last_event_id: u64) {
        let rank = self.rank(worker);
        self.state_mut(rank).next_event_id = last_event_id.saturating_add(1);
    }

    /// The number that the rank's next event must have; 1 for a rank that is not known.
    pub fn next_event_id(&self, worker: WorkerRank) -> u64 {
        self.rank_ids.get(&worker).map_or(1, |&rank| self.state(rank).next_event_id)
    }

    /// Forgets every rank of a worker; returns the blocks that they held.
    pub fn remove_worker(&mut self, worker_id: InstanceId) -> usize {
        let gone: Vec<WorkerRank> = self.rank_ids.keys().filter(|rank| rank.worker_id == worker_id).copied().collect();
        gone.into_iter().map(|rank| self.remove_rank(rank)).sum()
    }

    /// Forgets one rank; returns the blocks that it held.
    pub fn remove_rank(&mut self, worker: WorkerRank) -> usize {
        let Some(rank) = self.rank_ids.remove(&worker) else { return 0 };
        let gone = self.drop_all(rank);
        self.ranks[rank as usize] = None;
        gone
    }

    /// Ranks that are known, in no order.
    pub fn known_ranks(&self) -> impl Iterator<Item = WorkerRank> + '_ {
        self.rank_ids.keys().copied()
    }

    /// Blocks that a rank holds, in whatever tier.
    pub fn blocks_of(&self, worker: WorkerRank) -> usize {
        self.rank_ids.get(&worker).map_or(0, |&rank| self.state(rank).blocks)
    }

    /// Blocks over all ranks: one held by two ranks counts twice.
    pub fn pairs(&self) -> usize {
        self.ranks.iter().flatten().map(|rank| rank.blocks).sum()
    }

    /// Different blocks.
    pub fn unique_blocks(&self) -> usize {
        self.arena.live()
    }

    /// Blocks on ranks that were forgotten to stay under the byte cap, since the start.
    pub fn evicted_blocks_total(&self) -> u64 {
        self.evicted
    }

    fn change(&mut self, rank: u32, event: &WorkerKvEvent) -> Applied {
        self.clock += 1;
        let tier = tier_bit(event.storage_tier);
        match &event.event.data {
            KvChange::Stored(stored) => {
                let applied = self.store(rank, tier, stored);
                self.stay_under_cap();
                applied
            }
            KvChange::Removed(removed) => self.remove(rank, tier, &removed.block_hashes),
            KvChange::Cleared => Applied::Cleared { gone: self.drop_all(rank) },
        }
    }
}

/// The tier's bit in a holder.
fn tier_bit(tier: StorageTier) -> u32 {
    match tier {
        StorageTier::Device => 1,
        StorageTier::HostPinned => 2,
        StorageTier::Disk => 4,
        StorageTier::External => 8,
    }
}
