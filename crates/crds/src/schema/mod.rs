//! Structural schemas, made from the Rust types.
//!
//! A structural schema gives every value a type, holds no `$ref` and no `nullable`, and says with `x-kubernetes-*` what
//! plain OpenAPI cannot. Source: Kubernetes, "Specifying a structural schema".

pub(crate) mod kubernetes;
pub(crate) mod published;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// Keys of a schema that hold schemas by name.
const NAMED: &[&str] = &["properties"];
/// Keys that structural schemas do not know or must not hold.
const FOREIGN: &[&str] = &["$schema", "$defs", "title", "nullable", "default"];
/// Formats that the API server knows; schemars also writes its own, such as `uint32` and `double`.
const FORMATS: &[&str] = &["int32", "int64", "date-time", "byte"];

/// The structural schema of `T`.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    structural(schema.to_value())
}

/// Makes a JSON schema structural: `Option` is absence, defaults are those that the type names, names are sorted.
fn structural(schema: Value) -> Value {
    let Value::Object(map) = schema else {
        // `true` stands for any value.
        return json!({ "x-kubernetes-preserve-unknown-fields": true });
    };
    let mut map = without_null(map);
    for key in FOREIGN {
        map.shift_remove(*key);
    }
    if let Some(default) = map.shift_remove("x-default") {
        map.insert("default".to_owned(), default);
    }
    if map.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        map.shift_remove("format");
    }
    if map.contains_key("x-kubernetes-int-or-string") {
        map.shift_remove("type");
        map.shift_remove("format");
        map.insert("anyOf".to_owned(), json!([{ "type": "integer" }, { "type": "string" }]));
    }
    // Objects that forbid other keys: pruning does that, and the API server refuses the keyword beside `properties`.
    if map.contains_key("properties") {
        map.shift_remove("additionalProperties");
    }
    for key in NAMED {
        if let Some(Value::Object(named)) = map.shift_remove(*key) {
            let mut named: Vec<_> = named.into_iter().map(|(name, schema)| (name, structural(schema))).collect();
            named.sort_by(|a, b| a.0.cmp(&b.0));
            map.insert((*key).to_owned(), Value::Object(named.into_iter().collect()));
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = map.shift_remove(key) {
            map.insert(key.to_owned(), structural(schema));
        }
    }
    map.sort_keys();
    Value::Object(map)
}

/// Takes `null` out of what a value may be: for Kubernetes an absent field and a null field are one.
fn without_null(mut map: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(kinds)) = map.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = map.get("anyOf") {
        let real: Vec<_> = choices.iter().filter(|choice| choice.get("type") != Some(&json!("null"))).collect();
        if let ([Value::Object(only)], true) = (real.as_slice(), real.len() < choices.len()) {
            let only = only.clone();
            map.shift_remove("anyOf");
            // What the field says of itself (its description) outranks what its type says.
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
            return without_null(map);
        }
    }
    map
}

/// An integer or a text, as quantities and ports are written.
pub(crate) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "x-kubernetes-int-or-string": true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    fn check(schema: Value, expected: &Value) {
        assert_eq!(&structural(schema), expected);
    }

    #[test]
    fn an_optional_value_is_one_that_may_be_absent() {
        check(json!({"type": ["string", "null"], "enum": ["a", null]}), &json!({"type": "string", "enum": ["a"]}));
        check(
            json!({"description": "d", "anyOf": [{"type": "object", "description": "e"}, {"type": "null"}]}),
            &json!({"description": "d", "type": "object"}),
        );
    }

    #[test]
    fn foreign_keys_and_formats_go_at_any_depth() {
        check(
            json!({"title": "T", "type": "object", "properties": {
                "b": {"type": "integer", "format": "uint8", "default": 3},
                "a": {"type": "array", "items": {"type": ["string", "null"], "default": null}},
            }}),
            &json!({"type": "object", "properties": {
                "a": {"type": "array", "items": {"type": "string"}},
                "b": {"type": "integer"},
            }}),
        );
    }

    #[test]
    fn a_named_default_stays_and_a_quantity_is_a_number_or_a_text() {
        check(json!({"type": "string", "x-default": "a"}), &json!({"type": "string", "default": "a"}));
        check(
            json!({"x-kubernetes-int-or-string": true, "type": "string"}),
            &json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true}),
        );
    }

    #[test]
    fn any_value_is_kept_as_it_is() {
        check(json!(true), &json!({"x-kubernetes-preserve-unknown-fields": true}));
    }

    #[test]
    fn documentation_of_a_field_becomes_its_description() {
        /// A thing.
        #[derive(Serialize, JsonSchema)]
        struct Thing {
            /// How many.
            count: Option<u32>,
        }
        let schema = of::<Thing>();
        assert_eq!(schema["description"], "A thing.");
        assert_eq!(schema["properties"]["count"]["description"], "How many.");
        assert_eq!(schema["properties"]["count"]["type"], "integer");
        assert_eq!(serde_json::to_value(Thing { count: None }).unwrap()["count"], Value::Null);
    }
}
