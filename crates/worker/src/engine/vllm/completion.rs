//! A request in vLLM's words: `POST /v1/completions` with token ids in and token ids out. Pure.
//!
//! `/v1/completions` is there in every vLLM; where the server has `/inference/v1/generate` too, that is used
//! ([`super::generate`]). The streams of both are read by [`super::answer`].

use crate::engine::EngineError;
use protocol::request::{GuidedDecoding, PreprocessedRequest};
use serde_json::{Map, Value, json};

/// The first vLLM that takes `structured_outputs`; earlier ones take `guided_json` and its siblings.
const STRUCTURED_OUTPUTS_SINCE: Version = (0, 11, 0);

/// Where a sequence is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `POST /inference/v1/generate`.
    Generate,
    /// `POST /v1/completions`.
    Completions,
}

impl Api {
    /// The path of its URL.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Generate => "/inference/v1/generate",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What of the server decides how a request is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dialect {
    /// Where sequences are asked for.
    pub(crate) api: Api,
    /// The served name.
    pub(crate) model: String,
    /// Most tokens of prompt and answer together.
    pub(crate) context_length: u32,
    /// Its version.
    pub(crate) version: Version,
    /// Sampling parameters of the model's generation config, which the completions API fills in by itself.
    pub(crate) sampling_defaults: Map<String, Value>,
}

/// Major, minor, patch.
pub(crate) type Version = (u32, u32, u32);

/// Reads `0.32.0`, `0.11.1rc2.dev3+g12ab`; what is no version (a build from a bare source tree calls itself `dev` or
/// `0.1.dev1+g12ab`) counts as new.
pub(crate) fn version(text: &str) -> Version {
    const NEW: Version = (u32::MAX, 0, 0);
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let mut parts = text.split(['.', '+']);
    match (parts.next().and_then(digits), parts.next().and_then(digits), parts.next()) {
        (Some(0), Some(1), Some(dev)) if dev.starts_with("dev") => NEW,
        (Some(major), Some(minor), patch) => (major, minor, patch.and_then(digits).unwrap_or(0)),
        _ => NEW,
    }
}

/// The body of a request, where the server wants it.
///
/// # Errors
/// As [`body`].
pub(crate) fn request_body(request: &PreprocessedRequest, dialect: &Dialect) -> Result<Value, EngineError> {
    match dialect.api {
        Api::Generate => super::generate::body(request, dialect),
        Api::Completions => body(request, dialect),
    }
}

/// The body of `POST /v1/completions`.
///
/// # Errors
/// A prompt without room for an answer, and what this guest does not do: beam search, `best_of`, log-probabilities
/// of the prompt.
pub(crate) fn body(request: &PreprocessedRequest, dialect: &Dialect) -> Result<Value, EngineError> {
    fields(request, dialect).map(Value::Object)
}

/// The fields of that body.
///
/// # Errors
/// As [`body`].
pub(crate) fn fields(request: &PreprocessedRequest, dialect: &Dialect) -> Result<Map<String, Value>, EngineError> {
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
    Ok(body)
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

fn add_guided(body: &mut Map<String, Value>, guided: &GuidedDecoding, version: Version) -> Result<(), EngineError> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use protocol::request::RoutingHints;

    pub(crate) fn dialect(minor: u32) -> Dialect {
        Dialect {
            api: Api::Completions,
            model: "tiny".into(),
            context_length: 10,
            version: (0, minor, 0),
            sampling_defaults: Map::new(),
        }
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
        assert_eq!((version("0.11.1rc2.dev3+g12ab"), version("dev")), ((0, 11, 1), (u32::MAX, 0, 0)));
        assert_eq!((version("0.10.2"), version("0.1.dev1+g12ab")), ((0, 10, 2), (u32::MAX, 0, 0)));
        assert_eq!((version("0.32.0+cpu"), version("1.2")), ((0, 32, 0), (1, 2, 0)));
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
}
