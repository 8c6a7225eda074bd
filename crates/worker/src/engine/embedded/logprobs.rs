//! Log-probabilities of the model's own distribution: before temperature, penalties and grammar, as vLLM reports them.

use protocol::output::TopLogprob;

/// The log-probability of `token`, and the `top` most likely tokens, best first.
pub(super) fn logprobs(logits: &[f32], token: u32, top: usize) -> (f64, Vec<TopLogprob>) {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = logits.iter().map(|&logit| f64::from((logit - best).exp())).sum();
    let log_of = |logit: f32| f64::from(logit - best) - mass.ln();
    let chosen = logits.get(token as usize).map_or(f64::NEG_INFINITY, |&logit| log_of(logit));
    let ranked = (1u32..)
        .zip(best_tokens(logits, top))
        .map(|(rank, token_id)| {
            let logprob = log_of(logits[token_id as usize]);
            TopLogprob { rank, token_id, token: None, logprob, bytes: None }
        })
        .collect();
    (chosen, ranked)
}

/// The `top` best tokens, best first, the lower id first of equals. One pass that keeps a short sorted list: `top` is
/// 20 at most.
fn best_tokens(logits: &[f32], top: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(top + 1);
    for (token, &logit) in (0u32..).zip(logits) {
        if best.len() == top && best.last().is_none_or(|&(least, _)| logit <= least) {
            continue;
        }
        let at = best.partition_point(|&(better, _)| better >= logit);
        best.insert(at, (logit, token));
        best.truncate(top);
    }
    best.into_iter().map(|(_, token)| token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithms_of_the_probabilities_come_best_first() {
        let logits: Vec<f32> = [0.1f32, 0.6, 0.05, 0.25].iter().map(|p| p.ln() + 3.0).collect();
        let (chosen, top) = logprobs(&logits, 0, 3);
        assert!((chosen - 0.1f64.ln()).abs() < 1e-6);
        let ids: Vec<(u32, u32)> = top.iter().map(|t| (t.rank, t.token_id)).collect();
        assert_eq!(ids, [(1, 1), (2, 3), (3, 0)]);
        assert!((top[0].logprob - 0.6f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn no_alternatives_are_listed_unless_asked_for() {
        assert_eq!(logprobs(&[1.0, 2.0], 1, 0).1, []);
        assert_eq!(best_tokens(&[1.0, 2.0, 2.0], 9), [1, 2, 0]);
    }
}
