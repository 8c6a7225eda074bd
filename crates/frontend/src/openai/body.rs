//! The request body as written: every field of both endpoints, none of them checked.
//!
//! One flat struct, because a flattened one would hide the path of a field that does not parse, and would keep what
//! nobody reads. Which fields nobody knows is asked of [`crate::openai::outline`].

use crate::openai::fields::{LogprobsField, PromptField, StopField};
use crate::openai::message::Message;
use crate::openai::nvext::Nvext;
use crate::openai::outline::Outline;
use crate::openai::request::MAX_MESSAGES;
use serde::de::value::Error as NoValue;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::LazyLock;

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
    #[serde(default, deserialize_with = "messages")]
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
}

/// Every name that [`Body`] reads, other spellings included: serde knows them and tells.
static KNOWN: LazyLock<&'static [&'static str]> = LazyLock::new(|| {
    let mut names: &'static [&'static str] = &[];
    // It always fails, once it has been told the names.
    let _ = Body::deserialize(NamesOf(&mut names));
    names
});

/// A deserializer that has no value and only listens for the names of a struct's fields.
struct NamesOf<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for NamesOf<'_> {
    type Error = NoValue;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads messages up to one more than may be: each takes 16 times the bytes that it is written in.
fn messages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Message>>, D::Error> {
    struct Messages;

    impl<'de> Visitor<'de> for Messages {
        type Value = Option<Vec<Message>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut messages = Vec::new();
            while let Some(message) = seq.next_element()? {
                if messages.len() >= MAX_MESSAGES {
                    return Err(A::Error::custom(format!("a maximum of {MAX_MESSAGES} messages is allowed")));
                }
                messages.push(message);
            }
            Ok(Some(messages))
        }
    }

    deserializer.deserialize_any(Messages)
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
    pub(crate) fn unsupported(&self, endpoint: Endpoint, outline: &Outline<'_>) -> Vec<String> {
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
        let known = |name: &str| KNOWN.contains(&name) || IGNORED.contains(&name);
        foreign.chain(outline.fields().filter(|name| !known(name))).collect()
    }
}

/// Which of the two endpoints a body came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_body_is_known_by_all_its_names() {
        for name in ["model", "messages", "prompt", "nvext", "chat_template_args", "chat_template_kwargs", "best_of"] {
            assert!(KNOWN.contains(&name), "{name} is not in {:?}", *KNOWN);
        }
        assert!(KNOWN.len() > 40, "{:?}", *KNOWN);
    }
}
