//! What one step computes: one token of every sequence that decodes, and pieces of prompts within a budget.

use super::config::Limits;

/// Rows of the next batch for each running sequence. `pending` are their tokens not yet computed, at least one each,
/// oldest sequence first; the result has the same order, 0 for one that waits a step.
///
/// A sequence with one pending token is decoding (or has a prompt that is cached up to its last token) and always gets
/// its row. While any does, the prompts share `prefill_chunk` rows, so that no gap between two tokens grows with the
/// length of somebody else's prompt; otherwise they share `max_num_batched_tokens`. Prompts are served oldest first
/// and one after the other: the first answer comes soonest, and prompts with a common start compute it once.
pub(super) fn rows(pending: &[u32], limits: &Limits) -> Vec<u32> {
    let decodes = pending.contains(&1);
    let mut budget = if decodes { limits.prefill_chunk } else { limits.max_num_batched_tokens };
    let mut one = |&tokens: &u32| {
        if tokens == 1 {
            return 1;
        }
        let rows = tokens.min(budget);
        budget -= rows;
        rows
    };
    pending.iter().map(&mut one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::embedded::config::EmbeddedConfig;

    fn check(pending: &[u32], expected: &[u32]) {
        let config = EmbeddedConfig {
            max_num_batched_tokens: Some(256),
            prefill_chunk: Some(48),
            ..EmbeddedConfig::of("model.gguf")
        };
        assert_eq!(rows(pending, &Limits::of(&config).unwrap()), expected);
    }

    #[test]
    fn a_long_prompt_gets_the_whole_step_when_it_is_alone() {
        check(&[500], &[256]);
        check(&[100], &[100]);
    }

    #[test]
    fn a_long_prompt_gets_a_chunk_beside_sequences_that_decode() {
        check(&[1, 1, 500, 1], &[1, 1, 48, 1]);
        check(&[1, 1, 1, 1], &[1, 1, 1, 1]);
    }

    #[test]
    fn prompts_share_the_budget_oldest_first() {
        check(&[200, 100, 30], &[200, 56, 0]);
        check(&[1, 20, 100, 30], &[1, 20, 28, 0]);
    }
}
