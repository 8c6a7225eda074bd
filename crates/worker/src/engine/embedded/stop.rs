//! When a sequence ends because of the token that came.

use protocol::output::FinishReason;
use protocol::request::PreprocessedRequest;

/// The tokens that end one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StopRule {
    /// End-of-sequence tokens; empty with `ignore_eos`.
    end_tokens: Vec<u32>,
    /// Stop tokens, shown or hidden.
    stop_tokens: Vec<u32>,
    /// Every token above: what cannot come before `min_tokens`.
    all: Vec<u32>,
    min_tokens: u32,
}

impl StopRule {
    /// The rule of a request to a model that ends its texts with `model_end_tokens`.
    pub(super) fn of(request: &PreprocessedRequest, model_end_tokens: &[u32]) -> Self {
        let conditions = &request.stop_conditions;
        let mut ends: Vec<u32> = [&request.eos_token_ids[..], model_end_tokens].concat();
        ends.sort_unstable();
        ends.dedup();
        let listed = |list: &Option<Vec<u32>>| list.clone().unwrap_or_default();
        // Frontends list the end tokens among the hidden ones whatever `ignore_eos` says.
        let mut hidden = listed(&conditions.stop_token_ids_hidden);
        hidden.retain(|token| !ends.contains(token));
        let stop_tokens =
            [listed(&conditions.stop_token_ids), listed(&conditions.stop_token_ids_visible), hidden].concat();
        let end_tokens = if conditions.ignore_eos == Some(true) { Vec::new() } else { ends };
        let all = [&end_tokens[..], &stop_tokens].concat();
        Self { end_tokens, stop_tokens, all, min_tokens: conditions.min_tokens.unwrap_or(0) }
    }

    /// Tokens that cannot come as number `made + 1`.
    pub(super) fn banned(&self, made: u32) -> &[u32] {
        if made < self.min_tokens { &self.all } else { &[] }
    }

    /// Whether `token` ends the sequence; a stop token that the request named counts before an end token.
    pub(super) fn ends_with(&self, token: u32) -> Option<FinishReason> {
        if self.stop_tokens.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.end_tokens.contains(&token) {
            Some(FinishReason::Eos)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::request::StopConditions;

    fn rule(change: impl FnOnce(&mut StopConditions)) -> StopRule {
        let mut request = PreprocessedRequest { eos_token_ids: vec![2], ..PreprocessedRequest::default() };
        change(&mut request.stop_conditions);
        StopRule::of(&request, &[0, 2])
    }

    #[test]
    fn the_models_and_the_requests_end_tokens_end_it_and_ignore_eos_lets_them_pass() {
        let plain = rule(|s| s.stop_token_ids_hidden = Some(vec![2]));
        assert_eq!([0, 1, 2].map(|t| plain.ends_with(t)), [Some(FinishReason::Eos), None, Some(FinishReason::Eos)]);
        let ignoring = rule(|s| (s.stop_token_ids_hidden, s.ignore_eos) = (Some(vec![2]), Some(true)));
        assert_eq!([0, 1, 2].map(|t| ignoring.ends_with(t)), [None, None, None]);
    }

    #[test]
    fn stop_tokens_of_every_list_stop_even_when_they_are_end_tokens_that_are_ignored() {
        let all = rule(|s| {
            (s.stop_token_ids, s.stop_token_ids_visible, s.stop_token_ids_hidden) =
                (Some(vec![5, 2]), Some(vec![6]), Some(vec![7]));
            s.ignore_eos = Some(true);
        });
        assert_eq!([5, 2, 6, 7].map(|t| all.ends_with(t)), [const { Some(FinishReason::Stop) }; 4]);
    }

    #[test]
    fn before_min_tokens_nothing_that_ends_may_come() {
        let late = rule(|s| (s.min_tokens, s.stop_token_ids) = (Some(3), Some(vec![5])));
        assert_eq!(late.banned(2), [0, 2, 5]);
        assert_eq!(late.banned(3), [0; 0]);
    }
}
