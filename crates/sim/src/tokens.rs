//! The mock model: the next token as a pure function of a seed and all tokens before it, never of the worker.
//!
//! A sequence that goes on elsewhere from prompt + emitted tokens therefore gives exactly the rest of the undisturbed
//! run.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// Tokens that the model may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    ranges: Vec<RangeInclusive<u32>>,
    size: u32,
}

/// A vocabulary without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mock engine's token ranges hold no token; give at least one range such as 1000..=4999")]
pub struct EmptyVocabulary;

impl Vocabulary {
    /// The tokens in `ranges`, in their order.
    ///
    /// # Errors
    /// [`EmptyVocabulary`], if there is none, or more than 2³² − 1.
    pub fn new(ranges: Vec<RangeInclusive<u32>>) -> Result<Self, EmptyVocabulary> {
        let ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        let size: u64 = ranges.iter().map(|range| u64::from(range.end() - range.start()) + 1).sum();
        match u32::try_from(size) {
            Ok(size) if size > 0 => Ok(Self { ranges, size }),
            _ => Err(EmptyVocabulary),
        }
    }

    /// Tokens in all.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The token that the low half of `draw` chooses.
    fn pick(&self, draw: u64) -> u32 {
        let mut left = (((draw & 0xffff_ffff) * u64::from(self.size)) >> 32) as u32;
        for range in &self.ranges {
            let length = range.end() - range.start();
            if left <= length {
                return range.start() + left;
            }
            left -= length + 1;
        }
        *self.ranges[0].start()
    }
}

/// What decides the next token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockModel {
    /// The model's weights, so to speak.
    pub seed: u64,
    /// What it may say.
    pub vocabulary: Vocabulary,
    /// One token in so many is an end of sequence, where the request knows one; never if absent.
    pub eos_one_in: Option<NonZeroU32>,
}

/// All tokens so far, folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(u64);

impl Context {
    /// The context of no tokens yet. `request_seed` is the request's own seed.
    pub fn new(model: &MockModel, request_seed: Option<i64>) -> Self {
        let own = request_seed.map_or(0, |seed| mix(seed as u64 ^ 0x5eed));
        Self(mix(model.seed ^ own))
    }

    /// One token later.
    pub fn push(&mut self, token: u32) {
        self.0 = mix(self.0 ^ (u64::from(token) + 1));
    }

    /// Many tokens later.
    pub fn extend(&mut self, tokens: &[u32]) {
        tokens.iter().for_each(|&token| self.push(token));
    }

    /// The next token; `eos` is what ends a sequence, if anything may.
    pub fn next(self, model: &MockModel, eos: Option<u32>) -> u32 {
        let draw = mix(self.0 ^ 0x00ce_a5ed);
        if let (Some(eos), Some(one_in)) = (eos, model.eos_one_in)
            && (draw >> 32).is_multiple_of(u64::from(one_in.get()))
        {
            return eos;
        }
        model.vocabulary.pick(draw)
    }

    /// The `count` likeliest tokens here with their natural log-probabilities, `chosen` first. The probabilities are
    /// made up: the k-th has 2⁻ᵏ of a sum that stays below 1.
    pub fn likeliest(self, model: &MockModel, chosen: u32, count: usize) -> Vec<(u32, f64)> {
        let mut found = vec![(chosen, logprob(1))];
        let mut draw = mix(self.0 ^ 0x7095);
        // Other tokens may repeat by chance: a vocabulary of one has no alternative, so the tries are bounded.
        for _ in 0..count * 4 {
            if found.len() >= count.max(1) {
                break;
            }
            draw = mix(draw);
            let token = model.vocabulary.pick(draw);
            if !found.iter().any(|&(known, _)| known == token) {
                found.push((token, logprob(found.len() + 1)));
            }
        }
        found
    }
}

fn logprob(rank: usize) -> f64 {
    -(rank as f64) * std::f64::consts::LN_2
}

/// A bijection that spreads every bit (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Context, EmptyVocabulary, MockModel, Vocabulary};
    use std::num::NonZeroU32;

    fn model(eos_one_in: Option<u32>) -> MockModel {
        let vocabulary = Vocabulary::new(vec![10..=19, 100..=100, 200..=204]).unwrap();
        MockModel { seed: 7, vocabulary, eos_one_in: eos_one_in.and_then(NonZeroU32::new) }
    }

    fn say(model: &MockModel, seed: Option<i64>, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut context = Context::new(model, seed);
        context.extend(prompt);
        let mut next = || {
            let token = context.next(model, Some(2));
            context.push(token);
            token
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn going_on_from_prompt_and_emitted_tokens_gives_the_rest() {
        let model = model(Some(30));
        let whole = say(&model, Some(3), &[1, 2, 3], 100);
        for seam in 0..100 {
            let prompt: Vec<u32> = [1, 2, 3].into_iter().chain(whole[..seam].iter().copied()).collect();
            assert_eq!(say(&model, Some(3), &prompt, 100 - seam), whole[seam..]);
        }
    }

    #[test]
    fn seed_of_model_and_request_and_every_token_before_decide() {
        let (one, mut other) = (model(None), model(None));
        other.seed = 8;
        let base = say(&one, None, &[1, 2, 3], 20);
        for different in [
            say(&other, None, &[1, 2, 3], 20),
            say(&one, Some(0), &[1, 2, 3], 20),
            say(&one, Some(1), &[1, 2, 3], 20),
            say(&one, None, &[0, 2, 3], 20),
            say(&one, None, &[3, 2, 1], 20),
            say(&one, None, &[1, 2], 20),
        ] {
            assert_ne!(base, different);
        }
    }

    #[test]
    fn only_tokens_of_the_vocabulary_come_and_all_of_them() {
        let mut said = say(&model(None), None, &[], 2_000);
        said.sort_unstable();
        said.dedup();
        assert_eq!(said, (10..=19).chain([100]).chain(200..=204).collect::<Vec<u32>>());
        assert_eq!(Vocabulary::new(Vec::new()), Err(EmptyVocabulary));
    }

    #[test]
    fn an_end_comes_as_often_as_the_rule_says_and_never_without_one() {
        let ends = |one_in| say(&model(one_in), None, &[], 10_000).iter().filter(|&&token| token == 2).count();
        assert_eq!(ends(None), 0);
        assert!((400..600).contains(&ends(Some(20))), "{}", ends(Some(20)));
    }

    #[test]
    fn alternatives_are_different_tokens_in_falling_order() {
        let model = model(None);
        let context = Context::new(&model, None);
        let chosen = context.next(&model, None);
        let likeliest = context.likeliest(&model, chosen, 5);
        assert_eq!((likeliest.len(), likeliest[0].0), (5, chosen));
        assert!(likeliest.windows(2).all(|pair| pair[0].1 > pair[1].1));
        assert!(likeliest.iter().map(|(_, logprob)| logprob.exp()).sum::<f64>() < 1.0);
    }
}
