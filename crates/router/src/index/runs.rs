//! Runs: stretches of consecutive blocks that the same ranks hold, in a tree.
//!
//! Every change first cuts runs so that it concerns whole runs, and afterwards joins neighbours that are alike again.

use super::arena::{Arena, BlockId, NONE, RunId};
use super::names::spread;
use hashbrown::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Longest run that joining makes: bounds the blocks that one cut moves.
const RUN_BLOCKS_MAX: usize = 512;

/// A rank and the tiers in which it holds something: rank index × 16 + one bit a tier.
pub(super) type Holder = u32;
/// Tiers of a [`Holder`].
pub(super) const TIER_BITS: u32 = 4;
const TIERS: u32 = (1 << TIER_BITS) - 1;

/// The rank's index.
pub(super) fn rank_of(holder: Holder) -> u32 {
    holder >> TIER_BITS
}

/// The tiers, one bit each.
pub(super) fn tiers_of(holder: Holder) -> u32 {
    holder & TIERS
}

/// Spreads the hashes of first blocks over all bits.
#[derive(Debug, Default)]
pub(super) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = spread(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = spread(value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Children of a run by the hash of their first block; most runs have one or none.
#[derive(Debug, Default)]
pub(super) enum Children {
    #[default]
    None,
    One(u64, RunId),
    Many(Box<HashMap<u64, RunId, BuildHasherDefault<SpreadHasher>>>),
}

impl Children {
    pub(super) fn get(&self, first: u64) -> Option<RunId> {
        match self {
            Self::One(hash, id) if *hash == first => Some(*id),
            Self::None | Self::One(..) => None,
            Self::Many(map) => map.get(&first).copied(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(map) => map.len(),
        }
    }

    fn set(&mut self, first: u64, id: RunId) {
        match self {
            Self::None => *self = Self::One(first, id),
            Self::One(hash, one) if *hash == first => *one = id,
            Self::One(hash, one) => *self = Self::Many(Box::new([(*hash, *one), (first, id)].into_iter().collect())),
            Self::Many(map) => drop(map.insert(first, id)),
        }
    }

    fn remove(&mut self, first: u64) {
        match self {
            Self::One(hash, _) if *hash == first => *self = Self::None,
            Self::None | Self::One(..) => {}
            Self::Many(map) => {
                map.remove(&first);
                if map.len() == 1
                    && let Some((&hash, &id)) = map.iter().next()
                {
                    *self = Self::One(hash, id);
                }
            }
        }
    }

    fn only(&self) -> Option<RunId> {
        match self {
            Self::One(_, id) => Some(*id),
            Self::None | Self::Many(_) => None,
        }
    }

    fn for_each(&self, mut act: impl FnMut(RunId)) {
        match self {
            Self::None => {}
            Self::One(_, id) => act(*id),
            Self::Many(map) => map.values().copied().for_each(act),
        }
    }
}

/// Consecutive blocks with the same holders.
#[derive(Debug)]
pub(super) struct Run {
    /// Hash of each block's tokens.
    pub(super) tokens: Vec<u64>,
    /// The blocks, same length.
    pub(super) blocks: Vec<BlockId>,
    /// Who holds all of them, ascending. Empty only while a child is held.
    pub(super) holders: Vec<Holder>,
    pub(super) children: Children,
    /// [`NONE`] at the root.
    pub(super) parent: RunId,
    /// Blocks before the first.
    pub(super) depth: u32,
    /// Time of the last store, in events applied.
    pub(super) touched: u64,
}

impl Run {
    /// Tiers in which the rank holds this run.
    pub(super) fn tiers(&self, rank: u32) -> u32 {
        match self.position(rank) {
            Ok(at) => tiers_of(self.holders[at]),
            Err(_) => 0,
        }
    }

    fn position(&self, rank: u32) -> Result<usize, usize> {
        self.holders.binary_search_by_key(&rank, |&holder| rank_of(holder))
    }
}

/// The tree.
#[derive(Debug, Default)]
pub(super) struct Runs {
    slots: Vec<Option<Run>>,
    free: Vec<RunId>,
    roots: Children,
    /// Holders over all runs, for the count of bytes.
    holders: usize,
}

impl Runs {
    pub(super) fn get(&self, id: RunId) -> &Run {
        self.slots[id as usize].as_ref().expect("run ids in use are live")
    }

    pub(super) fn get_mut(&mut self, id: RunId) -> &mut Run {
        self.slots[id as usize].as_mut().expect("run ids in use are live")
    }

    pub(super) fn is_live(&self, id: RunId) -> bool {
        self.slots[id as usize].is_some()
    }

    pub(super) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn holders(&self) -> usize {
        self.holders
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RunId> + '_ {
        (0u32..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(id, _)| id)
    }

    /// Child of `parent` (the root for [`NONE`]) that begins with `first`.
    pub(super) fn child(&self, parent: RunId, first: u64) -> Option<RunId> {
        if parent == NONE { self.roots.get(first) } else { self.get(parent).children.get(first) }
    }

    /// A new run under its parent. `run.tokens` is not empty.
    pub(super) fn add(&mut self, run: Run) -> RunId {
        let (parent, first) = (run.parent, run.tokens[0]);
        let id = self.insert(run);
        self.children_of(parent).set(first, id);
        id
    }

    fn insert(&mut self, run: Run) -> RunId {
        self.holders += run.holders.len();
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(run);
            return id;
        }
        self.slots.push(Some(run));
        u32::try_from(self.slots.len() - 1).expect("the byte cap keeps runs far below 2^32")
    }

    fn take(&mut self, id: RunId) -> Run {
        let run = self.slots[id as usize].take().expect("run ids in use are live");
        self.holders -= run.holders.len();
        self.free.push(id);
        run
    }

    fn children_of(&mut self, parent: RunId) -> &mut Children {
        if parent == NONE { &mut self.roots } else { &mut self.get_mut(parent).children }
    }

    /// Takes a leaf out of the tree.
    pub(super) fn remove_leaf(&mut self, id: RunId) -> Run {
        let run = self.take(id);
        debug_assert_eq!(run.children.len(), 0, "only a leaf can go");
        self.children_of(run.parent).remove(run.tokens[0]);
        run
    }

    /// Adds tiers to a rank's hold on a run; true if it had none before.
    pub(super) fn hold(&mut self, id: RunId, rank: u32, tiers: u32) -> bool {
        let run = self.get_mut(id);
        match run.position(rank) {
            Ok(at) => {
                run.holders[at] |= tiers;
                false
            }
            Err(at) => {
                run.holders.insert(at, rank << TIER_BITS | tiers);
                self.holders += 1;
                true
            }
        }
    }

    /// Takes tiers from a rank's hold on a run; true if it holds nothing of it any more.
    pub(super) fn unhold(&mut self, id: RunId, rank: u32, tiers: u32) -> bool {
        let run = self.get_mut(id);
        let Ok(at) = run.position(rank) else { return false };
        run.holders[at] &= !tiers;
        if tiers_of(run.holders[at]) != 0 {
            return false;
        }
        run.holders.remove(at);
        self.holders -= 1;
        true
    }

    /// Cuts a run so that blocks `from..to` of it are a run of their own; returns that run. `from < to`.
    pub(super) fn isolate(&mut self, id: RunId, from: usize, to: usize, arena: &mut Arena) -> RunId {
        let id = if from == 0 { id } else { self.cut(id, from, arena).1 };
        if to - from == self.get(id).tokens.len() { id } else { self.cut(id, to - from, arena).0 }
    }

    /// Cuts a run before block `at`, which is neither 0 nor the length; returns head and tail. The part that is
    /// cheaper to move gets the new id.
    pub(super) fn cut(&mut self, id: RunId, at: usize, arena: &mut Arena) -> (RunId, RunId) {
        let run = self.get(id);
        let tail_len = run.tokens.len() - at;
        if tail_len + run.children.len() <= at { self.cut_tail(id, at, arena) } else { self.cut_head(id, at, arena) }
    }

    fn cut_tail(&mut self, id: RunId, at: usize, arena: &mut Arena) -> (RunId, RunId) {
        let head = self.get_mut(id);
        let tail = Run {
            tokens: head.tokens[at..].to_vec(),
            blocks: head.blocks[at..].to_vec(),
            holders: head.holders.clone(),
            children: std::mem::take(&mut head.children),
            parent: id,
            depth: head.depth + at as u32,
            touched: head.touched,
        };
        head.tokens.truncate(at);
        head.blocks.truncate(at);
        head.tokens.shrink_to_fit();
        head.blocks.shrink_to_fit();
        let new = self.add(tail);
        self.adopt(new, arena);
        (id, new)
    }

    fn cut_head(&mut self, id: RunId, at: usize, arena: &mut Arena) -> (RunId, RunId) {
        let tail = self.get_mut(id);
        let head = Run {
            tokens: tail.tokens.drain(..at).collect(),
            blocks: tail.blocks.drain(..at).collect(),
            holders: tail.holders.clone(),
            children: Children::One(tail.tokens[0], id),
            parent: tail.parent,
            depth: tail.depth,
            touched: tail.touched,
        };
        tail.depth += at as u32;
        tail.tokens.shrink_to_fit();
        tail.blocks.shrink_to_fit();
        let new = self.add(head);
        self.get_mut(id).parent = new;
        for &block in &self.get(new).blocks {
            arena.move_to(block, new);
        }
        (new, id)
    }

    /// Points a run's blocks and children at it.
    fn adopt(&mut self, id: RunId, arena: &mut Arena) {
        for &block in &self.get(id).blocks {
            arena.move_to(block, id);
        }
        let children = std::mem::take(&mut self.get_mut(id).children);
        children.for_each(|child| self.get_mut(child).parent = id);
        self.get_mut(id).children = children;
    }

    /// Joins a run with its parent and with its only child where they have the same holders.
    pub(super) fn join_around(&mut self, id: RunId, arena: &mut Arena) {
        let parent = self.get(id).parent;
        let id = if parent != NONE && self.is_joinable(parent, id) { self.join(parent, id, arena) } else { id };
        if let Some(child) = self.get(id).children.only()
            && self.is_joinable(id, child)
        {
            self.join(id, child, arena);
        }
    }

    fn is_joinable(&self, upper: RunId, lower: RunId) -> bool {
        let (upper, lower) = (self.get(upper), self.get(lower));
        upper.children.len() == 1
            && upper.holders == lower.holders
            && upper.tokens.len() + lower.tokens.len() <= RUN_BLOCKS_MAX
    }

    /// Makes one run of a run and its only child; the cheaper one to move loses its id.
    fn join(&mut self, upper: RunId, lower: RunId, arena: &mut Arena) -> RunId {
        let moves_up = self.get(lower).tokens.len() + self.get(lower).children.len();
        if moves_up <= self.get(upper).tokens.len() {
            let gone = self.take(lower);
            for &block in &gone.blocks {
                arena.move_to(block, upper);
            }
            gone.children.for_each(|child| self.get_mut(child).parent = upper);
            let run = self.get_mut(upper);
            append(&mut run.tokens, &gone.tokens);
            append(&mut run.blocks, &gone.blocks);
            run.children = gone.children;
            run.touched = run.touched.max(gone.touched);
            upper
        } else {
            let gone = self.take(upper);
            for &block in &gone.blocks {
                arena.move_to(block, lower);
            }
            self.children_of(gone.parent).set(gone.tokens[0], lower);
            let run = self.get_mut(lower);
            run.parent = gone.parent;
            run.depth = gone.depth;
            run.touched = run.touched.max(gone.touched);
            run.tokens.splice(..0, gone.tokens);
            run.blocks.splice(..0, gone.blocks);
            lower
        }
    }
}

/// Appends with a quarter of slack: growth stays amortised, and a run wastes little.
pub(super) fn append<T: Copy>(list: &mut Vec<T>, more: &[T]) {
    if list.capacity() - list.len() < more.len() {
        list.reserve_exact(more.len().max(list.len() / 4));
    }
    list.extend_from_slice(more);
}

/// A run can take blocks at its end without growing too long to be cut cheaply.
pub(super) fn has_room(run: &Run, more: usize) -> bool {
    run.tokens.len() + more <= RUN_BLOCKS_MAX
}
