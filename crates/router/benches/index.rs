//! The prefix index at the size of the peers' benchmark: sequences of one length, first half shared in a group,
//! stored in events of 16 blocks, each worker's sequences in turn. `cargo bench -p router`. Prints medians of rounds.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints its figures")]
#![allow(unsafe_code, reason = "a counting allocator, to measure bytes a pair")]

use protocol::ids::InstanceId;
use protocol::kv::{
    BlockHash, KvChange, KvEvent, RemovedBlocks, StorageTier, StoredBlock, StoredBlocks, TokensHash, WorkerKvEvent,
    block_hashes,
};
use router::Index;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

struct Counting;
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds whose median is printed.
const ROUNDS: usize = 5;
/// Blocks of one event.
const EVENT_BLOCKS: usize = 16;
/// Questions of one round.
const QUESTIONS: usize = 2_000;

struct Shape {
    workers: u64,
    pairs: usize,
    blocks: usize,
    groups: u64,
    /// Workers name equal blocks equally.
    common_names: bool,
}

fn spread(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Tokens hashes of sequence `number`: the group's half, then its own.
fn sequence(shape: &Shape, number: u64) -> Vec<TokensHash> {
    let (group, half) = (number % shape.groups, shape.blocks as u64 / 2);
    let block = |at: u64| if at < half { spread(group << 32 | at) } else { spread((number + 1) << 48 | at) };
    (0..shape.blocks as u64).map(|at| TokensHash(block(at))).collect()
}

fn event(worker: u64, event_id: u64, data: KvChange) -> WorkerKvEvent {
    let event = KvEvent { event_id, data, dp_rank: 0 };
    WorkerKvEvent { worker_id: InstanceId(worker), storage_tier: StorageTier::Device, residency_domain: None, event }
}

/// Store events and, after them, the removals of the unique half of every tenth sequence.
fn events(shape: &Shape) -> (Vec<WorkerKvEvent>, Vec<WorkerKvEvent>) {
    let mut next = vec![1u64; shape.workers as usize];
    let mut turn = |worker: u64| {
        let id = next[worker as usize];
        next[worker as usize] += 1;
        id
    };
    let (mut stores, mut removals) = (Vec::new(), Vec::new());
    let count = (shape.pairs / shape.blocks) as u64;
    let named = |number: u64, tokens: &[TokensHash]| -> Vec<BlockHash> {
        let salt = if shape.common_names { 0 } else { spread(number % shape.workers) };
        block_hashes(tokens).into_iter().map(|hash| BlockHash(hash.0 ^ salt)).collect()
    };
    for number in 0..count {
        let tokens = sequence(shape, number);
        let names = named(number, &tokens);
        for from in (0..tokens.len()).step_by(EVENT_BLOCKS) {
            let to = (from + EVENT_BLOCKS).min(tokens.len());
            let block = |at: usize| StoredBlock { block_hash: names[at], tokens_hash: tokens[at], mm_extra_info: None };
            let stored = StoredBlocks {
                parent_hash: from.checked_sub(1).map(|at| names[at]),
                start_position: None,
                blocks: (from..to).map(block).collect(),
            };
            let worker = number % shape.workers;
            stores.push(event(worker, turn(worker), KvChange::Stored(stored)));
        }
    }
    for number in (0..count).step_by(10) {
        let names = named(number, &sequence(shape, number));
        let worker = number % shape.workers;
        let removed = RemovedBlocks { block_hashes: names[shape.blocks / 2..].to_vec() };
        removals.push(event(worker, turn(worker), KvChange::Removed(removed)));
    }
    (stores, removals)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of this thread, nanoseconds: other processes do not count. Linux only.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn run(shape: &Shape) {
    let (stores, removals) = events(shape);
    let count = (shape.pairs / shape.blocks) as u64;
    let questions: Vec<Vec<TokensHash>> = (0..QUESTIONS as u64)
        .map(|n| {
            let tail = (0..shape.blocks as u64 / 4).map(|at| TokensHash(spread(u64::MAX - (n << 20 | at))));
            sequence(shape, spread(n) % count).into_iter().chain(tail).collect()
        })
        .collect();
    let (mut store, mut find50, mut find99, mut remove) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut counted, mut unique, mut matched, mut held) = (0, 0, 0, 0, 0);
    let pairs = count as usize * shape.blocks;
    for _ in 0..ROUNDS {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let mut index = Index::new(usize::MAX);
        let start = cpu_ns();
        for event in &stores {
            black_box(index.apply(event));
        }
        store.push((cpu_ns() - start) / pairs as f64);
        (bytes, counted, unique) = (ALLOCATED.load(Ordering::Relaxed) - before, index.bytes(), index.unique_blocks());
        held = index.pairs();
        let mut times: Vec<f64> = Vec::with_capacity(QUESTIONS);
        matched = 0;
        for question in &questions {
            let start = Instant::now();
            let overlaps = black_box(index.overlap(question));
            times.push(start.elapsed().as_secs_f64() * 1e6);
            matched += overlaps.iter().count();
        }
        times.sort_unstable_by(f64::total_cmp);
        find50.push(times[times.len() / 2]);
        find99.push(times[times.len() * 99 / 100]);
        let start = cpu_ns();
        for event in &removals {
            black_box(index.apply(event));
        }
        remove.push((cpu_ns() - start) / (removals.len() * shape.blocks / 2) as f64);
        assert_eq!(index.pairs(), held - removals.len() * shape.blocks / 2, "every removal was of a stored block");
    }
    println!(
        "| {} | {} | {} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
        shape.workers,
        pairs,
        held,
        shape.blocks,
        shape.groups,
        if shape.common_names { "common" } else { "own" },
        median(store),
        median(find50),
        median(find99),
        median(remove),
        bytes as f64 / pairs as f64,
        bytes as f64 / unique as f64,
        counted as f64 / pairs as f64,
        matched as f64 / QUESTIONS as f64,
    );
}

fn main() {
    println!(
        "| workers | pairs stored | held | seq blocks | groups | names | store ns/block | find p50 us | p99 us | remove ns/block | bytes/pair | bytes/unique | counted bytes/pair | workers matched |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let shape = |workers, pairs, blocks, groups, common_names| Shape { workers, pairs, blocks, groups, common_names };
    run(&shape(100, 100_000, 64, 64, true));
    run(&shape(200, 1_000_000, 256, 64, true));
    run(&shape(200, 1_000_000, 256, 64, false));
    run(&shape(200, 1_000_000, 256, 1, true));
    run(&shape(500, 1_000_000, 512, 64, true));
}
