//! Several routers before the same workers, by their bookings alone: what each hears of the others, and when.

use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, PrefillLoadHint};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::space::Space;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use router::index::Overlap;
use router::{
    Booking, Loads, Overlaps, Prompt, Request, RouterConfig, RouterMode, Snapshot, TierBlocks, WorkerView, select,
};
use std::time::Duration;

const BLOCK: u32 = 16;
const WORKERS: u64 = 8;

fn rank(worker: u64) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker), dp_rank: 0 }
}

/// Eight blocks and a token; prompts of other numbers share nothing with it.
fn prompt(number: u32) -> Prompt {
    let from = number * 1_000;
    Prompt::new(&(from..from + 8 * BLOCK + 1).collect::<Vec<_>>(), BLOCK, &Space::default())
}

/// Routers that place requests in turn; each hears of the others' last `unheard` requests only later.
struct Crowd {
    config: RouterConfig,
    views: Vec<WorkerView>,
    overlaps: Overlaps,
    routers: Vec<(Loads, SmallRng)>,
    told: Vec<ActiveSequenceEvent>,
    heard: usize,
    placed: Vec<u64>,
}

impl Crowd {
    fn new(mode: RouterMode, routers: u64, cached_everywhere: u32) -> Self {
        let cached = TierBlocks { device: cached_everywhere, ..TierBlocks::default() };
        Self {
            config: RouterConfig { mode, ..RouterConfig::default() },
            views: (0..WORKERS).map(|worker| WorkerView::of(rank(worker))).collect(),
            overlaps: (0..WORKERS).map(|worker| Overlap { worker: rank(worker), cached }).collect(),
            routers: (0..routers).map(|seed| (Loads::new(BLOCK), SmallRng::seed_from_u64(seed))).collect(),
            told: Vec::new(),
            heard: 0,
            placed: vec![0; WORKERS as usize],
        }
    }

    fn place(&mut self, request: usize, prompt: &Prompt, unheard: usize) {
        let at = request % self.routers.len();
        let (loads, dice) = &mut self.routers[at];
        let snapshot = Snapshot { workers: &self.views, overlaps: &self.overlaps, loads };
        let placed =
            select(&self.config, &Request::of(prompt), &snapshot, request as u64, dice).expect("workers are there");
        let (worker, prefill_tokens) = (placed.worker, placed.prefill_tokens);
        self.placed[worker.worker_id.0 as usize] += 1;
        let request_id = request.to_string();
        loads.book(Booking { request_id: &request_id, worker, prompt, prefill_tokens }, Duration::ZERO);
        let hint =
            PrefillLoadHint { initial_effective_prefill_tokens: prefill_tokens, expected_prefill_duration: None };
        self.told.push(ActiveSequenceEvent {
            request_id,
            worker,
            data: ActiveSequenceChange::AddRequest {
                token_sequence: Some(prompt.block_hashes.clone()),
                track_prefill_tokens: true,
                expected_output_tokens: None,
                prefill_load_hint: Some(hint),
            },
            router_id: at as u64,
            lora_name: None,
        });
        while self.heard + unheard < self.told.len() {
            let event = &self.told[self.heard];
            for (own, (loads, _)) in self.routers.iter_mut().enumerate() {
                loads.apply(event, own as u64, Duration::ZERO);
            }
            self.heard += 1;
        }
    }
}

/// A thousand equal requests that none ends: the busiest worker's share of an even one.
fn spread(mode: RouterMode, routers: u64, cached_everywhere: u32, unheard: usize) -> f64 {
    let mut crowd = Crowd::new(mode, routers, cached_everywhere);
    for request in 0..1_000 {
        crowd.place(request, &prompt(7), unheard);
    }
    assert_eq!(crowd.placed.iter().sum::<u64>(), 1_000);
    let most = crowd.placed.iter().max().copied().unwrap_or(0);
    most as f64 * WORKERS as f64 / 1_000.0
}

#[test]
fn a_thousand_equal_requests_spread_evenly_over_one_router_or_many_told_or_untold() {
    for mode in [RouterMode::Kv, RouterMode::LeastLoaded] {
        for routers in [1, 2, 4, 16] {
            for cached in [0, 8] {
                for unheard in [0, 7, 1_000] {
                    let spread = spread(mode, routers, cached, unheard);
                    assert!(spread < 1.1, "{mode}, {routers} routers, {cached} cached, {unheard} unheard: {spread}");
                }
            }
        }
    }
}

#[test]
fn routers_that_hear_each_other_fill_the_gaps_that_the_others_leave() {
    // 40 requests at 16 routers: each alone has two or three and knows nothing of the rest.
    let busiest = |unheard: usize| {
        let mut crowd = Crowd::new(RouterMode::Kv, 16, 0);
        (0..40).for_each(|request| crowd.place(request, &prompt(request as u32), unheard));
        crowd.placed.iter().max().copied().unwrap_or(0)
    };
    assert_eq!(busiest(0), 5, "an even share");
    assert!(busiest(1_000) > 5, "if they spread unheard, this test shows nothing");
}

#[test]
fn all_routers_see_the_same_load_when_all_is_heard() {
    let mut crowd = Crowd::new(RouterMode::Kv, 4, 0);
    (0..100).for_each(|request| crowd.place(request, &prompt(request as u32 % 9), 0));
    for worker in 0..WORKERS {
        let seen: Vec<_> = crowd.routers.iter().map(|(loads, _)| loads.of(rank(worker))).collect();
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    }
}
