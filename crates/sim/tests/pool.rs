//! The pool through its public face: what its changes tell is what it has.

use protocol::kv::{BlockHash, KvChange, block_hashes, tokens_hashes};
use protocol::space::Space;
use sim::batch::{Batch, BatchLimits, NewSequence, Victim};
use sim::pool::{Pool, PoolFull, SequenceId};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: usize = 4;

/// The set of cached blocks, rebuilt from changes alone.
#[derive(Default)]
struct Rebuilt(BTreeSet<BlockHash>);

impl Rebuilt {
    fn apply(&mut self, changes: Vec<KvChange>) {
        for change in changes {
            match change {
                KvChange::Stored(stored) => {
                    let mut parent = stored.parent_hash;
                    for block in stored.blocks {
                        assert!(
                            parent.is_none_or(|parent| self.0.contains(&parent)),
                            "a stored block's parent is cached"
                        );
                        assert!(self.0.insert(block.block_hash), "a block is stored once");
                        assert_eq!(protocol::kv::block_hash(parent, block.tokens_hash), block.block_hash);
                        parent = Some(block.block_hash);
                    }
                }
                KvChange::Removed(removed) => {
                    removed
                        .block_hashes
                        .iter()
                        .for_each(|hash| assert!(self.0.remove(hash), "a removed block was cached"));
                }
                KvChange::Cleared => self.0.clear(),
            }
        }
    }

    /// Cached tokens that a prompt must be told.
    fn predicts(&self, prompt: &[u32]) -> usize {
        let reusable = prompt.len().saturating_sub(1) / BLOCK;
        let hashes = block_hashes(&tokens_hashes(prompt, BLOCK));
        hashes.iter().take(reusable).take_while(|hash| self.0.contains(hash)).count() * BLOCK
    }
}

/// Dice for tests: the same seed, the same run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn seed() -> u64 {
    Space::default().seed()
}

fn start(pool: &mut Pool, id: u64, prompt: &[u32]) -> Result<usize, PoolFull> {
    let cached = pool.start(SequenceId(id), prompt.to_vec(), seed())?;
    pool.compute(SequenceId(id), prompt.len() - cached);
    Ok(cached)
}

/// A few system prompts with random questions behind them: prefixes are shared and branch.
fn prompt(dice: &mut Dice) -> Vec<u32> {
    let system = dice.below(4) as u32;
    let shared = 4 + dice.below(16);
    let own = 1 + dice.below(24);
    let system = (0..shared as u32).map(|at| system * 100 + at);
    system.chain((0..own).map(|_| dice.below(3) as u32 + 1_000)).collect()
}

#[test]
fn after_1000_requests_with_eviction_and_preemption_the_changes_tell_exactly_what_is_cached() {
    for round in 0..8 {
        let mut dice = Dice(round);
        let (mut pool, mut rebuilt) = (Pool::new(BLOCK, 30), Rebuilt::default());
        let (mut running, mut waiting): (Vec<SequenceId>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
        let (mut started, mut preempted, mut hits) = (0, 0, 0);
        while started < 1_000 {
            if waiting.is_empty() {
                waiting.push(prompt(&mut dice));
            }
            if running.len() < 6 && dice.below(3) == 0 {
                let (id, prompt) = (SequenceId(started), waiting.last().unwrap().clone());
                if let Ok(cached) = pool.start(id, prompt.clone(), seed()) {
                    assert_eq!(cached, rebuilt.predicts(&prompt));
                    waiting.pop();
                    running.push(id);
                    (started, hits) = (started + 1, hits + u64::from(cached > 0));
                }
            } else if !running.is_empty() {
                let at = dice.below(running.len() as u64) as usize;
                let id = running[at];
                match (pool.uncomputed(id), dice.below(12)) {
                    (_, 0) => pool.end(running.remove(at)),
                    (0, _) if pool.append(id, 2_000 + dice.below(2) as u32).is_err() => {
                        waiting.push(pool.tokens(id).to_vec());
                        pool.end(running.remove(at));
                        preempted += 1;
                    }
                    (0, _) => {}
                    (left, _) => pool.compute(id, 1 + dice.below(left as u64) as usize),
                }
            }
            rebuilt.apply(pool.take_changes());
            assert_eq!(rebuilt.0, pool.cached_blocks().collect());
            assert!(pool.used_blocks() <= pool.capacity());
        }
        running.drain(..).for_each(|id| pool.end(id));
        assert_eq!((pool.active_blocks(), pool.used_blocks()), (0, rebuilt.0.len()));
        assert!(preempted > 5 && hits > 100, "round {round}: {preempted} preempted, {hits} hits");
    }
}

/// Runs 1,000 random requests to their end and holds the changes against the pool after every step. Gives the
/// preemptions.
fn run_1000_requests(limits: BatchLimits) -> usize {
    let mut dice = Dice(1);
    let mut batch = Batch::new(limits, Pool::new(BLOCK, 30));
    let (mut rebuilt, mut left, mut texts) = (Rebuilt::default(), BTreeMap::new(), BTreeMap::new());
    let mut unstarted = BTreeMap::new();
    let (mut added, mut preempted, mut started) = (0u64, 0, 0);
    while added < 1_000 || !batch.is_idle() {
        while added < 1_000 && dice.below(3) == 0 {
            let (id, prompt) = (SequenceId(added), prompt(&mut dice));
            left.insert(id, 1 + dice.below(30) as usize);
            texts.insert(id, prompt.clone());
            unstarted.insert(id, prompt.clone());
            batch.add(NewSequence { id, prompt, seed: seed() });
            added += 1;
        }
        let first_new = unstarted.first_key_value().map(|(&id, prompt)| (id, rebuilt.predicts(prompt)));
        // The next token is the number of tokens before it: a lost or doubled one would show.
        let step = batch.step(&mut |id| texts[&id].len() as u32);
        let changes = batch.pool_mut().take_changes();
        if let [started] = step.started[..]
            && changes.is_empty()
        {
            assert_eq!(Some(started), first_new);
        }
        step.started.iter().for_each(|(id, _)| assert!(unstarted.remove(id).is_some(), "it starts once"));
        rebuilt.apply(changes);
        assert_eq!(rebuilt.0, batch.pool().cached_blocks().collect());
        if limits.chunked_prefill {
            assert!(step.shape.computed_tokens() <= limits.max_num_batched_tokens);
        }
        assert!(batch.running() <= limits.max_num_seqs);
        (preempted, started) = (preempted + step.preempted.len(), started + step.started.len());
        for (id, token) in step.emitted {
            let text = texts.get_mut(&id).expect("a sequence that emits has a text");
            assert_eq!(token as usize, text.len());
            text.push(token);
            assert_eq!(batch.tokens(id), Some(text.as_slice()), "preempted or not, it has every token once");
            *left.get_mut(&id).expect("and tokens left") -= 1;
            if left[&id] == 0 {
                assert!(batch.end(id), "an emitting sequence is there to be ended");
                texts.remove(&id);
            }
        }
    }
    assert_eq!((started, batch.pool().active_blocks()), (1_000, 0));
    assert!(left.values().all(|&left| left == 0));
    preempted
}

#[test]
fn a_batch_runs_1000_requests_to_their_end_and_its_changes_tell_its_pool_whatever_its_limits() {
    let plain = BatchLimits::new(6, 17);
    //                 limits                                             preempts at least
    for (limits, least) in [
        (plain, 10),
        (BatchLimits { victim: Victim::Oldest, ..plain }, 10),
        (BatchLimits { chunked_prefill: false, ..plain }, 10),
        (BatchLimits { watermark_blocks: 4, ..plain }, 1),
        (BatchLimits { max_num_seqs: 1, ..plain }, 0),
    ] {
        let preempted = run_1000_requests(limits);
        assert!(preempted >= least, "{limits:?}: {preempted} preempted");
        assert!(least > 0 || preempted == 0, "{limits:?}: nobody is in the way of a single sequence");
    }
    let reserved = run_1000_requests(BatchLimits { watermark_blocks: 6, ..plain });
    let unreserved = run_1000_requests(plain);
    assert!(reserved < unreserved, "blocks in reserve spare preemptions: {reserved}, {unreserved} without");
}

#[test]
fn only_whole_blocks_are_reused_and_never_the_whole_prompt() {
    let mut pool = Pool::new(BLOCK, 100);
    let tokens: Vec<u32> = (0..12).collect();
    assert_eq!(start(&mut pool, 1, &tokens), Ok(0));
    //       prompt                          cached
    for (id, (length, cached)) in [(12, 8), (11, 8), (9, 8), (8, 4), (5, 4), (4, 0), (1, 0)].into_iter().enumerate() {
        assert_eq!(start(&mut pool, 10 + id as u64, &tokens[..length]), Ok(cached), "{length} tokens");
    }
}

#[test]
fn spaces_share_nothing_and_a_pool_without_prefix_caching_tells_nothing() {
    let tokens: Vec<u32> = (0..12).collect();
    let salted = Space { lora: None, salt: Some("tenant".into()) }.seed();
    let mut pool = Pool::new(BLOCK, 100);
    start(&mut pool, 1, &tokens).unwrap();
    assert_eq!(pool.start(SequenceId(2), tokens.clone(), salted), Ok(0));
    let mut plain = Pool::new(BLOCK, 100).without_prefix_caching();
    start(&mut plain, 1, &tokens).unwrap();
    assert_eq!((start(&mut plain, 2, &tokens), plain.take_changes()), (Ok(0), Vec::new()));
    assert_eq!(plain.active_blocks(), 6);
}

#[test]
fn a_full_pool_refuses_and_changes_nothing_until_a_sequence_ends() {
    let mut pool = Pool::new(BLOCK, 4);
    start(&mut pool, 1, &(0..12).collect::<Vec<_>>()).unwrap();
    pool.take_changes();
    let other: Vec<u32> = (100..112).collect();
    assert_eq!(start(&mut pool, 2, &other), Err(PoolFull { needed: 3, available: 1 }));
    assert_eq!((pool.used_blocks(), pool.take_changes()), (3, Vec::new()));
    assert!(!pool.clear(), "blocks are in use");
    pool.end(SequenceId(1));
    assert_eq!((pool.used_blocks(), pool.available_blocks()), (3, 4), "cached blocks stay until room is needed");
    assert_eq!(start(&mut pool, 2, &other), Ok(0));
    let KvChange::Removed(removed) = &pool.take_changes()[0] else { panic!("room was made first") };
    let first = block_hashes(&tokens_hashes(&(0..12).collect::<Vec<_>>(), BLOCK));
    assert_eq!(removed.block_hashes, [first[2], first[1]], "the end of a prefix goes before its beginning");
}
