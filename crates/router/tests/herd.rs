//! A thousand requests in one tick: nobody's answer has begun, no event has come, only the bookings tell them apart.

use protocol::ids::{InstanceId, WorkerRank};
use protocol::space::Space;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::index::Overlap;
use router::{
    Booking, Loads, Overlaps, Prompt, Request, RouterConfig, RouterMode, Snapshot, TierBlocks, WorkerView, select,
};
use std::collections::BTreeMap;
use std::time::Duration;

const BLOCK: u32 = 16;
const REQUESTS: usize = 1_000;
const WORKERS: u64 = 10;

fn rank(worker: u64) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker), dp_rank: 0 }
}

/// A prompt of eight blocks and one token; those of other numbers share nothing with it.
fn prompt(number: usize) -> Prompt {
    let tokens: Vec<u32> = (0..8 * BLOCK + 1).map(|at| number as u32 * 1_000 + at).collect();
    Prompt::new(&tokens, BLOCK, &Space::default())
}

/// Places and books all requests; no worker may get more than 1.1 times its share.
fn check(cached_everywhere: u32, prompt_of: fn(usize) -> Prompt) {
    let views: Vec<WorkerView> = (0..WORKERS).map(|worker| WorkerView::of(rank(worker))).collect();
    let cached = TierBlocks { device: cached_everywhere, ..TierBlocks::default() };
    let overlaps: Overlaps = (0..WORKERS).map(|worker| Overlap { worker: rank(worker), cached }).collect();
    let config = RouterConfig { mode: RouterMode::Kv, ..RouterConfig::default() };
    let (mut loads, mut dice) = (Loads::new(BLOCK), SmallRng::seed_from_u64(23));
    let mut counts = BTreeMap::<WorkerRank, usize>::new();
    for number in 0..REQUESTS {
        let prompt = prompt_of(number);
        let snapshot = Snapshot { workers: &views, overlaps: &overlaps, loads: &loads };
        let request = Request::of(&prompt);
        let placed = select(&config, &request, &snapshot, number as u64, &mut dice).expect("a worker is there");
        let (worker, prefill_tokens) = (placed.worker, placed.prefill_tokens);
        *counts.entry(worker).or_default() += 1;
        let id = number.to_string();
        loads.book(Booking { request_id: &id, worker, prompt: &prompt, prefill_tokens }, Duration::ZERO);
    }
    let most_allowed = REQUESTS / WORKERS as usize * 11 / 10;
    assert!(counts.len() == WORKERS as usize && counts.values().all(|count| *count <= most_allowed), "{counts:?}");
}

#[test]
fn a_thousand_equal_requests_in_one_tick_are_spread_within_a_tenth_of_even() {
    check(0, |_| prompt(7));
}

#[test]
fn so_are_those_whose_prompt_every_worker_has_cached() {
    check(8, |_| prompt(7));
}

#[test]
fn so_are_different_ones() {
    check(0, prompt);
}
