//! One sequence's stream, read: chunks of `/v1/completions` or `/inference/v1/generate` in, outputs out. Pure.

use protocol::output::{CompletionUsage, EngineOutput, FinishReason, PromptTokensDetails, TopLogprob};
use protocol::request::PreprocessedRequest;
use serde::Deserialize;
use serde_json::{Map, Value};

/// From this code on an error in mid-stream is the server's (`EngineCore died`), and another worker may go on.
const SERVER_ERRORS_FROM: u64 = 500;

/// One `data:` of the stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    /// An error in mid-stream.
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Choice {
    #[serde(default)]
    token_ids: Option<Vec<u32>>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    stop_reason: Option<Value>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

/// Of the completions API as two lists, of the generate API as one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Logprobs {
    #[serde(default)]
    token_logprobs: Vec<Option<f64>>,
    #[serde(default)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    #[serde(default)]
    content: Option<Vec<Sampled>>,
}

/// A sampled token and its alternatives, of the generate API.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Sampled {
    logprob: f64,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Alternative {
    token_id: u32,
    logprob: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
struct Usage {
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

/// Reads one sequence's stream: chunks in, outputs out.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    eos_token_ids: Vec<u32>,
    first_told: bool,
    /// The end, held back until the usage that follows it.
    end: Option<EngineOutput>,
    /// Why there is none.
    broken: Option<String>,
    usage: CompletionUsage,
}

impl Answer {
    /// The answer to `request`, nothing read yet.
    pub(crate) fn to(request: &PreprocessedRequest) -> Self {
        let prompt_tokens = u32::try_from(request.token_ids.len()).unwrap_or(u32::MAX);
        let usage = CompletionUsage { prompt_tokens, total_tokens: prompt_tokens, ..CompletionUsage::default() };
        Self { eos_token_ids: request.eos_token_ids.clone(), usage, ..Self::default() }
    }

    /// The output of one chunk, if it brings any. The end comes at [`Answer::finish`].
    pub(crate) fn chunk(&mut self, chunk: Chunk) -> Option<EngineOutput> {
        if let Some(usage) = chunk.usage {
            self.take(usage);
        }
        if let Some(error) = chunk.error {
            self.fail(&error);
        }
        let choice = chunk.choices.into_iter().next()?;
        let mut output = of(choice.token_ids.unwrap_or_default());
        self.usage.completion_tokens += u32::try_from(output.token_ids.len()).unwrap_or(0);
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        if let Some(logprobs) = choice.logprobs {
            let (sampled, alternatives) = logprobs.read();
            (output.log_probs, output.top_logprobs) = (Some(sampled), Some(alternatives));
        }
        if let Some(reason) = choice.finish_reason {
            if reason == "abort" {
                // We never ask for it: a sequence that is not wanted any more is dropped. The server is going.
                self.broken = Some("the server aborted the sequence".into());
                return (!output.token_ids.is_empty()).then_some(output);
            }
            output.finish_reason = Some(self.finish_reason(&reason, choice.stop_reason.as_ref()));
            output.stop_reason = choice.stop_reason;
            self.end = Some(output);
            return None;
        }
        if output.token_ids.is_empty() {
            return None;
        }
        if !std::mem::replace(&mut self.first_told, true) {
            output.completion_usage = Some(self.usage);
        }
        Some(output)
    }

    /// The last output, with the whole usage; `None` when the stream ended without an end.
    pub(crate) fn finish(&mut self) -> Option<EngineOutput> {
        let end = self.end.take()?;
        Some(EngineOutput { completion_usage: Some(self.usage), ..end })
    }

    /// Why the stream was not brought to its end, where the server said so.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn fail(&mut self, error: &Value) {
        let text = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
        if error.get("code").and_then(Value::as_u64).is_some_and(|code| code < SERVER_ERRORS_FROM) {
            self.end = Some(EngineOutput { finish_reason: Some(FinishReason::Error(text)), ..of(Vec::new()) });
        } else {
            self.broken = Some(text);
        }
    }

    fn take(&mut self, usage: Usage) {
        self.usage.prompt_tokens = usage.prompt_tokens;
        // Only the last chunk tells the cached tokens, and only of a server with --enable-prompt-tokens-details.
        if let Some(cached) = usage.prompt_tokens_details.and_then(|details| details.cached_tokens) {
            self.usage.prompt_tokens_details =
                Some(PromptTokensDetails { audio_tokens: None, cached_tokens: Some(cached) });
        }
        let _ = usage.completion_tokens;
    }

    fn finish_reason(&self, reason: &str, stop: Option<&Value>) -> FinishReason {
        match reason {
            "length" => FinishReason::Length,
            "content_filter" => FinishReason::ContentFilter,
            "stop" => {
                let token = stop.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
                let stopped_by_rule = match (stop, token) {
                    (None | Some(Value::Null), _) => false,
                    (_, Some(id)) => !self.eos_token_ids.contains(&id),
                    _ => true,
                };
                if stopped_by_rule { FinishReason::Stop } else { FinishReason::Eos }
            }
            other => FinishReason::Error(format!("vLLM ended the sequence: {other}")),
        }
    }
}

fn of(token_ids: Vec<u32>) -> EngineOutput {
    EngineOutput::of_tokens(token_ids)
}

impl Logprobs {
    /// Of each token: its own, and its alternatives.
    fn read(self) -> (Vec<f64>, Vec<Vec<TopLogprob>>) {
        if let Some(content) = self.content {
            let ranked = |sampled: Sampled| {
                (sampled.logprob, best_first(sampled.top_logprobs.iter().map(|other| (other.token_id, other.logprob))))
            };
            return content.into_iter().map(ranked).unzip();
        }
        let own = self.token_logprobs.iter().map(|p| p.unwrap_or(f64::NEG_INFINITY)).collect();
        (own, self.top_logprobs.into_iter().map(named_alternatives).collect())
    }
}

/// `{"token_id:5": -0.1, …}`.
fn named_alternatives(named: Option<Map<String, Value>>) -> Vec<TopLogprob> {
    let pairs = named.into_iter().flatten();
    best_first(pairs.filter_map(|(name, value)| Some((name.strip_prefix("token_id:")?.parse().ok()?, value.as_f64()?))))
}

fn best_first(alternatives: impl Iterator<Item = (u32, f64)>) -> Vec<TopLogprob> {
    let one = |(token_id, logprob)| TopLogprob { rank: 0, token_id, token: None, logprob, bytes: None };
    let mut list: Vec<TopLogprob> = alternatives.map(one).collect();
    list.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    for (alternative, rank) in list.iter_mut().zip(1..) {
        alternative.rank = rank;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outputs(chunks: &[Value]) -> (Vec<EngineOutput>, Option<EngineOutput>) {
        let request = PreprocessedRequest { token_ids: vec![1, 2, 3], eos_token_ids: vec![9], ..Default::default() };
        let mut answer = Answer::to(&request);
        let parse = |chunk: &Value| serde_json::from_value::<Chunk>(chunk.clone()).unwrap();
        let outputs = chunks.iter().filter_map(|chunk| answer.chunk(parse(chunk))).collect();
        (outputs, answer.finish())
    }

    #[test]
    fn the_first_output_has_usage_and_the_last_the_cached_tokens() {
        let (outputs, end) = outputs(&[
            json!({"choices": [{"index": 0, "text": "", "token_ids": [7], "finish_reason": null, "prompt_token_ids": [1]}]}),
            json!({"choices": [{"token_ids": [8]}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
            json!({"choices": [{"token_ids": [9], "finish_reason": "stop", "stop_reason": null}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 2}}}),
        ]);
        assert_eq!(outputs.iter().map(|o| o.token_ids[0]).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(outputs[0].completion_usage.unwrap().prompt_tokens, 3);
        assert_eq!(outputs[1].completion_usage, None);
        let end = end.unwrap();
        assert_eq!((end.token_ids, end.finish_reason), (vec![9], Some(FinishReason::Eos)));
        assert_eq!(end.completion_usage, Some(CompletionUsage::new(3, 3, 2)));
    }

    #[test]
    fn every_finish_reason_has_its_meaning() {
        let end = |reason: &str, stop: Value| {
            let chunk = json!({"choices": [{"token_ids": [], "finish_reason": reason, "stop_reason": stop}]});
            outputs(&[chunk]).1.unwrap().finish_reason.unwrap()
        };
        assert_eq!(end("stop", Value::Null), FinishReason::Eos);
        assert_eq!(end("stop", json!(9)), FinishReason::Eos);
        assert_eq!(end("stop", json!(5)), FinishReason::Stop);
        assert_eq!(end("stop", json!("x")), FinishReason::Stop);
        assert_eq!(end("length", Value::Null), FinishReason::Length);
        assert!(matches!(end("repetition", Value::Null), FinishReason::Error(_)));
        let error = json!({"error": {"message": "bad regex", "code": 400}});
        assert_eq!(outputs(&[error]).1.unwrap().finish_reason, Some(FinishReason::Error("bad regex".into())));
    }

    #[test]
    fn a_stream_that_the_server_gave_up_has_no_end_so_that_another_worker_goes_on() {
        assert_eq!(outputs(&[json!({"choices": [{"token_ids": [1]}]})]).1, None, "cut in the middle");
        assert_eq!(outputs(&[json!({"error": {"message": "EngineCore died", "code": 500}})]).1, None);
        assert_eq!(outputs(&[json!({"error": {"message": "no code"}})]).1, None);
        let aborted = json!({"choices": [{"token_ids": [4], "finish_reason": "abort", "stop_reason": null}]});
        let (tokens, end) = outputs(&[aborted]);
        assert_eq!((tokens[0].token_ids.as_slice(), end), (&[4][..], None));
    }

    #[test]
    fn the_generate_api_names_log_probabilities_by_token_id() {
        let (outputs, _) = outputs(&[json!({"choices": [{"token_ids": [7], "logprobs": {"content": [
            {"token_id": 7, "logprob": -1.5, "rank": 2,
             "top_logprobs": [{"token_id": 7, "logprob": -1.5, "rank": 2}, {"token_id": 3, "logprob": -0.5, "rank": 1}]}]}}]})]);
        assert_eq!(outputs[0].log_probs, Some(vec![-1.5]));
        let top = &outputs[0].top_logprobs.as_ref().unwrap()[0];
        assert_eq!(top.iter().map(|t| (t.rank, t.token_id)).collect::<Vec<_>>(), [(1, 3), (2, 7)]);
    }

    #[test]
    fn alternatives_are_ranked_by_their_probability() {
        let (outputs, _) = outputs(&[json!({"choices": [{"token_ids": [7], "logprobs": {
            "token_logprobs": [-0.5], "tokens": ["token_id:7"],
            "top_logprobs": [{"token_id:3": -2.5, "token_id:7": -0.5}]}}]})]);
        assert_eq!(outputs[0].log_probs, Some(vec![-0.5]));
        let top: Vec<(u32, u32)> =
            outputs[0].top_logprobs.as_ref().unwrap()[0].iter().map(|t| (t.rank, t.token_id)).collect();
        assert_eq!(top, [(1, 7), (2, 3)]);
    }
}
