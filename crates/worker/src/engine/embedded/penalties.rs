//! Penalties on tokens that came before.

use std::collections::HashMap;

/// How strongly tokens that came before are held back. The neutral value of each field changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PenaltyRule {
    /// Subtracted once from every token of the output; neutral 0.
    pub(super) presence: f32,
    /// Subtracted for each time a token came in the output; neutral 0.
    pub(super) frequency: f32,
    /// Divides a positive logit, multiplies a negative one, of every token of prompt and output; neutral 1.
    pub(super) repetition: f32,
}

impl PenaltyRule {
    fn is_neutral(&self) -> bool {
        self.presence == 0.0 && self.frequency == 0.0 && self.repetition == 1.0
    }
}

/// The rule and the counts that it applies to.
pub(super) struct Penalties {
    rule: PenaltyRule,
    /// How often each token of the prompt (0) or the output (1 and up) came.
    counts: HashMap<u32, u32>,
}

impl Penalties {
    /// Counts start with `prompt`, which only the repetition penalty regards.
    pub(super) fn new(rule: PenaltyRule, prompt: &[u32]) -> Self {
        let regards_prompt = rule.repetition != 1.0;
        let counts = if regards_prompt { prompt.iter().map(|&token| (token, 0)).collect() } else { HashMap::new() };
        Self { rule, counts }
    }

    /// Whether rows stay as they are.
    pub(super) fn is_none(&self) -> bool {
        self.rule.is_neutral()
    }

    /// Counts a token of the output.
    pub(super) fn accept(&mut self, token: u32) {
        if !self.rule.is_neutral() {
            *self.counts.entry(token).or_default() += 1;
        }
    }

    /// Changes the logits of tokens that came before.
    pub(super) fn apply(&self, row: &mut [f32]) {
        let PenaltyRule { presence, frequency, repetition } = self.rule;
        for (&token, &count) in &self.counts {
            let Some(logit) = row.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if count > 0 {
                *logit -= presence + frequency * count as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rule: PenaltyRule, prompt: &[u32], output: &[u32]) -> Vec<f32> {
        let mut penalties = Penalties::new(rule, prompt);
        output.iter().for_each(|&token| penalties.accept(token));
        let mut row = vec![4.0, -4.0, 4.0, 4.0];
        penalties.apply(&mut row);
        row
    }

    #[test]
    fn presence_counts_once_frequency_each_time_and_neither_regards_the_prompt() {
        let rule = PenaltyRule { presence: 1.0, frequency: 0.5, repetition: 1.0 };
        assert_eq!(after(rule, &[3], &[0, 0, 1]), [2.0, -5.5, 4.0, 4.0]);
    }

    #[test]
    fn repetition_pushes_both_signs_down_and_regards_the_prompt() {
        let rule = PenaltyRule { presence: 0.0, frequency: 0.0, repetition: 2.0 };
        assert_eq!(after(rule, &[3, 99], &[1]), [4.0, -8.0, 4.0, 2.0]);
    }
}
