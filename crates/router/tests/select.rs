//! The choice, as tables.

use protocol::ids::{InstanceId, WorkerRank};
use protocol::space::Space;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::index::Overlap;
use router::select::Pin;
use router::{
    Booking, Loads, Overlaps, Placement, Prompt, Request, RouterConfig, RouterMode, SelectError, Snapshot, TierBlocks,
    WorkerView, select,
};
use std::collections::BTreeMap;
use std::time::Duration;

const BLOCK: u32 = 16;

fn rank(worker: u64) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker), dp_rank: 0 }
}

fn prompt(blocks: usize) -> Prompt {
    // One token more than full blocks, so that all of them can be reused.
    let tokens: Vec<u32> = (0..blocks as u32 * BLOCK + 1).collect();
    Prompt::new(&tokens, BLOCK, &Space::default())
}

/// Some other prompt, to make a worker busy.
fn other(blocks: u64, salt: u32) -> Prompt {
    let tokens: Vec<u32> = (0..blocks as u32 * BLOCK).map(|at| 1_000_000 + salt * 10_000 + at).collect();
    Prompt::new(&tokens, BLOCK, &Space::default())
}

/// Workers by number: (worker, cached blocks, busy blocks).
struct World {
    config: RouterConfig,
    views: Vec<WorkerView>,
    overlaps: Overlaps,
    loads: Loads,
}

impl World {
    fn new(mode: RouterMode, workers: &[(u64, u32, u64)]) -> Self {
        let mut loads = Loads::new(BLOCK);
        for &(worker, _, busy) in workers.iter().filter(|(_, _, busy)| *busy > 0) {
            let prompt = other(busy, worker as u32);
            loads.book(
                Booking { request_id: "busy", worker: rank(worker), prompt: &prompt, prefill_tokens: 0 },
                Duration::ZERO,
            );
        }
        let overlap = |&(worker, device, _): &(u64, u32, u64)| Overlap {
            worker: rank(worker),
            cached: TierBlocks { device, ..TierBlocks::default() },
        };
        Self {
            config: RouterConfig { mode, copy_weight: 0.0, ..RouterConfig::default() },
            views: workers.iter().map(|&(worker, _, _)| WorkerView::of(rank(worker))).collect(),
            overlaps: workers.iter().map(overlap).collect(),
            loads,
        }
    }

    fn choose(&self, request: &Request<'_>, turn: u64) -> Result<Placement, SelectError> {
        let snapshot = Snapshot { workers: &self.views, overlaps: &self.overlaps, loads: &self.loads };
        select(&self.config, request, &snapshot, turn, &mut SmallRng::seed_from_u64(turn))
    }

    /// How often each worker is chosen in `turns` turns.
    fn counts(&self, turns: u64) -> BTreeMap<u64, u64> {
        let prompt = prompt(8);
        let mut counts = BTreeMap::new();
        for turn in 0..turns {
            let chosen = self.choose(&Request::of(&prompt), turn).expect("a worker is there").worker.worker_id.0;
            *counts.entry(chosen).or_default() += 1;
        }
        counts
    }
}

/// By Dynamo's formula.
fn check(blocks: usize, workers: &[(u64, u32, u64)], chosen: u64) {
    check_with(0.0, blocks, workers, chosen);
}

fn check_with(copy_weight: f64, blocks: usize, workers: &[(u64, u32, u64)], chosen: u64) {
    let mut world = World::new(RouterMode::Kv, workers);
    world.config.copy_weight = copy_weight;
    for turn in 0..20 {
        let placement = world.choose(&Request::of(&prompt(blocks)), turn).expect("a worker is there");
        assert_eq!(placement.worker, rank(chosen), "{workers:?}: {:?}", placement.why);
    }
}

#[test]
fn a_cached_prefix_wins_until_its_queue_costs_more_than_it_saves() {
    //    prompt    worker, cached, busy    chosen
    check(8, &[(1, 6, 4), (2, 0, 0)], 1);
    check(8, &[(1, 6, 7), (2, 0, 0)], 2);
    check(8, &[(1, 6, 0), (2, 8, 0)], 2);
    check(8, &[(1, 0, 3), (2, 0, 2), (3, 0, 9)], 2);
    // Equal costs (8 saved, 8 busy): fewer active requests win.
    check(8, &[(1, 8, 8), (2, 0, 0)], 2);
}

#[test]
fn a_conversation_stays_at_its_home_until_that_is_much_busier_and_a_shared_beginning_spreads() {
    //                 prompt    worker, cached, busy                   chosen
    // Dynamo's formula leaves the home for one busy request of its length; three copies' weight stays.
    check_with(0.0, 8, &[(1, 6, 7), (2, 0, 0)], 2);
    check_with(3.0, 8, &[(1, 6, 7), (2, 0, 0)], 1);
    check_with(3.0, 8, &[(1, 6, 23), (2, 0, 0)], 1);
    check_with(3.0, 8, &[(1, 6, 25), (2, 0, 0)], 2);
    // The same six blocks at three workers: a fourth copy costs 6 + 3 · 6/3.
    check_with(3.0, 8, &[(1, 6, 11), (2, 6, 12), (3, 6, 12), (4, 0, 0)], 1);
    check_with(3.0, 8, &[(1, 6, 13), (2, 6, 13), (3, 6, 13), (4, 0, 0)], 4);
}

#[test]
fn what_a_running_request_computes_counts_as_cached_before_its_event_comes() {
    let mut world = World::new(RouterMode::Kv, &[(1, 0, 0), (2, 0, 0)]);
    let running = prompt(8);
    let booking = Booking { request_id: "first", worker: rank(2), prompt: &running, prefill_tokens: 129 };
    world.loads.book(booking, Duration::ZERO);
    world.config.copy_weight = 3.0;
    let longer = prompt(12);
    let placement = world.choose(&Request::of(&longer), 0).unwrap();
    assert_eq!((placement.worker, placement.cached_tokens, placement.prefill_tokens), (rank(2), 128, 65));
    world.config.assume_kv_reuse = false;
    assert_eq!(world.choose(&Request::of(&longer), 0).unwrap().worker, rank(1));
    (world.config.assume_kv_reuse, world.config.copy_weight) = (true, 0.0);
    assert_eq!(world.choose(&Request::of(&longer), 0).unwrap().cached_tokens, 0, "Dynamo's formula");
}

#[test]
fn equal_workers_share_the_load() {
    for mode in
        [RouterMode::Kv, RouterMode::LeastLoaded, RouterMode::Random, RouterMode::PowerOfTwo, RouterMode::RoundRobin]
    {
        let counts = World::new(mode, &[(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]).counts(4_000);
        assert!(counts.len() == 4 && counts.values().all(|count| (850..1_150).contains(count)), "{mode}: {counts:?}");
    }
}

#[test]
fn every_mode_chooses_by_its_own_rule() {
    let workers = [(1, 8, 9), (2, 0, 4), (3, 0, 0)];
    let counts = |mode| World::new(mode, &workers).counts(900);
    assert_eq!(counts(RouterMode::RoundRobin), BTreeMap::from([(1, 300), (2, 300), (3, 300)]));
    assert_eq!(counts(RouterMode::LeastLoaded), BTreeMap::from([(3, 900)]));
    let pairs = counts(RouterMode::PowerOfTwo);
    assert!(pairs[&3] > 550 && pairs[&2] > 250 && !pairs.contains_key(&1), "the busiest loses every pair: {pairs:?}");
    assert!(counts(RouterMode::Random).values().all(|count| (240..360).contains(count)));
}

#[test]
fn temperature_spreads_the_choice_but_keeps_the_order() {
    let mut world = World::new(RouterMode::Kv, &[(1, 8, 0), (2, 4, 0), (3, 0, 0)]);
    world.config.temperature = 0.5;
    let warm = world.counts(3_000);
    assert!(warm[&1] > warm[&2] && warm[&2] > warm[&3] && warm[&3] > 50, "{warm:?}");
    // exp(0), exp(-1), exp(-2) over their sum.
    assert!((warm[&1] as f64 / 3_000.0 - 0.665).abs() < 0.03, "{warm:?}");
    world.config.temperature = 0.01;
    assert_eq!(world.counts(300), BTreeMap::from([(1, 300)]));
}

#[test]
fn dead_forbidden_and_busy_workers_are_never_chosen() {
    let world = World::new(RouterMode::Kv, &[(1, 8, 0), (2, 4, 0), (3, 0, 0)]);
    let prompt = prompt(8);
    let all = Request::of(&prompt);
    let chosen = |request: Request<'_>| world.choose(&request, 0).map(|placement| placement.worker.worker_id.0);
    let one = [InstanceId(1)];
    assert_eq!(chosen(Request { excluded: &one, ..all }), Ok(2));
    assert_eq!(chosen(Request { allowed: Some(&[2, 3]), ..all }), Ok(2));
    assert_eq!(chosen(Request { allowed: Some(&[9]), ..all }), Err(SelectError::NoneAllowed));
    let everybody = [InstanceId(1), InstanceId(2), InstanceId(3)];
    assert_eq!(chosen(Request { excluded: &everybody, ..all }), Err(SelectError::NoWorkers));
    let pin = |worker_id, dp_rank| Some(Pin { worker_id: InstanceId(worker_id), dp_rank });
    assert_eq!(chosen(Request { pinned: pin(3, Some(0)), ..all }), Ok(3));
    assert_eq!(chosen(Request { pinned: pin(3, Some(1)), ..all }), Err(SelectError::NoneAllowed));
    let direct = World::new(RouterMode::Direct, &[(1, 0, 0), (2, 0, 0)]);
    assert_eq!(direct.choose(&all, 0).unwrap_err(), SelectError::NotPinned);
    assert_eq!(direct.choose(&Request { pinned: pin(2, None), ..all }, 0).unwrap().worker, rank(2));
}

#[test]
fn a_busy_threshold_refuses_only_when_every_worker_is_over_it() {
    let mut world = World::new(RouterMode::Kv, &[(1, 8, 60), (2, 0, 40)]);
    world.views.iter_mut().for_each(|view| view.total_kv_blocks = Some(100));
    let prompt = prompt(8);
    let mut choose = |share| {
        world.config.active_decode_blocks_threshold = Some(share);
        world.choose(&Request::of(&prompt), 0).map(|placement| placement.worker.worker_id.0)
    };
    assert_eq!(choose(0.7), Ok(2));
    assert_eq!(choose(0.5), Ok(2));
    assert_eq!(choose(0.3), Err(SelectError::AllBusy));
}

#[test]
fn a_placement_says_what_it_reuses_and_why() {
    let world = World::new(RouterMode::Kv, &[(1, 8, 40), (2, 5, 0), (3, 0, 0)]);
    let exact = Prompt::new(&(0..8 * BLOCK).collect::<Vec<_>>(), BLOCK, &Space::default());
    let placement = world.choose(&Request::of(&exact), 0).unwrap();
    assert_eq!((placement.worker, placement.cached.device, placement.cached_tokens), (rank(2), 5, 80));
    assert_eq!((placement.prefill_tokens, placement.candidates), (48, 3));
    // Worker 1 has all 8 blocks, but the last token is always computed: 7 can be reused.
    assert_eq!(placement.best_cached_tokens, 112);
    let order: Vec<u64> = placement.why.iter().map(|row| row.worker.worker_id.0).collect();
    assert_eq!((order, placement.cost), (vec![2, 3, 1], Some(placement.why[0].cost.total)));
    assert_eq!(placement.why[0].cost.total, (8.0 - 5.0) + 8.0);
}

#[test]
fn ranks_of_one_worker_are_candidates_of_their_own() {
    let mut world = World::new(RouterMode::Kv, &[(1, 0, 0)]);
    let second = WorkerRank { worker_id: InstanceId(1), dp_rank: 1 };
    world.views.push(WorkerView::of(second));
    world.overlaps =
        [Overlap { worker: second, cached: TierBlocks { device: 3, ..TierBlocks::default() } }].into_iter().collect();
    assert_eq!(world.choose(&Request::of(&prompt(8)), 0).unwrap().worker, second);
}
