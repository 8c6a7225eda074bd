//! Requests: what the stock frontend refuses and takes, and what is ours.

use crate::data;
use frontend::openai::{ApiError, parse_chat, parse_completion};
use serde_json::{Value, json};

fn parse(path: &str, body: &str) -> Result<(), ApiError> {
    match path {
        "/v1/chat/completions" => parse_chat(body.as_bytes()).map(drop),
        _ => parse_completion(body.as_bytes()).map(drop),
    }
}

/// Parses a chat with these fields beside the least that is needed.
fn chat_with(fields: Value) -> Result<(), ApiError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    parse_chat(body.to_string().as_bytes()).map(drop)
}

fn completion_with(fields: Value) -> Result<(), ApiError> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    parse_completion(body.to_string().as_bytes()).map(drop)
}

#[track_caller]
fn check_refused(result: Result<(), ApiError>, param: &str, message: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{error}");
    assert!(error.message.contains(message), "{error}");
}

/// Requests that the stock frontend takes or refuses for reasons behind the parser.
const BEHIND_THE_PARSER: [&str; 2] = ["unknown_model", "too_long"];
/// Requests that the stock frontend takes and we refuse, as we say in the message.
const OURS_TO_REFUSE: [&str; 1] = ["ok_tools"];

#[test]
fn what_the_stock_frontend_refuses_is_refused_in_its_words_and_what_it_takes_is_taken() {
    let recorded = std::fs::read_to_string(data("stock-http.jsonl")).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for line in recorded.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        let name = pair["name"].as_str().unwrap();
        let ours = parse(pair["path"].as_str().unwrap(), pair["body"].as_str().unwrap());
        if BEHIND_THE_PARSER.contains(&name) || pair["status"] == 200 && !OURS_TO_REFUSE.contains(&name) {
            assert_eq!(ours, Ok(()), "{name}");
            taken += 1;
            continue;
        }
        let error = ours.expect_err(name);
        assert_eq!(error.status, 400, "{name}");
        refused += 1;
        if pair["status"] != 400 {
            continue;
        }
        let answer: Value = serde_json::from_str(pair["answer"].as_str().unwrap()).unwrap();
        let stock = answer["message"].as_str().unwrap();
        // Where a value was wrong the two libraries word it differently; where a field was wrong, they must not.
        let essence = stock.trim_start_matches("Failed to deserialize the JSON body into the target type: ");
        let essence = essence.trim_start_matches("Validation: ");
        let differs_in_words = essence.contains("untagged enum") || essence == "Invalid request";
        assert!(differs_in_words || error.message.contains(without_column(essence)), "{name}: {error}\nstock: {stock}");
    }
    assert!(taken >= 10 && refused >= 20, "{taken} taken, {refused} refused");
}

/// Without the place in the text: ours may notice an absent field elsewhere.
fn without_column(message: &str) -> &str {
    message.split(" at line ").next().unwrap()
}

#[test]
fn an_error_of_type_names_the_path_of_the_field() {
    let bad_role = json!({"messages": [{"role": "user", "content": "a"}, {"role": "wizard", "content": "x"}]});
    check_refused(chat_with(bad_role), "messages[1].role", "messages[1].role: unknown variant `wizard`");
    check_refused(chat_with(json!({"stop": ["a", 5]})), "stop[1]", "expected a string");
    check_refused(chat_with(json!({"stop": 5})), "stop", "a string or a list of strings");
    check_refused(chat_with(json!({"max_tokens": -1})), "max_tokens", "expected u32");
    check_refused(chat_with(json!({"nvext": {"top_k": 1}})), "nvext.top_k", "unknown field `top_k`, expected one of");
    check_refused(
        chat_with(json!({"stream_options": {"include_usage": "yes"}})),
        "stream_options.include_usage",
        "bool",
    );
    check_refused(completion_with(json!({"prompt": [[1, 2], [3, "x"]]})), "prompt[1][1]", "expected u32");
    check_refused(completion_with(json!({"prompt": [1, "a"]})), "prompt", "token ids and whole prompts");
    check_refused(completion_with(json!({"prompt": null})), "prompt", "missing field `prompt`");
    check_refused(parse_chat(b"{\"messages\":[]}").map(drop), "model", "missing field `model`");
}

#[test]
fn every_violation_is_told_and_the_first_is_the_param() {
    let error = chat_with(json!({"temperature": 9, "top_p": -1, "n": 0, "stop": "", "min_p": 2})).unwrap_err();
    let expected = "Validation: Temperature must be between 0 and 2, got 9; Top_p must be between 0 and 1, got -1; Min_p \
                    must be between 0 and 1, got 2; n must be between 1 and 128, got 0; Stop sequence cannot be empty";
    assert_eq!((error.message.as_str(), error.param.as_deref()), (expected, Some("temperature")));
}

#[test]
fn ranges_hold_at_their_ends() {
    for good in [
        json!({"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 1, "n": 128, "repetition_penalty": 2}),
        json!({"temperature": 2, "top_p": 0, "top_k": 0, "presence_penalty": -2, "frequency_penalty": 2, "seed": -5}),
        json!({"logprobs": true, "top_logprobs": 20, "stop": vec!["a"; 32], "min_tokens": 3, "max_completion_tokens": 3}),
        json!({"tool_choice": "none", "tools": [], "response_format": {"type": "text"}, "temperature": null}),
        json!({"metadata": {"a": 1}, "store": true, "service_tier": "auto", "user": "u", "parallel_tool_calls": true}),
    ] {
        assert_eq!(chat_with(good.clone()), Ok(()), "{good}");
    }
    check_refused(chat_with(json!({"top_k": -2})), "top_k", "got -2");
    check_refused(chat_with(json!({"repetition_penalty": 0})), "repetition_penalty", "got 0");
    check_refused(chat_with(json!({"temperature": 1e300})), "temperature", "got inf");
    check_refused(chat_with(json!({"min_tokens": 4, "max_tokens": 3})), "min_tokens", "at most max tokens (3), got 4");
    check_refused(chat_with(json!({"max_completion_tokens": 0})), "max_completion_tokens", "greater than 0");
    check_refused(chat_with(json!({"stop": "x".repeat(5000)})), "stop", "at most 4096 bytes, got 5000");
    check_refused(chat_with(json!({"stop_token_ids": vec![1; 257]})), "stop_token_ids", "Maximum of 256");
    check_refused(completion_with(json!({"logprobs": 6})), "logprobs", "between 0 and 5, got 6");
    check_refused(completion_with(json!({"prompt": vec!["a"; 65], "n": 2})), "prompt", "at most 128, got 65 × 2");
    check_refused(completion_with(json!({"prompt": []})), "prompt", "cannot be empty");
    check_refused(completion_with(json!({"prompt": ["a", ""]})), "prompt", "prompt 1 is empty");
}

#[test]
fn what_is_not_served_is_refused_by_name_and_not_ignored() {
    let tool = json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"});
    check_refused(chat_with(tool), "tools", "not supported yet");
    check_refused(chat_with(json!({"tool_choice": "required"})), "tool_choice", "needs tools");
    check_refused(chat_with(json!({"logit_bias": {"5": 1}})), "logit_bias", "not supported");
    check_refused(chat_with(json!({"functions": []})), "functions", "Unsupported parameter(s): `functions`");
    check_refused(chat_with(json!({"prompt": "x"})), "prompt", "Unsupported parameter(s): `prompt`");
    check_refused(chat_with(json!({"modalities": ["text", "audio"]})), "modalities", "`text`");
    check_refused(completion_with(json!({"messages": []})), "messages", "Unsupported parameter(s): `messages`");
    check_refused(completion_with(json!({"best_of": 2})), "best_of", "unless it equals n");
    check_refused(completion_with(json!({"suffix": "x"})), "suffix", "not supported");
    check_refused(completion_with(json!({"echo": true, "logprobs": 1})), "echo", "not supported");
    check_refused(chat_with(json!({"logprobs": 2})), "logprobs", "true or false");
    check_refused(chat_with(json!({"top_logprobs": 2})), "top_logprobs", "needs logprobs");
    check_refused(chat_with(json!({"stream_options": {}})), "stream_options", "'stream' is enabled");
    let image =
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]});
    check_refused(chat_with(image), "messages[0].content[1].type", "`image_url` is not supported");
    check_refused(chat_with(json!({"nvext": {"extra_fields": ["x"]}})), "nvext.extra_fields", "`x`");
}

#[test]
fn each_way_to_constrain_the_output_becomes_one_constraint() {
    let guided = |fields: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let request = parse_chat(body.to_string().as_bytes()).unwrap();
        serde_json::to_value(request.common.sampling.guided_decoding).unwrap()
    };
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    assert_eq!(guided(json!({"response_format": {"type": "json_object"}})), json!({"json": {"type": "object"}}));
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    assert_eq!(guided(json!({"response_format": format})), json!({"json": schema}));
    assert_eq!(guided(json!({"guided_json": schema.to_string()})), json!({"json": schema}));
    assert_eq!(guided(json!({"guided_regex": "a+"})), json!({"regex": "a+"}));
    assert_eq!(guided(json!({"guided_choice": ["a", "b"]})), json!({"choice": ["a", "b"]}));
    let grammar =
        json!({"guided_grammar": "start: \"a\"", "guided_decoding_backend": "x", "guided_whitespace_pattern": " "});
    let expected = json!({"grammar": "start: \"a\"", "backend": "x", "whitespace_pattern": " "});
    assert_eq!(guided(grammar), expected);
    assert_eq!(guided(json!({"response_format": {"type": "text"}})), Value::Null);

    let two = json!({"guided_regex": "a", "response_format": {"type": "json_object"}});
    check_refused(chat_with(two), "guided_regex", "got response_format, guided_regex");
    check_refused(chat_with(json!({"response_format": {"type": "xml"}})), "response_format.type", "got `xml`");
    let bare = json!({"response_format": {"type": "json_schema"}});
    check_refused(chat_with(bare), "response_format.json_schema.schema", "needs json_schema.schema");
    check_refused(chat_with(json!({"guided_json": "{"})), "guided_json", "no JSON");
    check_refused(chat_with(json!({"guided_choice": []})), "guided_choice", "at least one");
    check_refused(chat_with(json!({"guided_regex": "a".repeat(300_000)})), "guided_regex", "at most 262144 bytes");
}

#[test]
fn deep_and_strange_json_is_an_error_and_never_a_crash() {
    let deep = format!("{{\"model\":\"m\",\"messages\":[],\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(parse_chat(deep.as_bytes()).unwrap_err().status, 400);
    for bytes in
        [&b""[..], b"null", b"[]", b"\xff\xfe", b"{\"model\":1}", b"{} {}", b"{\"model\":\"a\",\"model\":\"b\"}"]
    {
        assert_eq!(parse_chat(bytes).unwrap_err().status, 400, "{bytes:?}");
    }
}

/// A chat whose `temperature` stands in the body as it is given here.
fn chat_of(fields: &str) -> Result<(), ApiError> {
    parse_chat(format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{fields}}}"#).as_bytes()).map(drop)
}

/// Scenario 57.
#[test]
fn malformed_json_is_refused_with_the_path_of_the_field() {
    check_refused(chat_of(r#","user":"\ud800""#), "user", "hex escape");
    check_refused(chat_of(r#","user":"\ud800x""#), "user", "hex escape");
    check_refused(chat_of(r#","user":"\udc00""#), "user", "surrogate");
    check_refused(chat_of(",\"user\":\"a\u{0}b\""), "user", "control character");
    check_refused(chat_of(r#","temperature":1e999"#), "temperature", "number out of range");
    check_refused(chat_of(r#","temperature":-1e999"#), "temperature", "number out of range");
    check_refused(chat_of(r#","temperature":NaN"#), "temperature", "expected");
    check_refused(chat_of(r#","seed":9223372036854775808"#), "seed", "i64");
    check_refused(chat_of(r#","seed":1e18"#), "seed", "floating point");
    check_refused(chat_of(r#","n":4294967296"#), "n", "u32");
    check_refused(chat_of(&format!(",\"n\":{}", "9".repeat(400))), "n", "number out of range");
    check_refused(chat_of(&format!(",\"seed\":{}", "9".repeat(100_000))), "seed", "number out of range");
    assert_eq!(chat_of(r#","top_p":0x10"#).unwrap_err().status, 400, "no number ends so");
    check_refused(chat_of(r#","temperature":1,"temperature":2"#), "temperature", "duplicate field `temperature`");
    check_refused(chat_of(r#","chat_template_kwargs":{},"chat_template_args":{}"#), "chat_template_args", "duplicate");
    check_refused(chat_of(r#","nvext":{"dp_rank":1,"dp_rank":2}"#), "nvext", "duplicate field `dp_rank`");
    check_refused(chat_of(r#","model":"n""#), "model", "duplicate field `model`");
    check_refused(chat_of(r#","chat_template_kwargs":{"a":{"b":[1,1e999]}}"#), "chat_template_kwargs.a.b[1]", "range");
    let roles = r#","n":1,"messages":[{"role":"user","content":"x","role":"system"}]"#;
    check_refused(
        parse_chat(format!(r#"{{"model":"m"{roles}}}"#).as_bytes()).map(drop),
        "messages[0]",
        "duplicate field `role`",
    );

    let mut bytes = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#.to_vec();
    let at = bytes.windows(3).position(|window| window == b"\"x\"").unwrap() + 1;
    for malformed in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"] {
        let mut body = bytes.clone();
        body.splice(at..=at, malformed.iter().copied());
        check_refused(parse_chat(&body).map(drop), "messages[0].content", "invalid unicode code point");
    }
    bytes.push(0);
    assert_eq!(parse_chat(&bytes).unwrap_err().status, 400, "a NUL behind the end");
    // Written out it is a character like any other, and stays one.
    assert_eq!(chat_of(r#","user":"a\u0000b""#), Ok(()));
}

#[test]
fn a_body_that_is_small_on_the_wire_and_large_in_memory_is_refused() {
    let nested = |levels: usize| format!(",\"metadata\":{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(chat_of(&nested(63)), Ok(()));
    check_refused(chat_of(&nested(64)), "metadata", "64 levels deep");
    check_refused(chat_of(&format!(",\"metadata\":[{}0]", "0,".repeat(5 << 20))), "metadata", "4194304 values");
    let many = vec![r#"{"role":"user"}"#; 20_000].join(",");
    let error = parse_chat(format!(r#"{{"model":"m","messages":[{many}]}}"#).as_bytes()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
    assert!(error.message.contains("a maximum of 16384 messages"), "{error}");
}

/// Scenario 60: nothing that a message may hold besides text is taken, so nothing is ever fetched for a client.
#[test]
fn parts_that_name_something_to_fetch_are_refused_by_name() {
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://metadata.google.internal/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:image/png;base64,AAAA",
        "//127.0.0.1/x",
    ] {
        for (kind, part) in [
            ("image_url", json!({"type": "image_url", "image_url": {"url": url}})),
            ("image_url", json!({"type": "image_url", "image_url": url, "text": "x"})),
            ("input_image", json!({"type": "input_image", "image_url": url})),
            ("video_url", json!({"type": "video_url", "video_url": {"url": url}})),
            ("audio_url", json!({"type": "audio_url", "audio_url": {"url": url}})),
            ("input_audio", json!({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}})),
            ("file", json!({"type": "file", "file": {"file_data": url}})),
        ] {
            let messages = json!({"messages": [{"role": "user", "content": [part]}]});
            check_refused(chat_with(messages), "messages[0].content[0].type", &format!("`{kind}` is not supported"));
        }
    }
}
