//! What the index keeps of one worker rank: its cursor, its count, and whose names it uses.

use super::Index;
use super::arena::BlockId;
use super::names::OwnNames;
use super::runs::rank_of;
use protocol::ids::WorkerRank;

/// Whose names a rank's blocks go by.
#[derive(Debug)]
pub(super) enum Names {
    /// The shared table's: a name counts for this rank if the rank holds that block.
    Shared,
    /// Its own.
    Own(OwnNames),
}

/// One rank.
#[derive(Debug)]
pub(super) struct Rank {
    pub(super) worker: WorkerRank,
    /// The number that its next event must have.
    pub(super) next_event_id: u64,
    /// Blocks held, in whatever tier.
    pub(super) blocks: usize,
    pub(super) names: Names,
}

impl Index {
    pub(super) fn state(&self, rank: u32) -> &Rank {
        self.ranks[rank as usize].as_ref().expect("rank ids in use are known")
    }

    pub(super) fn state_mut(&mut self, rank: u32) -> &mut Rank {
        self.ranks[rank as usize].as_mut().expect("rank ids in use are known")
    }

    /// The rank's small id; a new rank expects event 1.
    pub(super) fn rank(&mut self, worker: WorkerRank) -> u32 {
        if let Some(&rank) = self.rank_ids.get(&worker) {
            return rank;
        }
        let state = Rank { worker, next_event_id: 1, blocks: 0, names: Names::Shared };
        // A worker that left gives its place to the next one.
        let rank = match self.ranks.iter().position(Option::is_none) {
            Some(place) => {
                self.ranks[place] = Some(state);
                place
            }
            None => {
                self.ranks.push(Some(state));
                self.ranks.len() - 1
            }
        };
        let rank = u32::try_from(rank).expect("far fewer than 2^28 ranks fit into a process");
        self.rank_ids.insert(worker, rank);
        rank
    }

    /// The block that the rank calls `name` and holds.
    pub(super) fn locate(&self, rank: u32, name: u64) -> Option<BlockId> {
        match &self.state(rank).names {
            Names::Own(own) => own.find(name),
            Names::Shared => self.shared.find(name, &self.arena).filter(|&block| self.tiers_of_block(rank, block) != 0),
        }
    }

    pub(super) fn tiers_of_block(&self, rank: u32, block: BlockId) -> u32 {
        self.runs.get(self.arena.get(block).run).tiers(rank)
    }

    /// Makes the rank use a table of its own, filled with the shared names of what it holds. The blocks in `nameless`
    /// get none: the caller names them next.
    pub(super) fn use_own_names(&mut self, rank: u32, nameless: &[BlockId]) {
        if matches!(self.state(rank).names, Names::Own(_)) {
            return;
        }
        let mut own = OwnNames::default();
        for id in self.runs.ids() {
            let run = self.runs.get(id);
            if run.tiers(rank) == 0 {
                continue;
            }
            for &block in &run.blocks {
                if let Some(name) = self.arena.get(block).name()
                    && !nameless.contains(&block)
                {
                    own.insert(name, block);
                }
            }
        }
        self.state_mut(rank).names = Names::Own(own);
    }

    /// Takes everything from a rank; it keeps its cursor. Returns the blocks that it held.
    pub(super) fn drop_all(&mut self, rank: u32) -> usize {
        let held: Vec<u32> = self.runs.ids().filter(|&id| self.runs.get(id).tiers(rank) != 0).collect();
        for &id in &held {
            self.runs.unhold(id, rank, u32::MAX);
        }
        // Prune all before joining any: a join could hide a run that nobody needs inside another one.
        for &id in &held {
            if self.runs.is_live(id) {
                self.prune(id);
            }
        }
        for id in held {
            if self.runs.is_live(id) {
                self.runs.join_around(id, &mut self.arena);
            }
        }
        let state = self.state_mut(rank);
        state.names = Names::Shared;
        std::mem::take(&mut state.blocks)
    }

    /// Ranks that hold a run.
    pub(super) fn ranks_of(&self, run: u32) -> Vec<u32> {
        self.runs.get(run).holders.iter().map(|&holder| rank_of(holder)).collect()
    }
}
