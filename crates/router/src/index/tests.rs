//! The index against the plain version: one map of prefixes per rank.

use super::{Applied, Index, Overlap, Overlaps, TierBlocks, tier_bit};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::{
    BlockHash, KvChange, KvEvent, RemovedBlocks, StorageTier, StoredBlock, StoredBlocks, TokensHash, WorkerKvEvent,
};
use std::collections::HashMap;

/// A prefix, as the hashes of its blocks.
type Prefix = Vec<u64>;

/// What one rank holds: per prefix its tiers and its name.
#[derive(Default)]
struct NaiveRank {
    next: u64,
    held: HashMap<Prefix, (u32, u64)>,
}

impl NaiveRank {
    fn named(&self, name: u64) -> Option<Prefix> {
        self.held.iter().find(|(_, held)| held.1 == name).map(|(prefix, _)| prefix.clone())
    }

    fn change(&mut self, event: &WorkerKvEvent) -> Applied {
        let tier = tier_bit(event.storage_tier);
        match &event.event.data {
            KvChange::Stored(stored) => self.store(tier, stored),
            KvChange::Removed(removed) => {
                let (mut gone, mut unknown) = (0, 0);
                for name in &removed.block_hashes {
                    match self.named(name.0).filter(|prefix| self.held[prefix].0 & tier != 0) {
                        None => unknown += 1,
                        Some(prefix) => {
                            gone += 1;
                            let held = self.held.get_mut(&prefix).unwrap();
                            held.0 &= !tier;
                            if held.0 == 0 {
                                self.held.remove(&prefix);
                            }
                        }
                    }
                }
                Applied::Removed { gone, unknown }
            }
            KvChange::Cleared => Applied::Cleared { gone: std::mem::take(&mut self.held).len() },
        }
    }

    fn store(&mut self, tier: u32, stored: &StoredBlocks) -> Applied {
        let own_parent = |parent| stored.blocks.iter().any(|block| block.block_hash == parent);
        if stored.parent_hash.is_some_and(own_parent) {
            return Applied::ParentUnknown;
        }
        let mut prefix = match stored.parent_hash {
            None => Vec::new(),
            Some(parent) => match self.named(parent.0) {
                None => return Applied::ParentUnknown,
                Some(prefix) => prefix,
            },
        };
        let mut new = 0;
        for block in &stored.blocks {
            prefix.push(block.tokens_hash.0);
            if let Some(other) = self.named(block.block_hash.0)
                && other != prefix
            {
                self.held.remove(&other);
            }
            let held = self.held.entry(prefix.clone()).or_insert((0, 0));
            new += usize::from(held.0 & tier == 0);
            *held = (held.0 | tier, block.block_hash.0);
        }
        Applied::Stored { new, known: stored.blocks.len() - new }
    }

    fn cached(&self, prompt: &[u64]) -> TierBlocks {
        let (mut counts, mut tier) = ([0u32; 4], 0);
        for length in 1..=prompt.len() {
            let tiers = self.held.get(&prompt[..length]).map_or(0, |held| held.0);
            while tier < 4 && tiers >> tier & 1 == 0 {
                tier += 1;
            }
            if tier == 4 {
                break;
            }
            counts[tier] += 1;
        }
        TierBlocks { device: counts[0], host: counts[1], disk: counts[2], external: counts[3] }
    }
}

#[derive(Default)]
struct Naive(HashMap<WorkerRank, NaiveRank>);

impl Naive {
    fn apply(&mut self, event: &WorkerKvEvent) -> Applied {
        let rank = self.0.entry(rank(event.worker_id.0, event.event.dp_rank)).or_default();
        let (expected, got) = (rank.next.max(1), event.event.event_id);
        if got < expected {
            return Applied::Duplicate;
        }
        if got > expected {
            return Applied::Gap { expected, got };
        }
        rank.next = got + 1;
        rank.change(event)
    }

    fn overlap(&self, prompt: &[u64]) -> Overlaps {
        let all = self.0.iter().map(|(&worker, rank)| Overlap { worker, cached: rank.cached(prompt) });
        all.filter(|overlap| overlap.cached.total() > 0).collect()
    }
}

fn rank(worker_id: u64, dp_rank: u32) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker_id), dp_rank }
}

fn event(worker: WorkerRank, event_id: u64, tier: StorageTier, data: KvChange) -> WorkerKvEvent {
    let event = KvEvent { event_id, data, dp_rank: worker.dp_rank };
    WorkerKvEvent { worker_id: worker.worker_id, storage_tier: tier, residency_domain: None, event }
}

fn stored(parent: Option<u64>, blocks: &[(u64, u64)]) -> KvChange {
    let blocks = blocks.iter().map(|&(name, tokens)| StoredBlock {
        block_hash: BlockHash(name),
        tokens_hash: TokensHash(tokens),
        mm_extra_info: None,
    });
    KvChange::Stored(StoredBlocks {
        parent_hash: parent.map(BlockHash),
        start_position: None,
        blocks: blocks.collect(),
    })
}

fn removed(names: &[u64]) -> KvChange {
    KvChange::Removed(RemovedBlocks { block_hashes: names.iter().map(|&name| BlockHash(name)).collect() })
}

/// How a rank names its blocks.
#[derive(Clone, Copy, Debug)]
enum Naming {
    /// As everybody: by the prefix.
    Common,
    /// By the prefix and the rank.
    Salted,
    /// Any of a few names, which collide all the time.
    Wild,
}

#[derive(Clone, Debug)]
enum Step {
    /// Store `prompt[from..]`, named by `wild` when the rank is wild.
    Store {
        prompt: Vec<u64>,
        from: usize,
        wild: Vec<u64>,
    },
    /// Remove blocks of a prompt, or wild names.
    Remove {
        prompt: Vec<u64>,
        from: usize,
        reversed: bool,
        wild: Vec<u64>,
    },
    Clear,
    RemoveRank,
    /// An event with a wrong number.
    OutOfTurn {
        forward: bool,
    },
}

fn prompts() -> impl Strategy<Value = Vec<u64>> {
    // Two letters and up to 8 blocks: prompts share prefixes and branch all the time.
    prop::collection::vec(0u64..2, 1..8)
}

fn steps() -> impl Strategy<Value = Vec<(usize, StorageTier, Step)>> {
    let wild = || prop::collection::vec(0u64..12, 8);
    let step = prop_oneof![
        8 => (prompts(), 0usize..4, wild()).prop_map(|(prompt, from, wild)| Step::Store { prompt, from, wild }),
        6 => (prompts(), 0usize..8, any::<bool>(), wild())
            .prop_map(|(prompt, from, reversed, wild)| Step::Remove { prompt, from, reversed, wild }),
        1 => Just(Step::Clear),
        1 => Just(Step::RemoveRank),
        1 => any::<bool>().prop_map(|forward| Step::OutOfTurn { forward }),
    ];
    let tier =
        prop_oneof![6 => Just(StorageTier::Device), 2 => Just(StorageTier::HostPinned), 1 => Just(StorageTier::Disk)];
    prop::collection::vec((0usize..5, tier, step), 1..120)
}

fn name(naming: Naming, worker: usize, prefix: &[u64], wild: &[u64]) -> u64 {
    let common = prefix.iter().fold(1, |hash: u64, &letter| hash * 4 + letter + 1);
    match naming {
        Naming::Common => common,
        Naming::Salted => common << 8 | worker as u64,
        Naming::Wild => wild[(prefix.len() - 1) % wild.len()],
    }
}

const NAMINGS: [Naming; 5] = [Naming::Common, Naming::Common, Naming::Salted, Naming::Salted, Naming::Wild];

fn change_of(worker: usize, step: &Step) -> Option<KvChange> {
    let naming = NAMINGS[worker];
    match step {
        Step::Store { prompt, from, wild } => {
            let from = (*from).min(prompt.len() - 1);
            let parent = (from > 0).then(|| name(naming, worker, &prompt[..from], wild));
            let block = |end: usize| (name(naming, worker, &prompt[..end], wild), prompt[end - 1]);
            Some(stored(parent, &(from + 1..=prompt.len()).map(block).collect::<Vec<_>>()))
        }
        Step::Remove { prompt, from, reversed, wild } => {
            let from = (*from).min(prompt.len() - 1);
            let mut names: Vec<u64> =
                (from + 1..=prompt.len()).map(|end| name(naming, worker, &prompt[..end], wild)).collect();
            if *reversed {
                names.reverse();
            }
            Some(removed(&names))
        }
        Step::Clear => Some(KvChange::Cleared),
        Step::RemoveRank | Step::OutOfTurn { .. } => None,
    }
}

fn run(steps: &[(usize, StorageTier, Step)], questions: &[Vec<u64>]) {
    let (mut index, mut naive) = (Index::default(), Naive::default());
    for (worker, tier, step) in steps {
        let rank = rank(100 + *worker as u64 / 2, *worker as u32 % 2);
        let next = index.next_event_id(rank);
        if let Some(change) = change_of(*worker, step) {
            let event = event(rank, next, *tier, change);
            assert_eq!(index.apply(&event), naive.apply(&event), "{event:?}");
        } else if let Step::OutOfTurn { forward } = step {
            let event = event(rank, if *forward { next + 2 } else { next - 1 }, *tier, KvChange::Cleared);
            assert_eq!(index.apply(&event), naive.apply(&event));
        } else {
            let held = naive.0.remove(&rank).map_or(0, |rank| rank.held.len());
            assert_eq!(index.remove_rank(rank), held);
        }
        index.check();
        assert_eq!(index.pairs(), naive.0.values().map(|rank| rank.held.len()).sum::<usize>());
    }
    for question in questions {
        let hashes: Vec<TokensHash> = question.iter().map(|&letter| TokensHash(letter)).collect();
        assert_eq!(index.overlap(&hashes), naive.overlap(question), "{question:?}");
    }
    for (&rank, held) in &naive.0 {
        assert_eq!(index.blocks_of(rank), held.held.len());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_index_equals_the_plain_map_after_any_events(
        steps in steps(),
        questions in prop::collection::vec(prompts(), 1..12),
    ) {
        run(&steps, &questions);
    }
}

const DEVICE: StorageTier = StorageTier::Device;

fn letters(text: &str) -> Vec<TokensHash> {
    text.bytes().map(|letter| TokensHash(u64::from(letter))).collect()
}

/// Blocks named by place and letter.
fn blocks(text: &str, from: usize) -> Vec<(u64, u64)> {
    text.bytes()
        .enumerate()
        .map(|(at, letter)| (1000 * (from + at) as u64 + u64::from(letter), u64::from(letter)))
        .collect()
}

#[test]
fn host_counts_on_where_device_ends_and_disk_where_host_ends() {
    let (mut index, a) = (Index::default(), rank(1, 0));
    index.apply(&event(a, 1, DEVICE, stored(None, &blocks("abc", 0))));
    // The host tier repeats one block and goes on; its parent is on the device.
    index.apply(&event(a, 2, StorageTier::HostPinned, stored(Some(1098), &blocks("cd", 2))));
    index.apply(&event(a, 3, StorageTier::Disk, stored(Some(3100), &blocks("e", 4))));
    let cached = index.overlap(&letters("abcdexyz")).of(a);
    assert_eq!(cached, TierBlocks { device: 3, host: 1, disk: 1, external: 0 });
    index.apply(&event(a, 4, DEVICE, removed(&[2099])));
    assert_eq!(index.overlap(&letters("abcde")).of(a), TierBlocks { device: 2, host: 2, disk: 1, external: 0 });
    assert_eq!(index.blocks_of(a), 5);
}

#[test]
fn a_hole_in_the_numbers_changes_nothing_until_it_is_filled_or_given_up() {
    let (mut index, a) = (Index::default(), rank(1, 0));
    assert_eq!(index.apply(&event(a, 1, DEVICE, stored(None, &blocks("a", 0)))), Applied::Stored { new: 1, known: 0 });
    let late = event(a, 3, DEVICE, stored(Some(97), &blocks("b", 1)));
    assert_eq!(index.apply(&late), Applied::Gap { expected: 2, got: 3 });
    assert_eq!(index.overlap(&letters("ab")).of(a).device, 1);
    assert_eq!(index.apply(&event(a, 1, DEVICE, KvChange::Cleared)), Applied::Duplicate);
    index.resume_after(a, 2);
    assert_eq!(index.apply(&late), Applied::Stored { new: 1, known: 0 });
    assert_eq!(index.overlap(&letters("ab")).of(a).device, 2);
}

#[test]
fn a_dump_replaces_what_was_known_and_sets_the_cursor() {
    let (mut index, a, b) = (Index::default(), rank(1, 0), rank(1, 1));
    for worker in [a, b] {
        index.apply(&event(worker, 1, DEVICE, stored(None, &blocks("old", 0))));
    }
    let dump =
        [event(a, 0, DEVICE, stored(None, &blocks("ne", 0))), event(a, 1, DEVICE, stored(Some(1101), &blocks("w", 2)))];
    assert_eq!(index.apply_dump(a, &dump, 17), 3);
    assert_eq!(index.next_event_id(a), 18);
    assert_eq!(index.overlap(&letters("new")).of(a).device, 3);
    assert_eq!(index.overlap(&letters("old")).iter().map(|overlap| overlap.worker).collect::<Vec<_>>(), [b]);
    assert_eq!(index.remove_worker(InstanceId(1)), 6);
    assert_eq!((index.pairs(), index.unique_blocks(), index.known_ranks().count()), (0, 0, 0));
}

#[test]
fn the_byte_cap_forgets_the_oldest_prefixes_and_counts_them() {
    let cap = 200_000;
    let (mut index, a) = (Index::new(cap), rank(1, 0));
    let prompt = |n: u64| (0..10).map(|at| (n * 100 + at + 1, n * 100 + at + 1)).collect::<Vec<_>>();
    let question = |n: u64| prompt(n).iter().map(|&(_, tokens)| TokensHash(tokens)).collect::<Vec<_>>();
    for n in 0..2_000 {
        index.apply(&event(a, n + 1, DEVICE, stored(None, &prompt(n))));
        assert!(index.bytes() <= cap, "{} bytes after {n}", index.bytes());
    }
    index.check();
    assert_eq!(index.blocks_of(a) as u64 + index.evicted_blocks_total(), 20_000);
    assert_eq!(index.overlap(&question(1_999)).of(a).device, 10, "the newest is there");
    assert!(index.overlap(&question(0)).is_empty(), "the oldest is gone");
    // What was forgotten can be removed and used as a parent without harm.
    assert_eq!(index.apply(&event(a, 2_001, DEVICE, removed(&[1]))), Applied::Removed { gone: 0, unknown: 1 });
    assert_eq!(index.apply(&event(a, 2_002, DEVICE, stored(Some(10), &[(9, 9)]))), Applied::ParentUnknown);
}

#[test]
fn the_byte_cap_holds_for_ranks_with_names_of_their_own() {
    let cap = 100_000;
    let mut index = Index::new(cap);
    for n in 0..600u64 {
        for worker in [1, 2] {
            // The same prefixes, named differently by both.
            let blocks: Vec<(u64, u64)> = (0..10).map(|at| ((n * 100 + at) << 8 | worker, n * 100 + at)).collect();
            index.apply(&event(rank(worker, 0), n + 1, DEVICE, stored(None, &blocks)));
            assert!(index.bytes() <= cap);
        }
    }
    index.check();
    assert_eq!(index.pairs() as u64 + index.evicted_blocks_total(), 12_000);
}

#[test]
fn workers_with_common_names_share_one_entry_a_block() {
    let mut index = Index::default();
    for worker in 0..200 {
        index.apply(&event(rank(worker, 0), 1, DEVICE, stored(None, &blocks("system prompt", 0))));
    }
    assert_eq!((index.pairs(), index.unique_blocks()), (200 * 13, 13));
    assert!(index.bytes() / index.pairs() < 15, "{} bytes a pair", index.bytes() / index.pairs());
}
