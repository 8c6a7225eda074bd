//! Constrained output: `response_format` and the `guided_*` fields become one [`GuidedDecoding`].

use crate::openai::body::{Body, ResponseFormat};
use crate::openai::request::MAX_GUIDED_BYTES;
use crate::openai::validate::Violations;
use protocol::request::GuidedDecoding;
use serde_json::{Value, json};

/// The constraint of a request, if it has one. More than one is a violation.
pub(crate) fn constraint(body: &mut Body, violations: &mut Violations) -> Option<GuidedDecoding> {
    let format = body.response_format.take();
    let mut found: Vec<(&str, GuidedDecoding)> = Vec::new();
    if let Some(json) = format.and_then(|format| schema_of_format(format, violations)) {
        found.push(("response_format", of_json(json)));
    }
    if let Some(json) = body.guided_json.take().and_then(|json| schema_of_text(json, violations)) {
        found.push(("guided_json", of_json(json)));
    }
    if let Some(regex) = body.guided_regex.take() {
        found.push(("guided_regex", GuidedDecoding { regex: Some(regex), ..GuidedDecoding::default() }));
    }
    if let Some(choice) = body.guided_choice.take() {
        if choice.is_empty() || choice.iter().any(String::is_empty) {
            violations.add("guided_choice", "guided_choice must hold at least one text and no empty one");
        }
        found.push(("guided_choice", GuidedDecoding { choice: Some(choice), ..GuidedDecoding::default() }));
    }
    if let Some(grammar) = body.guided_grammar.take() {
        found.push(("guided_grammar", GuidedDecoding { grammar: Some(grammar), ..GuidedDecoding::default() }));
    }
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        violations.add(names[1], format!("Only one constraint of the output is allowed, got {}", names.join(", ")));
    }
    let (name, mut guided) = found.into_iter().next()?;
    guided.backend = body.guided_decoding_backend.take();
    guided.whitespace_pattern = body.guided_whitespace_pattern.take();
    check_size(name, &guided, violations);
    Some(guided)
}

fn of_json(json: Value) -> GuidedDecoding {
    GuidedDecoding { json: Some(json), ..GuidedDecoding::default() }
}

fn schema_of_format(format: ResponseFormat, violations: &mut Violations) -> Option<Value> {
    match format.kind.as_str() {
        "text" => None,
        "json_object" => Some(json!({"type": "object"})),
        "json_schema" => {
            let schema = format.json_schema.and_then(|s| s.schema);
            match schema {
                Some(schema) if schema.is_object() || schema.is_boolean() => return Some(schema),
                Some(_) => violations.add("response_format.json_schema.schema", "The schema must be a JSON object"),
                None => violations.add(
                    "response_format.json_schema.schema",
                    "response_format of type json_schema needs json_schema.schema",
                ),
            }
            None
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            let allowed = "text, json_object or json_schema";
            violations.add("response_format.type", format!("response_format.type must be {allowed}, got `{shown}`"));
            None
        }
    }
}

/// `guided_json` may be the schema or its text.
fn schema_of_text(json: Value, violations: &mut Violations) -> Option<Value> {
    let parsed = match json {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| format!("guided_json is no JSON: {error}")),
        other => Ok(other),
    };
    match parsed {
        Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Some(schema),
        Ok(_) => {
            violations.add("guided_json", "guided_json must be a JSON schema: an object, or its text");
            None
        }
        Err(message) => {
            violations.add("guided_json", message);
            None
        }
    }
}

fn check_size(name: &str, guided: &GuidedDecoding, violations: &mut Violations) {
    let size = serde_json::to_string(guided).map_or(0, |text| text.len());
    if size > MAX_GUIDED_BYTES {
        violations.add(name, format!("{name} may have at most {MAX_GUIDED_BYTES} bytes as JSON, got {size}"));
    }
}
