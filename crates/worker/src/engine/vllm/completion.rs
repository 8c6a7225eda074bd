//! One sequence in vLLM's words: `POST /v1/completions` with token ids in and token ids out. Pure.
//!
//! `/v1/completions` is there in every vLLM; `/inference/v1/generate` says the same with less around it, but only a
//! server started with `--enable-scale-out` has it.

use crate::engine::EngineError;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason, PromptTokensDetails, TopLogprob};
use protocol::request::{GuidedDecoding, PreprocessedRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The first vLLM that takes `structured_outputs`; earlier ones take `guided_json` and its siblings.
const STRUCTURED_OUTPUTS_SINCE: (u32, u32) = (0, 11);

/// What of the server decides how a request is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// The served name.
    pub(crate) model: String,
    /// Most tokens of prompt and answer together.
    pub(crate) context_length: u32,
    /// Major and minor version.
    pub(crate) version: (u32, u32),
}

/// Reads `0.32.0`, `0.11.1rc2.dev3+g12ab`; what is no version counts as new.
pub(crate) fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => (u32::MAX, 0),
    }
}

/// The body of `POST /v1/completions`.
///
/// # Errors
/// A prompt without room for an answer, and what this guest does not do: beam search, `best_of`, log-probabilities
/// of the prompt.
pub(crate) fn body(request: &PreprocessedRequest, dialect: &Dialect) -> Result<Value, EngineError> {
    let refuse = |text: &str| Err(EngineError::InvalidRequest(text.into()));
    let sampling = &request.sampling_options;
    if sampling.use_beam_search == Some(true) || sampling.best_of.is_some_and(|n| n > 1) {
        return refuse("sampling_options: beam search and best_of are not served; ask for n answers instead");
    }
    if request.output_options.prompt_logprobs.is_some() {
        return refuse("output_options.prompt_logprobs: log-probabilities of the prompt are not served");
    }
    let prompt_tokens = u32::try_from(request.token_ids.len()).unwrap_or(u32::MAX);
    let room = dialect.context_length.saturating_sub(prompt_tokens);
    if room == 0 {
        return Err(EngineError::PromptTooLong { prompt_tokens, context_length: dialect.context_length });
    }
    let routing = request.routing.as_ref();
    let adapter = routing.and_then(|routing| routing.lora_name.clone());
    let mut body = Map::new();
    body.insert("model".into(), json!(adapter.unwrap_or_else(|| dialect.model.clone())));
    body.insert("prompt".into(), json!(request.token_ids));
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({"include_usage": true, "continuous_usage_stats": true}));
    body.insert("return_token_ids".into(), json!(true));
    // vLLM's own default is 16 tokens.
    body.insert("max_tokens".into(), json!(request.stop_conditions.max_tokens.map_or(room, |max| max.min(room))));
    if let Some(salt) = routing.and_then(|routing| routing.cache_salt.as_deref()) {
        body.insert("cache_salt".into(), json!(salt));
    }
    add_sampling(&mut body, request);
    add_stops(&mut body, request);
    if let Some(guided) = &sampling.guided_decoding {
        add_guided(&mut body, guided, dialect.version)?;
    }
    Ok(Value::Object(body))
}

/// Absent fields stay absent: the server's defaults come from the model's generation config.
fn add_sampling(body: &mut Map<String, Value>, request: &PreprocessedRequest) {
    let sampling = &request.sampling_options;
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.into(), value);
        }
    };
    set("presence_penalty", sampling.presence_penalty.map(|v| json!(v)));
    set("frequency_penalty", sampling.frequency_penalty.map(|v| json!(v)));
    set("repetition_penalty", sampling.repetition_penalty.map(|v| json!(v)));
    set("temperature", sampling.temperature.map(|v| json!(v)));
    set("top_p", sampling.top_p.map(|v| json!(v)));
    set("top_k", sampling.top_k.map(|v| json!(v)));
    set("min_p", sampling.min_p.map(|v| json!(v)));
    set("seed", sampling.seed.map(|v| json!(v)));
    set("include_stop_str_in_output", sampling.include_stop_str_in_output.map(|v| json!(v)));
    set("logprobs", request.output_options.logprobs.map(|v| json!(v)));
    // The names of alternatives then are `token_id:N`, which is all that is wanted of them.
    set("return_tokens_as_token_ids", request.output_options.logprobs.map(|_| json!(true)));
}

fn add_stops(body: &mut Map<String, Value>, request: &PreprocessedRequest) {
    let stops = &request.stop_conditions;
    let ignore_eos = stops.ignore_eos == Some(true);
    let lists = [&stops.stop_token_ids, &stops.stop_token_ids_visible, &stops.stop_token_ids_hidden];
    let mut ids: Vec<u32> = lists.into_iter().flatten().flatten().copied().collect();
    // The hidden ones hold the end-of-sequence tokens, which `ignore_eos` is to go on after.
    ids.retain(|id| !(ignore_eos && request.eos_token_ids.contains(id)));
    ids.sort_unstable();
    ids.dedup();
    if !ids.is_empty() {
        body.insert("stop_token_ids".into(), json!(ids));
    }
    if let Some(stop) = stops.stop.as_ref().filter(|stop| !stop.is_empty()) {
        body.insert("stop".into(), json!(stop));
    }
    if let Some(min) = stops.min_tokens {
        body.insert("min_tokens".into(), json!(min));
    }
    if ignore_eos {
        body.insert("ignore_eos".into(), json!(true));
    }
}

fn add_guided(body: &mut Map<String, Value>, guided: &GuidedDecoding, version: (u32, u32)) -> Result<(), EngineError> {
    let kinds = [
        ("json", guided.json.clone()),
        ("regex", guided.regex.clone().map(Value::from)),
        ("choice", guided.choice.clone().map(Value::from)),
        ("grammar", guided.grammar.clone().map(Value::from)),
    ];
    let mut given = kinds.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
    let (Some((kind, value)), None) = (given.next(), given.next()) else {
        let text = "sampling_options.guided_decoding: give exactly one of json, regex, choice and grammar";
        return Err(EngineError::InvalidRequest(text.into()));
    };
    let whitespace = guided.whitespace_pattern.as_deref();
    if version >= STRUCTURED_OUTPUTS_SINCE {
        let mut outputs = Map::from_iter([(kind.to_owned(), value)]);
        if let Some(whitespace) = whitespace {
            outputs.insert("whitespace_pattern".into(), json!(whitespace));
        }
        body.insert("structured_outputs".into(), Value::Object(outputs));
    } else {
        body.insert(format!("guided_{kind}"), value);
        if let Some(whitespace) = whitespace {
            body.insert("guided_whitespace_pattern".into(), json!(whitespace));
        }
    }
    Ok(())
}

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

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Logprobs {
    #[serde(default)]
    token_logprobs: Vec<Option<f64>>,
    #[serde(default)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
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
            let text = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
            self.end = Some(EngineOutput { finish_reason: Some(FinishReason::Error(text)), ..of(Vec::new()) });
        }
        let choice = chunk.choices.into_iter().next()?;
        let mut output = of(choice.token_ids.unwrap_or_default());
        self.usage.completion_tokens += u32::try_from(output.token_ids.len()).unwrap_or(0);
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        if let Some(logprobs) = choice.logprobs {
            output.log_probs = Some(logprobs.token_logprobs.iter().map(|p| p.unwrap_or(f64::NEG_INFINITY)).collect());
            output.top_logprobs = Some(logprobs.top_logprobs.into_iter().map(alternatives).collect());
        }
        if let Some(reason) = choice.finish_reason {
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
            "abort" => FinishReason::Cancelled,
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

/// `{"token_id:5": -0.1, …}`, best first.
fn alternatives(named: Option<Map<String, Value>>) -> Vec<TopLogprob> {
    let mut list: Vec<TopLogprob> = named
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let token_id = name.strip_prefix("token_id:")?.parse().ok()?;
            Some(TopLogprob { rank: 0, token_id, token: None, logprob: value.as_f64()?, bytes: None })
        })
        .collect();
    list.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    for (alternative, rank) in list.iter_mut().zip(1..) {
        alternative.rank = rank;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::request::RoutingHints;

    fn dialect(minor: u32) -> Dialect {
        Dialect { model: "tiny".into(), context_length: 10, version: (0, minor) }
    }

    fn request(change: impl FnOnce(&mut PreprocessedRequest)) -> PreprocessedRequest {
        let mut request =
            PreprocessedRequest { token_ids: vec![1, 2, 3], eos_token_ids: vec![9], ..PreprocessedRequest::default() };
        change(&mut request);
        request
    }

    fn written(change: impl FnOnce(&mut PreprocessedRequest)) -> Value {
        body(&request(change), &dialect(32)).unwrap()
    }

    #[test]
    fn a_bare_request_asks_for_all_the_room_there_is_and_for_token_ids() {
        let body = written(|_| {});
        assert_eq!(body["prompt"], json!([1, 2, 3]));
        assert_eq!((&body["max_tokens"], &body["return_token_ids"]), (&json!(7), &json!(true)));
        assert_eq!(body["model"], "tiny");
        assert!(body.get("temperature").is_none() && body.get("stop_token_ids").is_none());
        assert_eq!(written(|r| r.stop_conditions.max_tokens = Some(4))["max_tokens"], 4);
        assert_eq!(written(|r| r.stop_conditions.max_tokens = Some(400))["max_tokens"], 7);
    }

    #[test]
    fn sampling_stops_adapter_and_salt_have_vllms_names() {
        let body = written(|r| {
            r.sampling_options.temperature = Some(0.5);
            r.sampling_options.top_k = Some(3);
            r.sampling_options.seed = Some(-1);
            r.output_options.logprobs = Some(2);
            r.stop_conditions.stop = Some(vec!["x".into()]);
            r.stop_conditions.stop_token_ids = Some(vec![5, 4]);
            r.stop_conditions.stop_token_ids_hidden = Some(vec![9, 5]);
            r.stop_conditions.min_tokens = Some(2);
            let routing = RoutingHints {
                lora_name: Some("adapter".into()),
                cache_salt: Some("tenant".into()),
                ..RoutingHints::default()
            };
            r.routing = Some(routing);
        });
        let expected = json!({"temperature": 0.5, "top_k": 3, "seed": -1, "logprobs": 2,
            "return_tokens_as_token_ids": true, "stop": ["x"], "stop_token_ids": [4, 5, 9], "min_tokens": 2,
            "model": "adapter", "cache_salt": "tenant"});
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&body[key], value, "{key}");
        }
    }

    #[test]
    fn ignore_eos_takes_the_end_tokens_out_of_the_stops() {
        let body = written(|r| {
            r.stop_conditions.ignore_eos = Some(true);
            r.stop_conditions.stop_token_ids_hidden = Some(vec![9]);
            r.stop_conditions.stop_token_ids = Some(vec![5]);
        });
        assert_eq!((&body["ignore_eos"], &body["stop_token_ids"]), (&json!(true), &json!([5])));
    }

    #[test]
    fn constraints_are_written_as_the_servers_version_takes_them() {
        let guided = GuidedDecoding { regex: Some("a+".into()), ..GuidedDecoding::default() };
        let request = request(|r| r.sampling_options.guided_decoding = Some(guided));
        assert_eq!(body(&request, &dialect(32)).unwrap()["structured_outputs"], json!({"regex": "a+"}));
        assert_eq!(body(&request, &dialect(10)).unwrap()["guided_regex"], "a+");
        assert_eq!((version("0.11.1rc2.dev3+g12ab"), version("dev")), ((0, 11), (u32::MAX, 0)));
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let refused = |change: fn(&mut PreprocessedRequest)| body(&request(change), &dialect(32)).unwrap_err();
        let text = |change| refused(change).to_string();
        assert!(text(|r| r.sampling_options.use_beam_search = Some(true)).contains("beam search"));
        assert!(text(|r| r.output_options.prompt_logprobs = Some(1)).contains("prompt_logprobs"));
        assert!(
            text(|r| r.sampling_options.guided_decoding = Some(GuidedDecoding::default())).contains("guided_decoding")
        );
        let long = refused(|r| r.token_ids = vec![1; 10]);
        assert_eq!(long, EngineError::PromptTooLong { prompt_tokens: 10, context_length: 10 });
    }

    fn outputs(chunks: &[Value]) -> (Vec<EngineOutput>, Option<EngineOutput>) {
        let mut answer = Answer::to(&request(|_| {}));
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
        assert_eq!(end("abort", Value::Null), FinishReason::Cancelled);
        assert!(matches!(end("repetition", Value::Null), FinishReason::Error(_)));
        let error = json!({"error": {"message": "EngineCore died", "code": 500}});
        assert_eq!(outputs(&[error]).1.unwrap().finish_reason, Some(FinishReason::Error("EngineCore died".into())));
        assert_eq!(outputs(&[json!({"choices": [{"token_ids": [1]}]})]).1, None, "cut in the middle");
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
