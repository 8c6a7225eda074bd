//! One request of `n` answers as `n` sequences of the engine, and their outputs as one stream. Pure.

use crate::refusal::Refusal;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason, PromptTokensDetails, TopLogprob};
use protocol::request::PreprocessedRequest;
use serde::Serialize;

/// Most answers to one request; the stock frontend refuses more.
pub(crate) const ANSWERS_MAX: u32 = 128;

/// The sequences of a request, in the order of their index: each asks for one answer, with seed + index.
///
/// # Errors
/// An empty prompt, one of more than tokens, a structural tag, or `n` out of 1..=128.
pub(crate) fn sequences(request: PreprocessedRequest) -> Result<Vec<PreprocessedRequest>, Refusal> {
    if request.token_ids.is_empty() {
        return Err(Refusal::invalid("token_ids: the prompt is empty; send at least one token"));
    }
    if request.prompt_embeds.is_some() || request.multi_modal_data.is_some() {
        return Err(Refusal::invalid("prompt_embeds, multi_modal_data: this worker takes prompts of tokens only"));
    }
    if request.sampling_options.guided_decoding.as_ref().is_some_and(|guided| guided.structural_tag.is_some()) {
        let text = "sampling_options.guided_decoding.structural_tag: not served; use json, regex, choice or grammar";
        return Err(Refusal::invalid(text));
    }
    let n = request.sampling_options.n.unwrap_or(1);
    if !(1..=ANSWERS_MAX).contains(&n) {
        return Err(Refusal::invalid(format!("sampling_options.n: {n} is not between 1 and {ANSWERS_MAX}")));
    }
    let seed = request.sampling_options.seed;
    // The prompt is copied for each answer but the last; for the one answer that most want, it is moved.
    let mut sequences: Vec<PreprocessedRequest> = (1..n).map(|_| request.clone()).collect();
    sequences.push(request);
    for (sequence, index) in sequences.iter_mut().zip(0..) {
        sequence.sampling_options.n = None;
        sequence.sampling_options.seed = seed.map(|seed| seed.wrapping_add(index));
    }
    Ok(sequences)
}

/// Adds `next` to `output` when they can travel as one item: the same sequence goes on, and both tell the same kinds
/// of things of their tokens. Gives `next` back when they cannot.
pub(crate) fn merge(output: &mut EngineOutput, next: EngineOutput) -> Option<EngineOutput> {
    let alike = output.tokens.is_some() == next.tokens.is_some()
        && output.text.is_some() == next.text.is_some()
        && output.log_probs.is_some() == next.log_probs.is_some()
        && output.top_logprobs.is_some() == next.top_logprobs.is_some();
    // An item without tokens has no lists to be unlike in.
    if output.finish_reason.is_some() || !(alike || next.token_ids.is_empty()) {
        return Some(next);
    }
    output.token_ids.extend(next.token_ids);
    extend(&mut output.tokens, next.tokens);
    extend(&mut output.log_probs, next.log_probs);
    extend(&mut output.top_logprobs, next.top_logprobs);
    if let Some(text) = next.text {
        output.text.get_or_insert_default().push_str(&text);
    }
    output.cum_log_probs = next.cum_log_probs.or(output.cum_log_probs);
    output.completion_usage = next.completion_usage.or(output.completion_usage);
    output.finish_reason = next.finish_reason;
    output.stop_reason = next.stop_reason.or(output.stop_reason.take());
    None
}

fn extend<T>(list: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    if let Some(more) = more {
        list.get_or_insert_default().extend(more);
    }
}

/// The usage of a whole request, from what its sequences have said so far.
pub(crate) struct UsageSum {
    latest: Vec<Option<CompletionUsage>>,
}

impl UsageSum {
    /// Nothing said yet by `sequences` sequences.
    pub(crate) fn new(sequences: usize) -> Self {
        Self { latest: vec![None; sequences] }
    }

    /// Takes what sequence `index` says and gives the request's: the prompt counted once, all new tokens, and as
    /// cached what the least cached sequence found (the others may have found their sibling's blocks).
    pub(crate) fn add(&mut self, index: usize, usage: CompletionUsage) -> CompletionUsage {
        self.latest[index] = Some(usage);
        let said = || self.latest.iter().flatten();
        let prompt_tokens = said().map(|u| u.prompt_tokens).max().unwrap_or(0);
        let completion_tokens = said().map(|u| u.completion_tokens).fold(0, u32::saturating_add);
        let cached = said().filter_map(|u| u.prompt_tokens_details?.cached_tokens).min();
        CompletionUsage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: cached
                .map(|cached| PromptTokensDetails { audio_tokens: None, cached_tokens: Some(cached) }),
        }
    }
}

/// An engine output as it travels: keys without a value are left out, which saves about 115 of the stock 160 bytes
/// a token and which every peer reads (dynamo-wire §9).
#[derive(Serialize)]
pub(crate) struct CompactOutput<'a> {
    token_ids: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'a [Option<String>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cum_log_probs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probs: Option<&'a [f64]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<&'a [Vec<TopLogprob>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_usage: Option<CompletionUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a serde_json::Value>,
}

impl<'a> From<&'a EngineOutput> for CompactOutput<'a> {
    fn from(output: &'a EngineOutput) -> Self {
        Self {
            token_ids: &output.token_ids,
            tokens: output.tokens.as_deref(),
            text: output.text.as_deref(),
            cum_log_probs: output.cum_log_probs,
            log_probs: output.log_probs.as_deref(),
            top_logprobs: output.top_logprobs.as_deref(),
            finish_reason: output.finish_reason.as_ref(),
            index: output.index,
            completion_usage: output.completion_usage,
            stop_reason: output.stop_reason.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: Option<u32>, seed: Option<i64>) -> PreprocessedRequest {
        let mut request = PreprocessedRequest { token_ids: vec![1, 2], ..PreprocessedRequest::default() };
        request.sampling_options.n = n;
        request.sampling_options.seed = seed;
        request
    }

    #[test]
    fn each_of_n_answers_is_a_sequence_of_its_own_seed() {
        let seeds = |n, seed| -> Vec<Option<i64>> {
            sequences(request(n, seed)).unwrap().iter().map(|s| s.sampling_options.seed).collect()
        };
        assert_eq!(seeds(None, Some(5)), [Some(5)]);
        assert_eq!(seeds(Some(3), Some(5)), [Some(5), Some(6), Some(7)]);
        assert_eq!(seeds(Some(2), None), [None, None]);
        assert!(sequences(request(Some(3), None)).unwrap().iter().all(|s| s.sampling_options.n.is_none()));
    }

    #[test]
    fn a_bad_n_and_a_prompt_that_is_not_tokens_are_refused_by_name() {
        for n in [0, 129] {
            assert!(sequences(request(Some(n), None)).unwrap_err().to_string().contains("sampling_options.n"));
        }
        let picture = PreprocessedRequest { multi_modal_data: Some("x".into()), ..request(None, None) };
        assert!(sequences(picture).unwrap_err().to_string().contains("multi_modal_data"));
        let empty = PreprocessedRequest::default();
        assert!(sequences(empty).unwrap_err().to_string().contains("token_ids"));
    }

    #[test]
    fn outputs_of_one_sequence_travel_together_up_to_its_end() {
        let usage = CompletionUsage::new(2, 1, 0);
        let mut first = EngineOutput { completion_usage: Some(usage), ..EngineOutput::of_tokens(vec![1]) };
        assert_eq!(merge(&mut first, EngineOutput::of_tokens(vec![2, 3])), None);
        assert_eq!(first.token_ids, [1, 2, 3]);
        assert_eq!(first.completion_usage, Some(usage), "the first item keeps its usage");
        let last = CompletionUsage::new(2, 3, 0);
        assert_eq!(merge(&mut first, EngineOutput::finished(FinishReason::Eos, last)), None);
        assert_eq!((first.finish_reason.clone(), first.completion_usage), (Some(FinishReason::Eos), Some(last)));
        assert!(merge(&mut first, EngineOutput::of_tokens(vec![4])).is_some(), "nothing follows an end");
    }

    #[test]
    fn tokens_with_and_without_log_probabilities_do_not_mix() {
        let with = |id, p| EngineOutput { log_probs: Some(vec![p]), ..EngineOutput::of_tokens(vec![id]) };
        let mut output = with(1, -0.5);
        assert_eq!(merge(&mut output, with(2, -0.25)), None);
        assert_eq!(output.log_probs, Some(vec![-0.5, -0.25]));
        assert!(merge(&mut output, EngineOutput::of_tokens(vec![3])).is_some());
        let end = EngineOutput::finished(FinishReason::Stop, CompletionUsage::new(1, 2, 0));
        assert_eq!(merge(&mut output, end), None, "an end brings no tokens, so it fits anywhere");
    }

    #[test]
    fn usage_counts_the_prompt_once_and_the_least_cached_sequence() {
        let mut sum = UsageSum::new(2);
        assert_eq!(sum.add(1, CompletionUsage::new(10, 1, 8)), CompletionUsage::new(10, 1, 8));
        assert_eq!(sum.add(0, CompletionUsage::new(10, 1, 0)), CompletionUsage::new(10, 2, 0));
        assert_eq!(sum.add(1, CompletionUsage::new(10, 5, 8)), CompletionUsage::new(10, 6, 0));
    }

    #[test]
    fn a_token_alone_is_a_map_of_one_key() {
        let json = serde_json::to_string(&CompactOutput::from(&EngineOutput::of_tokens(vec![7]))).unwrap();
        assert_eq!(json, r#"{"token_ids":[7]}"#);
    }

    #[test]
    fn a_compact_output_reads_back_as_the_output_it_was_made_of() {
        let full = EngineOutput {
            token_ids: vec![1, 2],
            tokens: Some(vec![Some("a".into()), None]),
            text: Some("ab".into()),
            output_type: "text".into(),
            cum_log_probs: Some(-1.0),
            log_probs: Some(vec![-0.5, -0.5]),
            top_logprobs: Some(vec![vec![], vec![]]),
            finish_reason: Some(FinishReason::Error("broken".into())),
            index: Some(1),
            completion_usage: Some(CompletionUsage::new(3, 2, 1)),
            stop_reason: Some("x".into()),
        };
        let json = serde_json::to_string(&CompactOutput::from(&full)).unwrap();
        assert_eq!(serde_json::from_str::<EngineOutput>(&json).unwrap(), full);
    }
}
