//! `busbar up` with the real model: the journey of a newcomer, without the download (the model is in the tests' cache).
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Machine, kill, part, post, stream};
use serde_json::{Value, json};

const NAME: &str = "SmolLM2-135M-Instruct";

fn started() -> Option<(Machine, String)> {
    let cache = part("BUSBAR_TEST_CACHE")?;
    let machine = Machine::new();
    let url = machine.up_with(&["--engine", "embedded"], &[("BUSBAR_CACHE_DIR", &cache)]);
    Some((machine, url))
}

fn ask(url: &str, text: &str, extra: &Value) -> Value {
    let mut body =
        json!({"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": 64, "temperature": 0});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &body);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_real_model_answers_with_sense_with_schema_and_from_its_cache() {
    let Some((machine, url)) = started() else { return };
    let answer = ask(&url, "What is the capital of France? Answer in one short sentence.", &json!({}));
    assert!(text(&answer).contains("Paris"), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let schema = json!({"type": "object", "required": ["city", "population"], "additionalProperties": false,
                        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "city", "schema": schema}});
    let answer = ask(&url, "Tell me about Paris as JSON.", &json!({"response_format": format}));
    let parsed: Value = serde_json::from_str(text(&answer)).unwrap_or_else(|e| panic!("{e}: {}", text(&answer)));
    assert!(parsed["city"].is_string() && parsed["population"].is_i64(), "{parsed}");
    let answer = ask(&url, "Is the sky blue?", &json!({"guided_choice": ["yes", "no"]}));
    assert!(["yes", "no"].contains(&text(&answer)), "{answer}");

    let long = "Tell me a story about a fox and a dog in the forest. ".repeat(12);
    let first = ask(&url, &long, &json!({"max_tokens": 4}));
    machine::until("the repeated prompt to come from the cache", || {
        let again = ask(&url, &long, &json!({"max_tokens": 4}));
        let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (cached > 100 && text(&again) == text(&first)).then_some(())
    });
    drop(machine);
}

#[test]
fn kill_9_of_a_worker_leaves_what_was_said_untouched_and_the_answer_goes_on() {
    let Some((machine, url)) = started() else { return };
    let body = json!({"model": NAME, "max_tokens": 150, "temperature": 0, "stream": true, "ignore_eos": true,
                      "messages": [{"role": "user", "content": "Count from one to fifty in words."}],
                      "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]}});
    let mut before = String::new();
    let got = stream(&url, &body, |so_far| {
        if so_far.deltas >= 15 && before.is_empty() {
            before.clone_from(&so_far.text);
            kill(machine.process_of(so_far.workers[0]).1, "-9");
        }
    });
    assert!(got.done && got.errors.is_empty(), "{:?}", got.errors);
    assert!(got.text.starts_with(&before) && got.text.len() > before.len(), "{}", got.text);
    assert_eq!(got.workers.len(), 2, "the stream did not move");
    assert_eq!(got.usage.unwrap()["completion_tokens"], 150, "a token was lost or doubled");
}
