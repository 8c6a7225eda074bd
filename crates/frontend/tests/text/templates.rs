//! Chat templates against what Python's jinja2 made of them (`data/templates/expected.py`).

use crate::data;
use frontend::text::template::TemplateMessage;
use frontend::text::{ChatTemplate, TemplateError, TemplateInput};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Only a defect reaches it: the fuel of one rendering is gone within a second or two.
const CAP: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_465_820)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(data("templates").join(name)).unwrap()
}

fn compile(source: &str) -> ChatTemplate {
    let tokens = vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    ChatTemplate::compile(source, tokens).unwrap()
}

fn message(value: &Value) -> TemplateMessage {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let roles = ["system", "user", "assistant", "tool"];
    TemplateMessage {
        role: roles.into_iter().find(|role| value["role"] == *role).unwrap(),
        content: text("content"),
        name: text("name"),
        tool_calls: value.get("tool_calls").and_then(Value::as_array).cloned(),
        tool_call_id: text("tool_call_id"),
        reasoning_content: text("reasoning_content"),
    }
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, TemplateError> {
    let messages: Vec<TemplateMessage> = case["messages"].as_array().unwrap().iter().map(message).collect();
    let args = case.get("args").and_then(Value::as_object).cloned().unwrap_or_default();
    let add_generation_prompt = case.get("add_generation_prompt").and_then(Value::as_bool).unwrap_or(true);
    template.render(TemplateInput { messages: &messages, add_generation_prompt, args: &args, now: now() })
}

#[test]
fn every_template_renders_what_python_renders() {
    let expected: Map<String, Value> = serde_json::from_str(&read("expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&read("cases.json")).unwrap();
    let mut compared = 0;
    for name in ["alternating", "chatml", "headers", "oddities", "parts", "reasoning"] {
        let template = compile(&read(&format!("{name}.jinja")));
        for case in &cases {
            let key = format!("{name}/{}", case["name"].as_str().unwrap());
            let ours = match render(&template, case) {
                Ok(text) => json!({"text": text}),
                Err(TemplateError::Refused(complaint)) => json!({"refused": complaint}),
                Err(error) => panic!("{key}: {error}"),
            };
            assert_eq!(ours, expected[&key], "{key}");
            compared += 1;
        }
    }
    assert_eq!(compared, expected.len());
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let template = compile(
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    );
    let error = render(&template, &json!({"messages": []})).unwrap_err();
    assert!(matches!(error, TemplateError::Failed(_)), "{error}");
}

/// Scenario 59: each of these would take the machine's memory or its time, were it let.
#[test]
fn a_template_that_grows_without_end_is_stopped() {
    let mut faults = Vec::new();
    for bomb in [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ range(1000000000) | join('x') }}",
        "{{ range(100000000) | list | length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ ('x' * 100000) | replace('x', 'x' * 100000) }}",
        "{{ '%2000000000d' | format(1) }}",
        "{{ 'x'.center(4000000000) }}",
        "{{ ['x'] * 1000000000 }}",
        "{% for m in messages %}{% for i in range(100000) %}{{ m.content }}{% endfor %}{% endfor %}",
    ] {
        let (done, waiting) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let template = match ChatTemplate::compile(bomb, Vec::new()) {
                Ok(template) => template,
                // Better still.
                Err(error) => return done.send(Err(error)),
            };
            let content = "x".repeat(100_000);
            done.send(
                render(&template, &json!({"messages": [{"role": "user", "content": content}]})).map(|text| text.len()),
            )
        });
        match waiting.recv_timeout(CAP) {
            Ok(Err(TemplateError::Failed(_) | TemplateError::Compile(_))) => {}
            other => faults.push(format!("{bomb}: {other:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_template_that_does_not_compile_says_where() {
    let error = ChatTemplate::compile("a\n{% if %}", Vec::new()).unwrap_err();
    assert!(matches!(&error, TemplateError::Compile(why) if why.contains("line 2")), "{error}");
}

#[test]
fn the_default_of_several_named_templates_is_taken_and_a_file_wins_over_all() {
    let config = json!({"bos_token": {"content": "<b>"}, "eos_token": null, "chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}plain{{ eos_token }}"}]});
    let case = json!({"messages": []});
    let of_config = ChatTemplate::of_model(None, &config).unwrap().unwrap();
    assert_eq!(render(&of_config, &case).unwrap(), "<b>plain");
    let of_file = ChatTemplate::of_model(Some("file"), &config).unwrap().unwrap();
    assert_eq!(render(&of_file, &case).unwrap(), "file");
    assert!(ChatTemplate::of_model(None, &Value::Null).unwrap().is_none());
}

#[test]
fn a_request_cannot_overwrite_what_the_server_decides() {
    let template = compile("{{ messages | length }} {{ bos_token }} {{ own }}");
    let case = json!({"messages": [], "args": {"messages": [1, 2], "bos_token": "x", "own": "y"}});
    assert_eq!(render(&template, &case).unwrap(), "0 x y");
}
