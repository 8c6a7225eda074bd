//! From a row of logits to the next token. Pure: the random number comes in with the sampler's own generator.
//!
//! The row is read where llama.cpp left it. It is copied only for what changes it (penalties, a ban, a grammar), and
//! never sorted whole: a vocabulary has 49,152 or 262,144 entries and a step has little time for each sequence.

use super::penalties::Penalties;
use llguidance::toktrie::SimpleVob;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Candidates further below the best than this many units of (logit ÷ temperature) are left out of a draw: together
/// they weigh less than 4 × 10⁻⁶ even for a vocabulary of 262,144.
const TAIL: f32 = 25.0;

/// How one request chooses its tokens. Checked by [`super::request`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SamplingRule {
    /// 0 is greedy.
    pub(super) temperature: f32,
    /// Nucleus mass, over 0 to 1.
    pub(super) top_p: f32,
    /// Candidates; 0 is all.
    pub(super) top_k: usize,
    /// Least probability relative to the best, 0 to 1.
    pub(super) min_p: f32,
}

impl SamplingRule {
    /// Whether the best token is always taken.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.top_k == 1
    }
}

/// One request's sampler: the rule, the penalties' counts and the generator.
pub(super) struct Sampler {
    rule: SamplingRule,
    penalties: Penalties,
    rng: StdRng,
}

/// Room for one row, reused over all sequences and steps.
#[derive(Default)]
pub(super) struct Scratch {
    row: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler whose draws are a pure function of `seed` and the rows.
    pub(super) fn new(rule: SamplingRule, penalties: Penalties, seed: u64) -> Self {
        Self { rule, penalties, rng: StdRng::seed_from_u64(seed) }
    }

    /// Chooses from a row of logits. `banned` tokens cannot come, nor what a grammar's `allowed` set lacks. `None` when nothing is
    /// left, which only a grammar without a way on can cause.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        banned: &[u32],
        allowed: Option<&SimpleVob>,
        scratch: &mut Scratch,
    ) -> Option<u32> {
        let Scratch { row, candidates } = scratch;
        let row: &[f32] = if self.penalties.is_none() && banned.is_empty() && allowed.is_none() {
            logits
        } else {
            row.clear();
            row.extend_from_slice(logits);
            self.penalties.apply(row);
            mask(row, banned, allowed);
            row
        };
        let best = argmax(row)?;
        if self.rule.is_greedy() {
            return Some(best);
        }
        self.gather(row, row[best as usize], candidates);
        Some(self.draw(candidates))
    }

    /// Goes on after `tokens`, which a sampler of the same seed has drawn: their penalties count, and the next draw is
    /// the one that would have come.
    pub(super) fn resume(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.accept(token);
            if !self.rule.is_greedy() {
                let _: f64 = self.rng.random();
            }
        }
    }

    /// Tells the sampler which token came, for the penalties.
    pub(super) fn accept(&mut self, token: u32) {
        self.penalties.accept(token);
    }

    /// Fills `candidates` with (weight, token), the best one's weight being 1, as temperature, `min_p` and `top_k` leave
    /// them, in that order, as vLLM does.
    fn gather(&self, row: &[f32], best: f32, candidates: &mut Vec<(f32, u32)>) {
        let SamplingRule { temperature, top_k, min_p, .. } = self.rule;
        let tail = if min_p > 0.0 { (-min_p.ln()).min(TAIL) } else { TAIL };
        let floor = best - tail * temperature;
        candidates.clear();
        candidates
            .extend((0u32..).zip(row).filter(|&(_, &logit)| logit >= floor).map(|(token, &logit)| (logit, token)));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_weight);
            candidates.truncate(top_k);
        }
        for (weight, _) in candidates.iter_mut() {
            *weight = ((*weight - best) / temperature).exp();
        }
    }

    fn draw(&mut self, candidates: &mut Vec<(f32, u32)>) -> u32 {
        let mut mass: f64 = candidates.iter().map(|&(weight, _)| f64::from(weight)).sum();
        if self.rule.top_p < 1.0 {
            mass = keep_nucleus(candidates, f64::from(self.rule.top_p) * mass);
        }
        let mut left = self.rng.random::<f64>() * mass;
        for &(weight, token) in candidates.iter() {
            left -= f64::from(weight);
            if left < 0.0 {
                return token;
            }
        }
        // Rounding may leave a crumb of mass behind the last candidate.
        candidates.last().expect("the best token is always a candidate").1
    }
}

fn by_weight(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Keeps the least number of best candidates whose weights reach `mass`; gives their sum. Sorts only as many as it
/// needs: a nucleus is mostly a few dozen out of thousands.
fn keep_nucleus(candidates: &mut Vec<(f32, u32)>, mass: f64) -> f64 {
    let mut sorted = 0;
    let mut chunk = 64;
    let mut sum = 0.0;
    while sorted < candidates.len() {
        let end = (sorted + chunk).min(candidates.len());
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted - 1, by_weight);
        }
        candidates[sorted..end].sort_unstable_by(by_weight);
        for at in sorted..end {
            sum += f64::from(candidates[at].0);
            if sum >= mass {
                candidates.truncate(at + 1);
                return sum;
            }
        }
        sorted = end;
        chunk *= 4;
    }
    sum
}

fn mask(row: &mut [f32], banned: &[u32], allowed: Option<&SimpleVob>) {
    if let Some(allowed) = allowed {
        // The set is rounded up to whole words and may be longer than the row, or shorter.
        allowed.iter_unset_entries(|token| {
            if let Some(logit) = row.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        });
        let known = allowed.len().min(row.len());
        row[known..].fill(f32::NEG_INFINITY);
    }
    for &token in banned {
        if let Some(logit) = row.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The best token, the first of equals. `None` when every logit is −∞ or no number.
///
/// Two passes, because a plain maximum over 16 lanes vectorises and a maximum with its index does not.
pub(super) fn argmax(row: &[f32]) -> Option<u32> {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let best = chunks.remainder().iter().chain(&lanes).fold(f32::NEG_INFINITY, |best, &logit| best.max(logit));
    if best == f32::NEG_INFINITY {
        return None;
    }
    let at = row.iter().position(|&logit| logit == best)?;
    u32::try_from(at).ok()
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
