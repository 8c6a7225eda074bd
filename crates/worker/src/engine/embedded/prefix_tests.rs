//! The prefix cache against a naive model: KV memory as a list of cells, and the cache rebuilt from its events alone.

use super::{BlockId, Parent, Place, PrefixCache, Stored};
use crate::engine::embedded::namespace::Namespace;
use proptest::prelude::*;
use protocol::kv::{BlockHash, KvChange, block_hashes, tokens_hashes};
use std::collections::HashSet;

const BLOCK: usize = 4;
const HOLDERS: u32 = 5;
const POOL_BLOCKS: usize = 12;

/// A cache, a pool of cells that does what llama.cpp's does, the blocks copied out of it, and a router's view of the
/// events.
struct World {
    cache: PrefixCache,
    cells: HashSet<(u32, u32)>,
    parked: HashSet<BlockId>,
    known: HashSet<BlockHash>,
}

impl World {
    fn new() -> Self {
        let cache = PrefixCache::new(BLOCK as u32, HOLDERS);
        Self { cache, cells: HashSet::new(), parked: HashSet::new(), known: HashSet::new() }
    }

    fn take_cells(&mut self, place: Place) {
        assert!(self.cells.insert((place.holder, place.depth)), "a place keeps one block");
    }

    fn drop_cells(&mut self, place: Place) {
        assert!(self.cells.remove(&(place.holder, place.depth)), "freed cells were held");
    }

    fn pin(&mut self, tip: BlockId) {
        for (block, place) in self.cache.pin(tip) {
            assert!(self.parked.contains(&block), "what has no cells was copied out");
            self.take_cells(place);
        }
    }

    fn unpin(&mut self, tip: BlockId) {
        for (block, place) in self.cache.unpin(tip) {
            self.drop_cells(place);
            self.parked.insert(block);
        }
    }

    /// Runs a prompt through as the only one: reuses what is cached, stores the rest, evicts for room. Gives the reused blocks.
    fn run(&mut self, prompt: &[u32]) -> usize {
        let pinned = self.cache.pinned();
        let hit = matched(&self.cache, Namespace::PLAIN, prompt);
        let mut tip = hit.last().copied();
        if let Some(tip) = tip {
            self.pin(tip);
        }
        for (depth, tokens) in prompt.chunks_exact(BLOCK).enumerate().skip(hit.len()) {
            if self.cache.len() == POOL_BLOCKS {
                let Some(block) = self.cache.evict_one() else { break };
                assert!(self.parked.remove(&block), "only what nobody uses is evicted");
            }
            let Some(block) = self.store(tip, depth as u32, tokens) else { break };
            tip = Some(block);
        }
        if let Some(tip) = tip {
            self.unpin(tip);
        }
        assert_eq!(self.cache.pinned(), pinned, "who has left pins nothing");
        self.apply_events();
        hit.len()
    }

    fn store(&mut self, tip: Option<BlockId>, depth: u32, tokens: &[u32]) -> Option<BlockId> {
        let parent = tip.map_or(Parent::Root, Parent::Block);
        match self.cache.store(Namespace::PLAIN, parent, depth, tokens) {
            Stored::New { block, place } => {
                self.take_cells(place);
                Some(block)
            }
            Stored::Known { block, .. } => Some(block),
            Stored::Refused => None,
        }
    }

    fn apply_events(&mut self) {
        for change in self.cache.take_changes() {
            match change {
                KvChange::Stored(stored) => {
                    let mut parent = stored.parent_hash;
                    for block in stored.blocks {
                        assert!(parent.is_none_or(|hash| self.known.contains(&hash)), "a parent is stored first");
                        assert!(self.known.insert(block.block_hash), "a block is stored once");
                        assert_eq!(block.block_hash, protocol::kv::block_hash(parent, block.tokens_hash));
                        parent = Some(block.block_hash);
                    }
                }
                KvChange::Removed(removed) => {
                    removed.block_hashes.iter().for_each(|hash| assert!(self.known.remove(hash), "removed once"));
                }
                KvChange::Cleared => self.known.clear(),
            }
        }
        let held: HashSet<BlockHash> = self.cache.block_hashes().collect();
        assert_eq!(held, self.known, "the events tell the cache");
        assert_eq!(
            self.cells.len(),
            self.cache.pinned(),
            "every pinned block has its cells and no cells are left over"
        );
        assert!(self.parked.len() <= self.cache.len(), "bytes go with their block");
    }

    /// What a router that only saw the events would expect.
    fn predicted(&self, prompt: &[u32]) -> usize {
        let names = block_hashes(&tokens_hashes(prompt, BLOCK));
        names.iter().take_while(|name| self.known.contains(name)).count()
    }
}

/// The cached blocks that `tokens` starts with.
fn matched(cache: &PrefixCache, namespace: Namespace, tokens: &[u32]) -> Vec<BlockId> {
    let mut found: Vec<BlockId> = Vec::new();
    for block_tokens in tokens.chunks_exact(BLOCK) {
        let parent = found.last().map_or(Parent::Root, |&block| Parent::Block(block));
        let Some(block) = cache.child(namespace, parent, block_tokens) else { break };
        found.push(block);
    }
    found
}

fn prompt(parts: &[u32]) -> Vec<u32> {
    parts.iter().flat_map(|&part| (0..BLOCK as u32).map(move |i| part * 100 + i)).collect()
}

#[test]
fn a_prompt_that_came_before_is_found_whole_and_a_fork_is_found_to_the_fork() {
    let mut world = World::new();
    assert_eq!(world.run(&prompt(&[1, 2, 3])), 0);
    assert_eq!(world.run(&prompt(&[1, 2, 3])), 3);
    assert_eq!(world.run(&prompt(&[1, 2, 9, 3])), 2);
    assert_eq!(world.run(&prompt(&[2, 3])), 0, "the same blocks elsewhere are other blocks");
}

#[test]
fn the_prefix_that_was_used_last_outlives_the_others() {
    let mut world = World::new();
    for first in 0..4 {
        world.run(&prompt(&[first, 50, 51]));
    }
    world.run(&prompt(&[0, 50, 51]));
    world.run(&prompt(&[7, 8, 9]));
    let left: Vec<usize> = (0..4).map(|first| world.predicted(&prompt(&[first, 50, 51]))).collect();
    assert_eq!(left, [3, 0, 3, 3], "prompt 1 is the oldest");
}

#[test]
fn one_holder_keeps_a_whole_prompt_so_that_a_hit_is_one_copy() {
    let mut world = World::new();
    world.run(&prompt(&[1, 2, 3, 4]));
    let blocks = matched(&world.cache, Namespace::PLAIN, &prompt(&[1, 2, 3, 4]));
    world.pin(blocks[3]);
    let holders: HashSet<u32> = blocks.iter().map(|&block| world.cache.place(block).holder).collect();
    assert_eq!(holders.len(), 1);
}

#[test]
fn more_prompts_than_holders_are_cached_and_each_is_brought_back() {
    let mut world = World::new();
    for first in 0..2 * HOLDERS {
        world.run(&prompt(&[first]));
    }
    for first in 0..2 * HOLDERS {
        assert_eq!(world.run(&prompt(&[first])), 1);
    }
}

#[test]
fn a_block_that_is_computed_again_beside_its_parked_copy_takes_the_fresh_cells() {
    let mut world = World::new();
    world.run(&prompt(&[1, 2]));
    let first = matched(&world.cache, Namespace::PLAIN, &prompt(&[1]))[0];
    world.pin(first);
    let second = world.store(Some(first), 1, &prompt(&[2])).unwrap();
    assert_eq!(world.cells.len(), 2, "the computed cells were kept");
    world.unpin(second);
    world.apply_events();
}

#[test]
fn a_pinned_prompt_is_never_evicted() {
    let mut world = World::new();
    world.run(&prompt(&[1, 2]));
    let tip = matched(&world.cache, Namespace::PLAIN, &prompt(&[1, 2]))[1];
    world.pin(tip);
    for first in 10..40 {
        world.run(&prompt(&[first, 50, 51]));
    }
    assert_eq!(world.predicted(&prompt(&[1, 2])), 2);
    assert_eq!(world.cache.pinned(), 2);
    world.unpin(tip);
    for first in 10..40 {
        world.run(&prompt(&[first, 50, 51]));
    }
    assert_eq!(world.predicted(&prompt(&[1, 2])), 0);
}

#[test]
fn clearing_tells_once_and_leaves_nothing() {
    let mut world = World::new();
    world.run(&prompt(&[1, 2]));
    world.cache.clear();
    world.cells.clear();
    world.parked.clear();
    world.apply_events();
    assert_eq!(world.predicted(&prompt(&[1, 2])), 0);
    world.cache.clear();
    assert_eq!(world.cache.take_changes(), [], "an empty cache has nothing to tell");
}

#[test]
fn another_namespace_shares_nothing() {
    let hints = protocol::request::RoutingHints { cache_salt: Some("tenant".into()), ..Default::default() };
    let salted = Namespace::of(Some(&hints));
    let mut world = World::new();
    world.run(&prompt(&[1, 2]));
    assert!(matched(&world.cache, salted, &prompt(&[1, 2])).is_empty());
}

proptest! {
    #[test]
    fn any_run_of_prompts_leaves_events_cells_and_hits_in_agreement(
        prompts in prop::collection::vec(prop::collection::vec(0u32..4, 1..6), 1..80)
    ) {
        let mut world = World::new();
        for parts in prompts {
            let tokens = prompt(&parts);
            let expected = world.predicted(&tokens);
            prop_assert_eq!(world.run(&tokens), expected);
            prop_assert!(world.cache.len() <= POOL_BLOCKS);
        }
    }
}
