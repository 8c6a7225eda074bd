//! The byte cap: forget the prefixes whose last store is oldest, leaves first, and say so.

use super::Index;
use super::arena::RunId;
use super::ranks::Names;
use super::runs::Run;

/// Share of the cap to which an eviction goes down, in percent: each eviction scans all runs, so it must be rare.
const EVICT_TO_PERCENT: usize = 90;

/// Bytes of one block at the tables' emptiest: 12 in its run with slack, 16 in the arena, 5 in the name table at 7/16.
const BLOCK_BYTES: usize = 15 + 16 + 12;
/// Bytes of one run beside its blocks: itself, three allocations, and its entry at the parent.
const RUN_BYTES: usize = size_of::<Option<Run>>() + 3 * 16 + 40;
/// Bytes of one name in a rank's own table at its emptiest: 13 at 7/16.
const OWN_NAME_BYTES: usize = 30;
/// Bytes of one holder of a run, with slack.
const HOLDER_BYTES: usize = 6;
/// Bytes of one rank.
const RANK_BYTES: usize = 128;

impl Index {
    /// Memory that the content needs, bytes; an upper bound, so that the cap is a true one.
    pub fn bytes(&self) -> usize {
        let own: usize = self.ranks.iter().flatten().map(|rank| own_names(&rank.names)).sum();
        self.arena.live() * BLOCK_BYTES
            + self.runs.live() * RUN_BYTES
            + self.runs.holders() * HOLDER_BYTES
            + own * OWN_NAME_BYTES
            + self.ranks.len() * RANK_BYTES
    }

    /// The cap, bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub(super) fn stay_under_cap(&mut self) {
        if self.bytes() <= self.max_bytes {
            return;
        }
        let target = self.max_bytes / 100 * EVICT_TO_PERCENT;
        // What goes uncovers new leaves, so there may be several rounds.
        while self.bytes() > target && self.runs.live() > 0 {
            self.evict_leaves(target);
        }
    }

    fn evict_leaves(&mut self, target: usize) {
        let mut leaves: Vec<(u64, RunId)> = self
            .runs
            .ids()
            .map(|id| (id, self.runs.get(id)))
            .filter(|(_, run)| run.children.len() == 0)
            .map(|(id, run)| (run.touched, id))
            .collect();
        leaves.sort_unstable();
        // Own names go after the rounds, but what they will free counts now.
        let mut own_freed = 0;
        for (_, id) in leaves {
            if self.bytes().saturating_sub(own_freed) <= target {
                break;
            }
            let blocks = self.runs.get(id).blocks.len();
            for rank in self.ranks_of(id) {
                self.runs.unhold(id, rank, u32::MAX);
                let state = self.state_mut(rank);
                state.blocks -= blocks;
                if matches!(state.names, Names::Own(_)) {
                    own_freed += blocks * OWN_NAME_BYTES;
                }
                self.evicted += blocks as u64;
            }
            self.prune(id);
        }
        self.purge_own_names();
    }

    fn purge_own_names(&mut self) {
        let Self { ranks, arena, .. } = self;
        for rank in ranks.iter_mut().flatten() {
            if let Names::Own(own) = &mut rank.names {
                own.retain_live(arena);
            }
        }
    }
}

fn own_names(names: &Names) -> usize {
    match names {
        Names::Shared => 0,
        Names::Own(own) => own.len(),
    }
}
