//! What a worker streams back: engine outputs inside annotated items, and typed errors.
//!
//! Source: Dynamo 1.6.1 on the wire, §4.5 and §4.6. Field order is the stock order.

use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// One frame of a response stream: an item, or the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamFrame<T> {
    /// The item; absent in the last frame.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub data: Option<T>,
    /// True in the last frame, and only there.
    pub complete_final: bool,
}

/// An item with optional annotation. `data`, or `event` with `comment`, or `event: "error"` with `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotated<T> {
    /// The payload.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub data: Option<T>,
    /// Id of the item, unused by the stock peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name of an annotation, or `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Lines of the annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Vec<String>>,
    /// A typed error, when `event` is `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

impl<T> Annotated<T> {
    /// An item that carries a payload and nothing else.
    pub fn of(data: T) -> Self {
        Self { data: Some(data), id: None, event: None, comment: None, error: None }
    }

    /// An item that carries an error and ends the stream.
    pub fn failed(error: WireError) -> Self {
        Self { data: None, id: None, event: Some("error".into()), comment: None, error: Some(error) }
    }
}

/// One step of one sequence: the new tokens, or the end, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineOutput {
    /// New tokens, in order. Empty in an item that only finishes.
    pub token_ids: Vec<u32>,
    /// Token texts; the frontend detokenizes when absent.
    #[serde(default)]
    pub tokens: Option<Vec<Option<String>>>,
    /// Text; the frontend uses it when present and does not decode.
    #[serde(default)]
    pub text: Option<String>,
    /// `text` in every recording.
    #[serde(default = "text_kind")]
    pub output_type: String,
    /// Sum of log-probabilities so far.
    #[serde(default)]
    pub cum_log_probs: Option<f64>,
    /// One per new token.
    #[serde(default)]
    pub log_probs: Option<Vec<f64>>,
    /// The most likely alternatives, one list per new token, best first.
    #[serde(default)]
    pub top_logprobs: Option<Vec<Vec<TopLogprob>>>,
    /// Why the sequence ended; absent while it goes on.
    #[serde(default)]
    pub finish_reason: Option<FinishReason>,
    /// Which of `n` answers; absent is 0.
    #[serde(default)]
    pub index: Option<u32>,
    /// Usage so far: in the first item (cached tokens are known then) and in the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_usage: Option<CompletionUsage>,
    /// The stop string or token that ended the sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<serde_json::Value>,
}

fn text_kind() -> String {
    "text".into()
}

impl EngineOutput {
    /// New tokens and nothing else.
    pub fn of_tokens(token_ids: Vec<u32>) -> Self {
        Self { token_ids, output_type: text_kind(), ..Self::default() }
    }

    /// The end of a sequence.
    pub fn finished(reason: FinishReason, usage: CompletionUsage) -> Self {
        Self { output_type: text_kind(), finish_reason: Some(reason), completion_usage: Some(usage), ..Self::default() }
    }
}

/// An alternative at one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// 1 is the most likely.
    pub rank: u32,
    /// The token.
    pub token_id: u32,
    /// Its text, when the engine decodes.
    #[serde(default)]
    pub token: Option<String>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes, when the engine decodes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
}

/// Why a sequence ended: a bare string, or `{"error": text}`.
///
/// Read as well: `abort` for cancelled, and `error` or `error: text` as strings, which Python workers send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence token.
    Eos,
    /// The limit of new tokens, or of the context.
    Length,
    /// A stop string or stop token.
    Stop,
    /// The engine failed or refused: the text says how.
    Error(String),
    /// The caller cancelled.
    Cancelled,
    /// A filter.
    ContentFilter,
}

impl<'de> Deserialize<'de> for FinishReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FinishReasonVisitor)
    }
}

struct FinishReasonVisitor;

impl<'de> Visitor<'de> for FinishReasonVisitor {
    type Value = FinishReason;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("eos, length, stop, cancelled, abort, content_filter, error, `error: text` or {\"error\": text}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<FinishReason, E> {
        Ok(match text {
            "eos" => FinishReason::Eos,
            "length" => FinishReason::Length,
            "stop" => FinishReason::Stop,
            "cancelled" | "abort" => FinishReason::Cancelled,
            "content_filter" => FinishReason::ContentFilter,
            "error" => FinishReason::Error("the worker gave no reason".into()),
            other => match other.strip_prefix("error:") {
                Some(why) => FinishReason::Error(why.trim_start().into()),
                None => return Err(E::invalid_value(Unexpected::Str(text), &self)),
            },
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FinishReason, A::Error> {
        let key: Option<String> = map.next_key()?;
        match key.as_deref() {
            Some("error") => Ok(FinishReason::Error(map.next_value()?)),
            other => Err(A::Error::invalid_value(Unexpected::Str(other.unwrap_or_default()), &self)),
        }
    }
}

/// Token counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens made.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
    /// How much of the prompt came from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

impl CompletionUsage {
    /// Usage of `prompt` tokens, `completion` new ones and `cached` of the prompt reused.
    pub fn new(prompt: u32, completion: u32, cached: u32) -> Self {
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: Some(PromptTokensDetails { audio_tokens: None, cached_tokens: Some(cached) }),
        }
    }
}

/// Parts of the prompt's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Audio tokens; always absent here.
    #[serde(default)]
    pub audio_tokens: Option<u32>,
    /// Prompt tokens whose KV blocks were reused.
    #[serde(default)]
    pub cached_tokens: Option<u32>,
}

/// A typed error of the request plane. Only `public` reaches the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireError {
    /// Older, smaller set for old peers.
    #[serde(default)]
    pub error_type: serde_json::Value,
    /// Decides the HTTP status and whether to retry: a name, or `{"Backend": name}`.
    #[serde(default)]
    pub class: serde_json::Value,
    /// Dotted key, such as `transport.disconnected`.
    #[serde(default)]
    pub reason: String,
    /// For operators.
    #[serde(default)]
    pub message: String,
    /// More for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<serde_json::Value>,
    /// For the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<serde_json::Value>,
    /// The error below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<Box<WireError>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Codec;

    #[test]
    fn every_finish_reason_comes_back_in_both_codecs() {
        let reasons = [
            (FinishReason::Eos, r#""eos""#),
            (FinishReason::Length, r#""length""#),
            (FinishReason::Stop, r#""stop""#),
            (FinishReason::Error("why".into()), r#"{"error":"why"}"#),
            (FinishReason::Cancelled, r#""cancelled""#),
            (FinishReason::ContentFilter, r#""content_filter""#),
        ];
        for (reason, json) in reasons {
            assert_eq!(serde_json::to_string(&reason).unwrap(), json);
            for codec in [Codec::Json, Codec::Msgpack] {
                let bytes = codec.encode(&reason).unwrap();
                assert_eq!(codec.decode::<FinishReason>(&bytes).unwrap(), reason, "{codec:?}");
            }
        }
    }

    #[test]
    fn the_forms_of_python_workers_are_read() {
        let read = |json: &str| serde_json::from_str::<FinishReason>(json);
        assert_eq!(read(r#""abort""#).unwrap(), FinishReason::Cancelled);
        assert_eq!(read(r#""error: out of memory""#).unwrap(), FinishReason::Error("out of memory".into()));
        assert!(matches!(read(r#""error""#).unwrap(), FinishReason::Error(_)));
        for wrong in [r#""done""#, "{}", r#"{"stop":1}"#, "3"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_item_of_token_ids_alone_is_whole() {
        let item: StreamFrame<Annotated<EngineOutput>> =
            serde_json::from_str(r#"{"data":{"data":{"token_ids":[7]}},"complete_final":false}"#).unwrap();
        assert_eq!(item.data.unwrap().data.unwrap(), EngineOutput::of_tokens(vec![7]));
    }
}
