//! Bookings against the plain sum of what is live.

use proptest::prelude::{Strategy, any, prop};
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent, PrefillLoadHint};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::BlockHash;
use protocol::space::Space;
use router::loads::{REMOTE_AGE_MAX, REMOTE_BLOCKS_MAX, REMOTE_BOOKINGS_MAX};
use router::{Booking, BookingId, Loads, Prompt, RankLoad};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const BLOCK: u32 = 4;

fn rank(worker: u64) -> WorkerRank {
    WorkerRank { worker_id: InstanceId(worker), dp_rank: 0 }
}

/// Prompts of one family share their beginnings.
fn prompt(family: u32, tokens: u32) -> Prompt {
    Prompt::new(&(0..tokens).map(|at| family * 1_000 + at).collect::<Vec<_>>(), BLOCK, &Space::default())
}

fn book(loads: &mut Loads, id: &str, worker: u64, prompt: &Prompt, prefill_tokens: u64, at: u64) -> BookingId {
    loads.book(Booking { request_id: id, worker: rank(worker), prompt, prefill_tokens }, Duration::from_secs(at))
}

fn load(prefill: u64, blocks: u64, requests: u64) -> RankLoad {
    RankLoad { active_prefill_tokens: prefill, active_decode_blocks: blocks, active_requests: requests }
}

#[test]
fn a_booking_counts_from_its_making_to_its_end_and_shared_blocks_once() {
    let mut loads = Loads::new(BLOCK);
    let (long, short) = (prompt(1, 18), prompt(1, 9));
    let one = book(&mut loads, "one", 1, &long, 18, 0);
    assert_eq!(loads.of(rank(1)), load(18, 5, 1));
    let two = book(&mut loads, "two", 1, &short, 1, 0);
    // Two full blocks are shared; the ninth token's block is its own.
    assert_eq!((loads.of(rank(1)), loads.shared_blocks(rank(1), &short)), (load(19, 6, 2), 2));
    loads.mark_prefill_completed(one);
    loads.mark_prefill_completed(one);
    loads.grow(one, 7);
    assert_eq!(loads.of(rank(1)), load(1, 8, 2));
    assert!(loads.free(one) && !loads.free(one));
    assert_eq!(loads.of(rank(1)), load(1, 3, 1));
    assert!(loads.free(two));
    assert_eq!((loads.of(rank(1)), loads.len()), (load(0, 0, 0), 0));
}

#[test]
fn bookings_leave_with_their_worker() {
    let (mut loads, now) = (Loads::new(BLOCK), Duration::ZERO);
    let prompt = prompt(1, 8);
    let ours = book(&mut loads, "ours", 1, &prompt, 8, 0);
    book(&mut loads, "else", 2, &prompt, 8, 0);
    assert!(loads.apply(&event("a", 8, add(&[1, 2], 8)), 7, now));
    assert_eq!((loads.remove_worker(InstanceId(1)), loads.remote_len()), (2, 0));
    assert_eq!((loads.of(rank(1)), loads.of(rank(2))), (load(0, 0, 0), load(8, 2, 1)));
    // What ends later on that worker takes nothing from whoever is there by then.
    book(&mut loads, "later", 1, &prompt, 8, 0);
    assert!(!loads.free(ours) && !loads.apply(&event("a", 8, ActiveSequenceChange::Free), 7, now));
    assert_eq!(loads.of(rank(1)), load(8, 2, 1));
}

fn event(id: &str, router_id: u64, data: ActiveSequenceChange) -> ActiveSequenceEvent {
    ActiveSequenceEvent { request_id: id.into(), worker: rank(1), data, router_id, lora_name: None }
}

fn add(blocks: &[u64], tokens: u64) -> ActiveSequenceChange {
    ActiveSequenceChange::AddRequest {
        token_sequence: Some(blocks.iter().copied().map(BlockHash).collect()),
        track_prefill_tokens: true,
        expected_output_tokens: None,
        prefill_load_hint: Some(PrefillLoadHint {
            initial_effective_prefill_tokens: tokens,
            expected_prefill_duration: None,
        }),
    }
}

#[test]
fn what_other_routers_book_counts_and_our_own_echo_does_not() {
    let (mut loads, now) = (Loads::new(BLOCK), Duration::ZERO);
    assert!(!loads.apply(&event("a", 7, add(&[1, 2], 8)), 7, now), "our own echo");
    assert!(loads.apply(&event("a", 8, add(&[1, 2], 8)), 7, now));
    assert!(!loads.apply(&event("a", 8, add(&[1, 2], 8)), 7, now), "told twice");
    // Two blocks that were told, and the one that never is: the prompt's partial one.
    assert_eq!(loads.of(rank(1)), load(8, 3, 1));
    // The worker itself says that the prompt is computed.
    assert!(loads.apply(&event("a", 1, ActiveSequenceChange::MarkPrefillCompleted), 7, now));
    assert_eq!(loads.of(rank(1)), load(0, 3, 1));
    assert!(loads.apply(&event("a", 8, ActiveSequenceChange::Free), 7, now));
    assert!(!loads.apply(&event("a", 8, ActiveSequenceChange::Free), 7, now));
    assert!(loads.is_empty() && loads.of(rank(1)) == load(0, 0, 0));
}

#[test]
fn only_who_booked_a_request_frees_it_even_when_two_routers_use_one_id() {
    let (mut loads, now) = (Loads::new(BLOCK), Duration::ZERO);
    let ours = book(&mut loads, "same", 1, &prompt(1, 8), 8, 0);
    for router in [8, 9] {
        assert!(loads.apply(&event("same", router, add(&[1, 2], 5)), 7, now), "{router}");
    }
    assert_eq!(loads.of(rank(1)), load(8 + 5 + 5, 2 + 2 + 2, 3));
    assert!(!loads.apply(&event("same", 10, ActiveSequenceChange::Free), 7, now), "who never booked it");
    assert!(loads.apply(&event("same", 8, ActiveSequenceChange::MarkPrefillCompleted), 7, now));
    assert_eq!(loads.of(rank(1)).active_prefill_tokens, 8 + 5);
    assert!(loads.apply(&event("same", 8, ActiveSequenceChange::Free), 7, now));
    assert!(loads.free(ours));
    assert_eq!((loads.of(rank(1)), loads.len()), (load(5, 3, 1), 1));
    assert_eq!((loads.forget_router(9), loads.forget_router(9), loads.len()), (1, 0, 0));
}

#[test]
fn a_request_that_goes_on_at_another_worker_counts_there_alone() {
    let (mut loads, now) = (Loads::new(BLOCK), Duration::ZERO);
    assert!(loads.apply(&event("a", 8, add(&[1, 2], 8)), 7, now));
    // The end at the first worker is never told.
    let moved = ActiveSequenceEvent { worker: rank(2), ..event("a", 8, add(&[1, 2, 3], 12)) };
    assert!(loads.apply(&moved, 7, now));
    assert_eq!((loads.of(rank(1)), loads.of(rank(2))), (load(0, 0, 0), load(12, 4, 1)));
    // A worker that speaks of a request that is elsewhere by now changes nothing.
    assert!(!loads.apply(&event("a", 1, ActiveSequenceChange::MarkPrefillCompleted), 7, now));
    assert_eq!((loads.of(rank(2)), loads.remote_len()), (load(12, 4, 1), 1));
}

#[test]
fn what_other_routers_never_end_ends_by_age_and_our_own_does_not() {
    let mut loads = Loads::new(BLOCK);
    let prompt = prompt(1, 8);
    let ours = book(&mut loads, "ours", 1, &prompt, 8, 0);
    assert!(loads.apply(&event("old", 8, add(&[1, 2], 8)), 7, Duration::from_secs(5)));
    let late = REMOTE_AGE_MAX + Duration::from_secs(5);
    assert!(loads.apply(&event("young", 8, add(&[1, 2], 8)), 7, late));
    assert_eq!(loads.remote_len(), 2, "not older than the limit");
    book(&mut loads, "next", 2, &prompt, 8, late.as_secs() + 20);
    assert_eq!((loads.remote_len(), loads.len()), (1, 3));
    assert!(loads.free(ours));
}

#[test]
fn what_other_routers_bring_is_bounded_in_number_and_in_blocks_and_no_sum_overflows() {
    let (mut loads, now) = (Loads::new(BLOCK), Duration::ZERO);
    let long: Vec<u64> = (0..REMOTE_BLOCKS_MAX as u64).collect();
    assert!(loads.apply(&event("long", 8, add(&long, u64::MAX)), 7, now));
    assert!(!loads.apply(&event("one more block", 8, add(&[1], u64::MAX)), 7, now));
    assert!(loads.apply(&event("no blocks", 8, add(&[], u64::MAX)), 7, now));
    assert!(loads.apply(&event("long", 8, ActiveSequenceChange::Free), 7, now));
    assert!(!loads.apply(&event(&"x".repeat(257), 8, add(&[], 1)), 7, now));
    for request in 1..REMOTE_BOOKINGS_MAX {
        assert!(loads.apply(&event(&request.to_string(), 8, add(&[], 1)), 7, now), "{request}");
    }
    assert!(!loads.apply(&event("one more", 9, add(&[], 1)), 7, now));
    assert_eq!((loads.remote_len(), loads.forget_router(8)), (REMOTE_BOOKINGS_MAX, REMOTE_BOOKINGS_MAX));
    assert_eq!(loads.of(rank(1)), load(0, 0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Book { worker: u64, family: u32, tokens: u32, prefill: u64 },
    Complete(usize),
    Grow(usize, u64),
    Free(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let book = (0u64..3, 0u32..3, 1u32..40, 0u64..50).prop_map(|(worker, family, tokens, prefill)| Step::Book {
        worker,
        family,
        tokens,
        prefill,
    });
    let step = prop::strategy::Union::new_weighted(vec![
        (3, book.boxed()),
        (1, any::<usize>().prop_map(Step::Complete).boxed()),
        (1, (any::<usize>(), 0u64..30).prop_map(|(at, tokens)| Step::Grow(at, tokens)).boxed()),
        (2, any::<usize>().prop_map(Step::Free).boxed()),
    ]);
    prop::collection::vec(step, 1..80)
}

/// A live booking, plainly: its worker, prompt, prefill tokens and output tokens.
type Plain = (u64, Prompt, u64, u64);

fn plain_load(live: &BTreeMap<usize, (BookingId, Plain)>, worker: u64) -> RankLoad {
    let mine = || live.values().map(|(_, plain)| plain).filter(|plain| plain.0 == worker);
    let shared: BTreeSet<BlockHash> = mine().flat_map(|plain| plain.1.block_hashes.clone()).collect();
    let private = |plain: &Plain| {
        let all = (plain.1.tokens as u64 + plain.3).div_ceil(u64::from(BLOCK));
        all - plain.1.block_hashes.len() as u64
    };
    load(
        mine().map(|plain| plain.2).sum(),
        shared.len() as u64 + mine().map(private).sum::<u64>(),
        mine().count() as u64,
    )
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn loads_are_the_sum_of_live_bookings_after_any_steps(steps in steps()) {
        let (mut loads, mut live, mut made) = (Loads::new(BLOCK), BTreeMap::new(), 0);
        for step in steps {
            let pick = |live: &BTreeMap<usize, (BookingId, Plain)>, at: usize| live.keys().copied().nth(at % live.len().max(1));
            match step {
                Step::Book { worker, family, tokens, prefill } => {
                    let prompt = prompt(family, tokens);
                    let id = book(&mut loads, &made.to_string(), worker, &prompt, prefill, 0);
                    live.insert(made, (id, (worker, prompt, prefill, 0)));
                    made += 1;
                }
                Step::Complete(at) => if let Some(key) = pick(&live, at) {
                    let (id, plain) = live.get_mut(&key).unwrap();
                    plain.2 = 0;
                    loads.mark_prefill_completed(*id);
                },
                Step::Grow(at, tokens) => if let Some(key) = pick(&live, at) {
                    let (id, plain) = live.get_mut(&key).unwrap();
                    plain.3 = plain.3.max(tokens);
                    loads.grow(*id, tokens);
                },
                Step::Free(at) => if let Some(key) = pick(&live, at) {
                    let (id, _) = live.remove(&key).unwrap();
                    assert!(loads.free(id));
                },
            }
            for worker in 0..3 {
                assert_eq!(loads.of(rank(worker)), plain_load(&live, worker));
            }
        }
    }
}
