//! The seeds that are played on every run, and what shows that they would find a bug.

use super::plan::{Fault, Plan};
use super::planted::{Bug, with_bug};
use super::run::{Endings, Played, run};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of one run. `BUSBAR_TEST_SEEDS` asks for more.
const SEEDS: u64 = 1_000;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// The first seed below `seeds` that violates something, or how all requests ended; by as many threads as there are
/// cores.
fn play_all(seeds: u64, bug: Option<Bug>) -> Result<Endings, (u64, Played)> {
    let (next, found) = (AtomicU64::new(0), parking_lot::Mutex::new(None::<(u64, Played)>));
    let endings = parking_lot::Mutex::new(Endings::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // The lowest seed is wanted: whoever took a lower one plays it to its end.
                while found.lock().is_none()
                    && let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds
                {
                    let played = with_bug(bug, || run(seed));
                    *endings.lock() += played.endings;
                    let mut found = found.lock();
                    if !played.violations.is_empty() && found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                        *found = Some((seed, played));
                    }
                }
            });
        }
    });
    found.into_inner().map_or(Ok(endings.into_inner()), Err)
}

fn fail(seed: u64, played: &Played) -> ! {
    panic!(
        "seed {seed} violates:\n  {}\nPlay it alone: BUSBAR_TEST_SEED={seed} cargo test --release -p frontend --lib \
         simulation::tests::every_seed\nIts log:\n{}",
        played.violations.join("\n  "),
        played.log.join("\n")
    )
}

#[test]
fn every_seed_of_a_thousand_keeps_every_promise() {
    if let Some(seed) = number_of("BUSBAR_TEST_SEED") {
        let played = run(seed);
        println!("{}", played.log.join("\n"));
        if !played.violations.is_empty() {
            fail(seed, &played);
        }
        return;
    }
    let seeds = number_of("BUSBAR_TEST_SEEDS").unwrap_or(SEEDS);
    let start = std::time::Instant::now();
    match play_all(seeds, None) {
        Err((seed, played)) => fail(seed, &played),
        Ok(endings) => println!("{seeds} seeds in {:.1} s: {endings:?}", start.elapsed().as_secs_f64()),
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 0..20 {
        let (first, second) = (run(seed).log, run(seed).log);
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differs.is_none() && first.len() == second.len(), "seed {seed}: {differs:?}");
    }
}

#[test]
fn a_thousand_plans_hold_every_fault_with_and_without_a_healthy_worker() {
    let kind = |fault: &Fault| format!("{fault:?}").split(' ').next().unwrap().to_owned();
    let mut met = BTreeSet::new();
    for plan in (0..SEEDS).map(Plan::of) {
        met.extend(plan.faults.iter().map(|(_, fault)| (plan.no_error_allowed, kind(fault))));
    }
    let kinds = ["Cut", "Expire", "Freeze", "Hold", "Kill", "Leave", "Start"];
    let all = [false, true].into_iter().flat_map(|calm| kinds.map(|kind| (calm, kind.to_owned())));
    assert_eq!(met, all.collect());
}

fn is_found(bug: Bug) {
    let Err((seed, played)) = play_all(SEEDS, Some(bug)) else { panic!("{bug:?} is found by no seed") };
    println!("{bug:?} is found by seed {seed}: {}", played.violations[0]);
}

#[test]
fn a_planted_lost_booking_is_found() {
    is_found(Bug::LostBooking);
}

#[test]
fn a_planted_dropped_event_is_found() {
    is_found(Bug::DroppedEvent);
}

#[test]
fn a_planted_token_twice_is_found() {
    is_found(Bug::TokenTwice);
}
