//! Time: what steps cost, what a load takes in virtual time, and that nobody waits for ever.

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::space::Space;
use sim::batch::{Batch, BatchLimits, NewSequence, Victim};
use sim::cost::Cost;
use sim::pool::{Pool, SequenceId};
use sim::profile::{Profile, ProfileArrays};
use sim::replay::{Arrival, Arrivals, DoesNotFit, Replay, replay};
use sim::timing::{Speedup, StepShape, Timing};
use std::sync::Arc;
use std::time::Duration;

/// The pool of `dynamo.mocker` without flags: 16,384 blocks of 64 tokens.
const POOL_TOKENS: usize = 16_384 * 64;

fn mocker() -> Timing {
    Timing::Modelled(Cost::MockerCurve, Speedup::default())
}

fn shape(prefill_tokens: usize, contexts: &[usize]) -> StepShape {
    StepShape {
        prefill_tokens,
        prefill_lengths: (prefill_tokens > 0).then_some(prefill_tokens).into_iter().collect(),
        decode_contexts: contexts.iter().copied().collect(),
        kv_tokens_max: POOL_TOKENS,
        ..StepShape::default()
    }
}

fn profile() -> Cost {
    let arrays = ProfileArrays {
        prefill_isl: vec![100.0, 1_000.0, 10_000.0],
        prefill_ttft_ms: vec![5.0, 30.0, 500.0],
        decode_active_kv_tokens: vec![0.0, 10_000.0, 100_000.0],
        decode_context_length: vec![1.0, 1_000.0],
        decode_itl: vec![2.0, 3.0, 6.0, 8.0, 30.0, 40.0],
    };
    Cost::Profile(Arc::new(Profile::new(arrays).expect("the arrays fit together")))
}

#[test]
fn a_step_takes_what_its_prompts_and_then_its_decoding_sequences_take() {
    let check = |timing: &Timing, shape: &StepShape, milliseconds: f64| {
        let took = timing.step(shape).as_secs_f64() * 1e3;
        assert!((took - milliseconds).abs() < 0.01, "{shape:?} took {took} ms, not {milliseconds}");
    };
    //                prompt  contexts                 ms
    check(&mocker(), &shape(0, &[]), 0.0);
    check(&mocker(), &shape(512, &[]), 24.386);
    check(&mocker(), &shape(2_048, &[]), 49.363);
    check(&mocker(), &shape(0, &[1]), 5.740);
    check(&mocker(), &shape(0, &[POOL_TOKENS]), 34.010);
    check(&mocker(), &shape(512, &[1]), 30.126);
    let twice = Timing::Modelled(Cost::MockerCurve, Speedup { all: 2.0, decode: 1.0 });
    check(&twice, &shape(512, &[1]), 15.063);
    let drafts = Timing::Modelled(Cost::MockerCurve, Speedup { all: 2.0, decode: 4.0 });
    check(&drafts, &shape(512, &[1]), 12.193 + 0.7175);
    let measured = Timing::Modelled(profile(), Speedup::default());
    check(&measured, &shape(1_000, &[]), 30.0);
    check(&measured, &shape(0, &[1_000; 10]), 8.0);
    check(&Timing::PerStep(Duration::from_millis(7)), &shape(9, &[1]), 7.0);
    check(&Timing::PerStep(Duration::from_millis(7)), &shape(0, &[]), 0.0);
    check(&Timing::Instant, &shape(9, &[1]), 0.0);
}

proptest! {
    #[test]
    fn more_work_never_takes_less_time(
        tokens in 0usize..20_000,
        more_tokens in 0usize..20_000,
        contexts in vec(1usize..4_000, 0..64),
        another in 1usize..4_000,
        longer in 0usize..4_000,
        measured: bool,
    ) {
        let cost = if measured { profile() } else { Cost::MockerCurve };
        let timing = Timing::Modelled(cost, Speedup::default());
        let base = timing.step(&shape(tokens, &contexts));
        let more_prompt = timing.step(&shape(tokens + more_tokens, &contexts));
        prop_assert!(more_prompt >= base, "{more_tokens} more prompt tokens: {more_prompt:?}, {base:?} without");
        let mut grown: Vec<usize> = contexts.clone();
        if let Some(context) = grown.first_mut() {
            *context += longer;
        }
        let longer_context = timing.step(&shape(tokens, &grown));
        prop_assert!(longer_context >= base, "a longer context: {longer_context:?}, {base:?} before");
        if !measured {
            grown.push(another);
            let one_more = timing.step(&shape(tokens, &grown));
            prop_assert!(one_more >= longer_context, "one more sequence: {one_more:?}, {longer_context:?} without");
        }
    }

    #[test]
    fn every_request_ends_whatever_gives_way_and_however_small_the_pool(
        requests in vec((1usize..40, 1usize..40), 1..24),
        blocks in 20usize..40,
        max_num_seqs in 1usize..8,
        max_num_batched_tokens in 1usize..64,
        chunked_prefill: bool,
        watermark_blocks in 0usize..30,
        oldest_gives_way: bool,
    ) {
        let victim = if oldest_gives_way { Victim::Oldest } else { Victim::Youngest };
        let limits = BatchLimits { max_num_seqs, max_num_batched_tokens, chunked_prefill, watermark_blocks, victim };
        let mut batch = Batch::new(limits, Pool::new(4, blocks));
        for (id, &(prompt, _)) in (0..).zip(&requests) {
            // Half of the prompts share their beginning.
            let prompt = (0..prompt as u32).map(|at| if id % 2 == 0 { at } else { at + 100 * id as u32 }).collect();
            batch.add(NewSequence { id: SequenceId(id), prompt, seed: Space::default().seed() });
        }
        let mut left: Vec<usize> = requests.iter().map(|&(_, output)| output).collect();
        // A step gives a token or computes a part of a prompt; a prompt has so many parts, and is computed again at
        // most once for every token that anybody gets.
        let parts = 80usize.div_ceil(max_num_batched_tokens) + 2;
        let steps_max = (left.iter().sum::<usize>() + requests.len()) * parts;
        let mut steps = 0;
        while !batch.is_idle() {
            let step = batch.step(&mut |_| 7);
            batch.pool_mut().take_changes();
            for (id, _) in step.emitted {
                left[id.0 as usize] -= 1;
                if left[id.0 as usize] == 0 {
                    batch.end(id);
                }
            }
            steps += 1;
            prop_assert!(steps <= steps_max, "after {steps} steps {left:?} are left");
        }
        prop_assert!(left.iter().all(|&left| left == 0));
    }
}

#[test]
fn the_youngest_gives_way_so_that_the_oldest_is_never_disturbed() {
    let arrivals: Vec<Arrival> = (0..6).map(|n| arrival(0, 40, 60, n)).collect();
    let served = |victim| {
        let limits = BatchLimits { victim, ..BatchLimits::new(8, 512) };
        replay(Batch::new(limits, Pool::new(4, 60)), &mocker(), &arrivals).unwrap().served
    };
    let (lifo, fifo) = (served(Victim::Youngest), served(Victim::Oldest));
    assert_eq!(lifo[0].preemptions, 0);
    assert!(lifo.iter().any(|served| served.preemptions > 0) && fifo[0].preemptions > 0, "{lifo:?}\n{fifo:?}");
    assert!(lifo[0].ended < fifo[0].ended);
}

fn arrival(at_ms: u64, prompt_tokens: usize, output_tokens: usize, own: u32) -> Arrival {
    let prompt = (0..prompt_tokens as u32).map(|at| own * 100_000 + at).collect();
    Arrival { at: Duration::from_millis(at_ms), prompt, output_tokens }
}

fn run(limits: BatchLimits, arrivals: &[Arrival]) -> Replay {
    replay(Batch::new(limits, Pool::new(16, 4_096)), &mocker(), arrivals).expect("the pool holds each of them")
}

#[test]
fn a_prompt_in_chunks_lets_the_others_go_on_and_one_without_makes_them_wait() {
    let arrivals = [arrival(0, 16, 200, 0), arrival(100, 8_000, 1, 1)];
    let whole = run(BatchLimits { chunked_prefill: false, ..BatchLimits::new(8, 8_192) }, &arrivals);
    let chunks = run(BatchLimits::new(8, 512), &arrivals);
    //  prompt of 8,000 tokens in one step: 16.5 + 121.5 + 26.9 ms, and its neighbour's token
    assert!(whole.served[0].gap_max > Duration::from_millis(165), "{:?}", whole.served[0]);
    assert!(chunks.served[0].gap_max < Duration::from_millis(31), "{:?}", chunks.served[0]);
    assert!(chunks.served[1].ttft() > whole.served[1].ttft(), "every chunk has a step's own cost");
}

#[test]
fn a_cached_prefix_is_not_computed_again() {
    let arrivals = [arrival(0, 2_048, 1, 1), arrival(1_000, 2_048, 1, 1), arrival(2_000, 2_048, 1, 2)];
    let served = run(BatchLimits::new(8, 8_192), &arrivals).served;
    assert_eq!([0, 1, 2].map(|n: usize| served[n].cached_tokens), [0, 2_032, 0]);
    let ttft = [0, 1, 2].map(|n: usize| served[n].ttft().as_millis());
    assert_eq!(ttft, [49, 16, 49], "ms: the step's own cost stays");
}

#[test]
fn a_load_is_sized_in_virtual_time_and_the_same_seed_gives_the_same_figures() {
    let at = |per_second: f64| {
        let load =
            Arrivals { requests: 1_000, per_second, shared_tokens: 256, own_tokens: 768, output_tokens: 128, seed: 7 };
        run(BatchLimits::new(64, 8_192), &load.list())
    };
    let loads = [2.0, 8.0, 20.0, 80.0].map(at);
    for replay in &loads {
        assert!(replay.served.iter().all(|served| served.output_tokens == 128));
    }
    let ttft: Vec<Duration> = loads.iter().map(|replay| replay.ttft_at(0.5)).collect();
    assert!(ttft.is_sorted(), "more load, more waiting: {ttft:?}");
    assert!(ttft[0] < Duration::from_millis(60) && ttft[3] > Duration::from_secs(1), "{ttft:?}");
    // Under its capacity an engine makes what is asked of it; over it, it makes what it can.
    let rates: Vec<f64> = loads.iter().map(Replay::output_tokens_per_second).collect();
    assert!((rates[0] / (2.0 * 128.0) - 1.0).abs() < 0.1, "{rates:?}");
    assert!(rates[3] < 80.0 * 128.0 * 0.9, "{rates:?}");
    assert_eq!(at(8.0), loads[1]);
    for (per_second, replay) in [2, 8, 20, 80].iter().zip(&loads) {
        println!(
            "{per_second} requests/s: {:.1} virtual s, {} steps, TTFT p50 {:.1} p99 {:.1} ms, ITL p50 {:.2} ms, {:.0} tokens/s",
            replay.ended.as_secs_f64(),
            replay.steps,
            replay.ttft_at(0.5).as_secs_f64() * 1e3,
            replay.ttft_at(0.99).as_secs_f64() * 1e3,
            replay.itl_at(0.5).as_secs_f64() * 1e3,
            replay.output_tokens_per_second()
        );
    }
}

#[test]
fn a_request_that_no_pool_of_this_size_holds_is_named_before_anything_runs() {
    let batch = || Batch::new(BatchLimits::new(8, 512), Pool::new(4, 10));
    let long = [arrival(0, 10, 1, 0), arrival(0, 30, 11, 1)];
    assert_eq!(replay(batch(), &mocker(), &long), Err(DoesNotFit { request: 1, tokens: 41, room: 40 }));
    let silent = [arrival(0, 10, 0, 0)];
    assert_eq!(replay(batch(), &mocker(), &silent), Err(DoesNotFit { request: 0, tokens: 10, room: 40 }));
    assert_eq!(replay(batch(), &mocker(), &[]), Ok(Replay::default()));
}
