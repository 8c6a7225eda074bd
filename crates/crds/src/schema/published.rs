//! Schemas of files that people write: plain JSON Schema, for editors and for the reader itself.

use super::without_null;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

/// The schema of `T` under a title, with `id` as the version that the file names.
pub(crate) fn of<T: JsonSchema>(title: &str, id: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    let mut schema = plain(schema.to_value());
    schema["title"] = json!(title);
    schema["$comment"] = json!(format!("{id}; generated from the types by `busbar reference`"));
    schema
}

/// `Option` is absence, an enum of words is an `enum`, and only defaults that say something are told.
fn plain(schema: Value) -> Value {
    let Value::Object(map) = schema else { return schema };
    let mut map = without_null(map);
    for key in ["title", "format"] {
        map.shift_remove(key);
    }
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Object(_) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    };
    if map.get("default").is_some_and(says_nothing) {
        map.shift_remove("default");
    }
    // Words with a description each come as `oneOf` of constants; a reader wants the list.
    if let Some(Value::Array(choices)) = map.get("oneOf") {
        let words: Vec<Value> = choices.iter().filter_map(|choice| choice.get("const").cloned()).collect();
        if words.len() == choices.len() {
            map.shift_remove("oneOf");
            map.insert("type".to_owned(), json!("string"));
            map.insert("enum".to_owned(), Value::Array(words));
        }
    }
    if let Some(Value::Object(named)) = map.shift_remove("properties") {
        let named = named.into_iter().map(|(name, schema)| (name, plain(schema))).collect();
        map.insert("properties".to_owned(), Value::Object(named));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = map.shift_remove(key) {
            map.insert(key.to_owned(), plain(schema));
        }
    }
    Value::Object(map)
}
