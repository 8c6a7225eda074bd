//! Sampling against the plain definition.

use super::*;
use crate::engine::embedded::penalties::PenaltyRule;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NEUTRAL: PenaltyRule = PenaltyRule { presence: 0.0, frequency: 0.0, repetition: 1.0 };

fn rule(temperature: f32, top_p: f32, top_k: usize, min_p: f32) -> SamplingRule {
    SamplingRule { temperature, top_p, top_k, min_p }
}

fn sampler(rule: SamplingRule, seed: u64) -> Sampler {
    Sampler::new(rule, Penalties::new(NEUTRAL, &[]), seed)
}

/// How often each token comes in `n` draws, in thousandths.
fn shares(rule: SamplingRule, row: &[f32], n: u64) -> BTreeMap<u32, u64> {
    let mut sampler = sampler(rule, 7);
    let mut scratch = Scratch::default();
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        *counts.entry(sampler.choose(row, &[], None, &mut scratch).unwrap()).or_default() += 1;
    }
    counts.values_mut().for_each(|count| *count = *count * 1000 / n);
    counts
}

/// Logits whose probabilities at temperature 1 are 0.5, 0.3, 0.15, 0.05.
fn row() -> Vec<f32> {
    [0.5f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec()
}

#[test]
fn draws_follow_the_probabilities() {
    for (token, expected) in [500u64, 300, 150, 50].into_iter().enumerate() {
        let share = shares(rule(1.0, 1.0, 0, 0.0), &row(), 20_000)[&(token as u32)];
        assert!(share.abs_diff(expected) < 15, "token {token}: {share} of 1000, not {expected}");
    }
}

#[test]
fn each_filter_leaves_the_candidates_that_its_definition_says() {
    let left = |rule| shares(rule, &row(), 2_000).into_keys().collect::<Vec<_>>();
    assert_eq!(left(rule(1.0, 0.5, 0, 0.0)), [0], "the best alone reaches half the mass");
    assert_eq!(left(rule(1.0, 0.79, 0, 0.0)), [0, 1]);
    assert_eq!(left(rule(1.0, 0.81, 0, 0.0)), [0, 1, 2]);
    assert_eq!(left(rule(1.0, 1.0, 3, 0.0)), [0, 1, 2]);
    assert_eq!(left(rule(1.0, 1.0, 0, 0.25)), [0, 1, 2], "0.15 is over a quarter of 0.5");
    assert_eq!(left(rule(1.0, 1.0, 0, 0.35)), [0, 1]);
    assert_eq!(left(rule(1.0, 0.79, 2, 0.0)), [0, 1], "top_p counts in what top_k left: 0.5 of 0.8 is not enough");
    assert_eq!(left(rule(1.0, 0.6, 2, 0.0)), [0]);
}

#[test]
fn greedy_takes_the_first_of_the_best_and_skips_what_is_banned() {
    let mut sampler = sampler(rule(0.0, 1.0, 0, 0.0), 1);
    let mut scratch = Scratch::default();
    assert_eq!(sampler.choose(&[1.0, 3.0, 3.0, 2.0], &[], None, &mut scratch), Some(1));
    assert_eq!(sampler.choose(&[1.0, 3.0, 3.0, 2.0], &[1, 2, 900], None, &mut scratch), Some(3));
    assert_eq!(sampler.choose(&[1.0, 3.0], &[0, 1], None, &mut scratch), None);
}

#[test]
fn one_seed_gives_one_sequence_and_another_seed_another() {
    let draw = |seed| {
        let mut sampler = sampler(rule(1.0, 1.0, 0, 0.0), seed);
        let mut scratch = Scratch::default();
        (0..40).map(|_| sampler.choose(&row(), &[], None, &mut scratch).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn the_best_of_a_long_row_is_found_wherever_it_is() {
    for at in [0, 1, 15, 16, 17, 40, 49] {
        let mut row = vec![-1.0; 50];
        row[at] = 0.5;
        assert_eq!(argmax(&row), Some(at as u32));
    }
    assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN]), Some(1));
    assert_eq!(argmax(&[f32::NEG_INFINITY; 20]), None);
}

proptest! {
    #[test]
    fn the_nucleus_is_the_one_that_a_full_sort_gives(
        weights in prop::collection::vec(0.0f32..1.0, 1..600), top_p in 0.01f64..1.0
    ) {
        let mut sorted: Vec<(f32, u32)> = weights.iter().copied().zip(0..).collect();
        let mut found = sorted.clone();
        let mass = top_p * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        sorted.sort_unstable_by(by_weight);
        let mut sum = 0.0;
        let kept = sorted.iter().position(|&(w, _)| { sum += f64::from(w); sum >= mass }).unwrap_or(sorted.len() - 1) + 1;
        keep_nucleus(&mut found, mass);
        prop_assert_eq!(&found[..], &sorted[..kept]);
    }
}

#[test]
fn a_sampler_that_resumes_draws_and_penalises_as_one_that_never_stopped() {
    let penalised = PenaltyRule { presence: 0.7, frequency: 0.3, repetition: 1.2 };
    let mut scratch = Scratch::default();
    for rule in [rule(1.0, 1.0, 0, 0.0), rule(0.7, 0.9, 3, 0.0), rule(0.0, 1.0, 0, 0.0)] {
        let fresh = || Sampler::new(rule.clone(), Penalties::new(penalised, &[1]), 9);
        let mut whole = fresh();
        let mut tokens = Vec::new();
        for _ in 0..40 {
            let token = whole.choose(&row(), &[], None, &mut scratch).unwrap();
            whole.accept(token);
            tokens.push(token);
        }
        for cut in [0, 1, 17, 39] {
            let mut rest = fresh();
            rest.resume(&tokens[..cut]);
            for &expected in &tokens[cut..] {
                assert_eq!(rest.choose(&row(), &[], None, &mut scratch), Some(expected), "cut at {cut}");
                rest.accept(expected);
            }
        }
    }
}
