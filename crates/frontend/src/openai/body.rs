//! The request body as written: every field of both endpoints, none of them checked.
//!
//! One flat struct, because a flattened one would hide the path of a field that does not parse.

use crate::openai::fields::{LogprobsField, PromptField, StopField};
use crate::openai::message::Message;
use crate::openai::nvext::Nvext;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(crate) struct Body {
    // Both endpoints.
    pub(crate) model: String,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) n: Option<u32>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) stop: Option<StopField>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) logprobs: Option<LogprobsField>,
    pub(crate) logit_bias: Option<Map<String, Value>>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) include_stop_str_in_output: Option<bool>,
    pub(crate) skip_special_tokens: Option<bool>,
    pub(crate) return_tokens_as_token_ids: Option<bool>,
    pub(crate) response_format: Option<ResponseFormat>,
    pub(crate) guided_json: Option<Value>,
    pub(crate) guided_regex: Option<String>,
    pub(crate) guided_choice: Option<Vec<String>>,
    pub(crate) guided_grammar: Option<String>,
    pub(crate) guided_decoding_backend: Option<String>,
    pub(crate) guided_whitespace_pattern: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) nvext: Option<Nvext>,
    // Chat.
    pub(crate) messages: Option<Vec<Message>>,
    pub(crate) max_completion_tokens: Option<u32>,
    pub(crate) top_logprobs: Option<u32>,
    #[serde(alias = "chat_template_kwargs")]
    pub(crate) chat_template_args: Option<Map<String, Value>>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    pub(crate) reasoning_effort: Option<String>,
    pub(crate) thinking_token_budget: Option<u32>,
    pub(crate) modalities: Option<Vec<String>>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) tool_choice: Option<Value>,
    // Completions.
    pub(crate) prompt: Option<PromptField>,
    pub(crate) echo: Option<bool>,
    pub(crate) suffix: Option<String>,
    pub(crate) best_of: Option<u32>,
    pub(crate) no_stop_trim: Option<bool>,
    /// The rest: [`IGNORED`] or unsupported.
    #[serde(flatten)]
    pub(crate) others: BTreeMap<String, IgnoredAny>,
}

/// Fields that are taken and change nothing here: bookkeeping of OpenAI's own service, or hints.
pub(crate) const IGNORED: [&str; 11] = [
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "thinking",
    "media_io_kwargs",
];

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: bool,
    #[serde(default)]
    pub(crate) continuous_usage_stats: bool,
}

/// `response_format`, with the schema still unread.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) json_schema: Option<JsonSchema>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct JsonSchema {
    #[serde(default)]
    pub(crate) schema: Option<Value>,
}

impl Body {
    /// Fields that were written and belong to the other endpoint, or to nobody.
    pub(crate) fn unsupported(&self, endpoint: Endpoint) -> Vec<String> {
        let foreign: &[(&str, bool)] = match endpoint {
            Endpoint::Chat => &[
                ("prompt", self.prompt.is_some()),
                ("echo", self.echo.is_some()),
                ("suffix", self.suffix.is_some()),
                ("best_of", self.best_of.is_some()),
                ("no_stop_trim", self.no_stop_trim.is_some()),
            ],
            Endpoint::Completion => &[
                ("messages", self.messages.is_some()),
                ("max_completion_tokens", self.max_completion_tokens.is_some()),
                ("top_logprobs", self.top_logprobs.is_some()),
                ("chat_template_args", self.chat_template_args.is_some()),
                ("add_generation_prompt", self.add_generation_prompt.is_some()),
                ("continue_final_message", self.continue_final_message.is_some()),
                ("reasoning_effort", self.reasoning_effort.is_some()),
                ("thinking_token_budget", self.thinking_token_budget.is_some()),
                ("modalities", self.modalities.is_some()),
                ("tools", self.tools.is_some()),
                ("tool_choice", self.tool_choice.is_some()),
            ],
        };
        let foreign = foreign.iter().filter(|(_, written)| *written).map(|(name, _)| (*name).to_owned());
        let unknown = self.others.keys().filter(|name| !IGNORED.contains(&name.as_str())).cloned();
        foreign.chain(unknown).collect()
    }
}

/// Which of the two endpoints a body came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}
