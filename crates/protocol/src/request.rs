//! `PreprocessedRequest`: what a frontend sends to a worker, tokens in.
//!
//! Field order is the stock order, so that re-encoding gives the same bytes. Source: Dynamo 1.6.1 on the wire, §4.4.

use serde::{Deserialize, Serialize};

/// A request after template and tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreprocessedRequest {
    /// The model's served name.
    #[serde(default)]
    pub model: String,
    /// The prompt, template applied.
    #[serde(with = "crate::dynamo::token_ids")]
    pub token_ids: Vec<u32>,
    /// A prompt as embeddings; carried so that a worker can refuse what it would else drop in silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_embeds: Option<String>,
    /// Images and the like; carried so that a worker can refuse what it would else drop in silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_modal_data: Option<serde_json::Value>,
    /// When to stop.
    #[serde(default)]
    pub stop_conditions: StopConditions,
    /// How to choose the next token.
    #[serde(default)]
    pub sampling_options: SamplingOptions,
    /// What to report beside the tokens.
    #[serde(default)]
    pub output_options: OutputOptions,
    /// The model's end-of-sequence tokens.
    #[serde(default)]
    pub eos_token_ids: Vec<u32>,
    /// Checksum of the model card that the frontend used.
    #[serde(default)]
    pub mdc_sum: Option<String>,
    /// Annotations that the client asked for (`nvext.annotations`).
    #[serde(default)]
    pub annotations: Vec<String>,
    /// The router's choice and hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingHints>,
    /// Router settings for this request alone; opaque to us.
    #[serde(default)]
    pub router_config_override: Option<serde_json::Value>,
    /// Free extras; carries `{"nvext": …}` of the HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_args: Option<serde_json::Value>,
}

/// Key of ours in [`PreprocessedRequest::extra_args`].
const OWN_ARGS: &str = "busbar";
/// Under it: how many tokens at the end of the prompt are the beginning of the answer.
const RESUMED_TOKENS: &str = "resumed_tokens";

impl PreprocessedRequest {
    /// How many tokens at the end of the prompt are the beginning of the answer, made by a worker that is gone: a
    /// grammar, penalties and a seed have to be brought to where they were. 0 in a request that begins, at most the
    /// length of the prompt.
    pub fn resumed_tokens(&self) -> usize {
        let told = self.extra_args.as_ref().and_then(|args| args.get(OWN_ARGS)?.get(RESUMED_TOKENS)?.as_u64());
        usize::try_from(told.unwrap_or(0)).unwrap_or(usize::MAX).min(self.token_ids.len())
    }

    /// Sets [`PreprocessedRequest::resumed_tokens`]. Whatever else is in the extras stays.
    pub fn set_resumed_tokens(&mut self, tokens: usize) {
        let args = self.extra_args.get_or_insert_with(|| serde_json::json!({}));
        if !args.is_object() {
            *args = serde_json::json!({});
        }
        args[OWN_ARGS] = serde_json::json!({ RESUMED_TOKENS: tokens });
    }
}

/// When generation ends. Every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopConditions {
    /// Most new tokens; a worker takes its own limit when absent.
    pub max_tokens: Option<u32>,
    /// Stop strings; the frontend enforces them, an engine may.
    pub stop: Option<Vec<String>>,
    /// Tokens that stop and whose text is shown or hidden as the engine likes.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Tokens that stop and are shown.
    pub stop_token_ids_visible: Option<Vec<u32>>,
    /// Tokens that stop and are hidden; the end-of-sequence tokens are here.
    pub stop_token_ids_hidden: Option<Vec<u32>>,
    /// No stop before this many new tokens.
    pub min_tokens: Option<u32>,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: Option<bool>,
    /// Most tokens of reasoning.
    pub max_thinking_tokens: Option<u32>,
}

/// How the next token is chosen. Every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOptions {
    /// Number of answers.
    pub n: Option<u32>,
    /// Answers to choose from.
    pub best_of: Option<u32>,
    /// −2 to 2, by presence in the output.
    pub presence_penalty: Option<f32>,
    /// −2 to 2, by count in the output.
    pub frequency_penalty: Option<f32>,
    /// Over 0; 1 is none; over prompt and output.
    pub repetition_penalty: Option<f32>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus mass, over 0 to 1.
    pub top_p: Option<f32>,
    /// Candidates; 0 or −1 is all.
    pub top_k: Option<i32>,
    /// Least probability relative to the best.
    pub min_p: Option<f32>,
    /// Beam search; refused by our engines.
    pub use_beam_search: Option<bool>,
    /// Beam search only.
    pub length_penalty: Option<f32>,
    /// Seed of this request's sampling.
    pub seed: Option<i64>,
    /// Leave the stop string in the text.
    pub include_stop_str_in_output: Option<bool>,
    /// Constrained output.
    pub guided_decoding: Option<GuidedDecoding>,
}

/// Constrained output: exactly one of `json`, `regex`, `choice`, `grammar`, `structural_tag` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuidedDecoding {
    /// A JSON schema; `{"type":"object"}` for plain `json_object`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// A regular expression that the whole text matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// One of these texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<String>>,
    /// A grammar (Lark or GBNF, as the engine takes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
    /// The engine's backend by name; ignored by ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Pattern for whitespace in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whitespace_pattern: Option<String>,
    /// xgrammar's structural tag; carried so that a worker can refuse what it would else drop in silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structural_tag: Option<serde_json::Value>,
}

/// What is reported beside the tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputOptions {
    /// Number of most likely alternatives with their log-probabilities; 0 is the chosen token's alone.
    pub logprobs: Option<u32>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<u32>,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: Option<bool>,
    /// Return the formatted prompt.
    pub formatted_prompt: Option<bool>,
    /// Token texts as `token_id:N`.
    pub return_tokens_as_token_ids: Option<bool>,
}

/// The router's choice and hints; absent fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutingHints {
    /// Send to this instance and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_instance_id: Option<u64>,
    /// Prefill worker, when disaggregated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_worker_id: Option<u64>,
    /// Decode worker, when disaggregated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_worker_id: Option<u64>,
    /// The chosen data-parallel rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_rank: Option<u32>,
    /// Rank at the prefill worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_dp_rank: Option<u32>,
    /// Expected output length, tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_output_tokens: Option<u32>,
    /// LoRA adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_name: Option<String>,
    /// Cache isolation: only requests of the same salt share cached blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// Priority hints, opaque to our router for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_jump: Option<f64>,
    /// Strict priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_priority: Option<u32>,
    /// Priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Only these workers may be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_worker_ids: Option<Vec<u64>>,
    /// Constraints by taint, opaque to us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_constraints: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resumed_tokens_travel_beside_what_else_is_in_the_extras_and_are_never_more_than_the_prompt() {
        let mut request = PreprocessedRequest { token_ids: vec![1, 2, 3], ..PreprocessedRequest::default() };
        assert_eq!(request.resumed_tokens(), 0);
        request.extra_args = Some(json!({"nvext": {"greed": 1}}));
        request.set_resumed_tokens(2);
        assert_eq!(request.extra_args, Some(json!({"nvext": {"greed": 1}, "busbar": {"resumed_tokens": 2}})));
        let back: PreprocessedRequest = serde_json::from_value(serde_json::to_value(&request).unwrap()).unwrap();
        assert_eq!(back.resumed_tokens(), 2);
        request.set_resumed_tokens(9);
        assert_eq!(request.resumed_tokens(), 3, "a stranger's number cannot reach beyond the prompt");
        request.extra_args = Some(json!("a stranger's text"));
        request.set_resumed_tokens(1);
        assert_eq!(request.resumed_tokens(), 1);
    }
}
