//! One sequence by `POST /inference/v1/generate`: token ids in and out with nothing of text around them. Pure.
//!
//! A server has it with `--enable-scale-out`. Its stream has the chunks of `/v1/completions`, which [`super::completion`]
//! reads; only its request differs.

use super::completion::{self, Dialect};
use crate::engine::EngineError;
use protocol::request::PreprocessedRequest;
use serde_json::{Map, Value, json};

/// What the completions API fills in from the model's generation config, and this one leaves at vLLM's neutral values.
const FROM_GENERATION_CONFIG: [&str; 5] = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];

/// The body.
///
/// # Errors
/// As [`completion::body`].
pub(crate) fn body(request: &PreprocessedRequest, dialect: &Dialect) -> Result<Value, EngineError> {
    let mut sampling = dialect.sampling_defaults.clone();
    let mut body = Map::new();
    for (key, value) in completion::fields(request, dialect)? {
        match key.as_str() {
            "prompt" => body.insert("token_ids".into(), value),
            "model" | "cache_salt" => body.insert(key, value),
            // Words of the completions API alone.
            "return_token_ids" | "return_tokens_as_token_ids" | "stream" | "stream_options" => None,
            // All else is a sampling parameter, and has one name in both.
            _ => sampling.insert(key, value),
        };
    }
    body.insert("sampling_params".into(), Value::Object(sampling));
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({"include_usage": true}));
    Ok(Value::Object(body))
}

/// The server's defaults in what `/v1/completions/render` says of an empty request; one prompt gives one request, told
/// as a list or alone.
pub(crate) fn sampling_defaults(rendered: &Value) -> Map<String, Value> {
    let request = rendered.get(0).unwrap_or(rendered);
    let told = request.get("sampling_params").and_then(Value::as_object);
    let wanted = told.into_iter().flatten().filter(|(key, _)| FROM_GENERATION_CONFIG.contains(&key.as_str()));
    wanted.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::request::{GuidedDecoding, RoutingHints};

    #[test]
    fn sampling_parameters_move_into_their_object_over_the_servers_defaults() {
        let rendered = json!([{"token_ids": [0], "sampling_params":
            {"temperature": 0.2, "top_p": 0.9, "max_tokens": 1, "output_kind": 2}}]);
        let dialect = Dialect { sampling_defaults: sampling_defaults(&rendered), ..completion::tests::dialect(32) };
        let mut request = PreprocessedRequest { token_ids: vec![1, 2, 3], ..PreprocessedRequest::default() };
        request.sampling_options.temperature = Some(0.0);
        request.output_options.logprobs = Some(2);
        request.stop_conditions.stop_token_ids = Some(vec![5]);
        request.sampling_options.guided_decoding =
            Some(GuidedDecoding { regex: Some("a+".into()), ..GuidedDecoding::default() });
        request.routing = Some(RoutingHints { cache_salt: Some("tenant".into()), ..RoutingHints::default() });
        let expected = json!({"model": "tiny", "token_ids": [1, 2, 3], "cache_salt": "tenant",
            "sampling_params": {"temperature": 0.0, "top_p": 0.9, "max_tokens": 7, "logprobs": 2, "stop_token_ids": [5],
                "structured_outputs": {"regex": "a+"}},
            "stream": true, "stream_options": {"include_usage": true}});
        assert_eq!(body(&request, &dialect).unwrap(), expected);
    }

    #[test]
    fn defaults_are_read_from_a_list_or_alone_and_from_nothing_none() {
        let alone = json!({"sampling_params": {"repetition_penalty": 1.1}});
        assert_eq!(sampling_defaults(&alone)["repetition_penalty"], 1.1);
        for nothing in [json!([]), json!({"detail": "Not Found"}), Value::Null] {
            assert!(sampling_defaults(&nothing).is_empty(), "{nothing}");
        }
    }
}
