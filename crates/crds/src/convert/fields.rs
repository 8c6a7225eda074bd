//! Small moves of fields between objects.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The object at `key`, when it is one.
pub(super) fn object<'a>(from: &'a Object, key: &str) -> Option<&'a Object> {
    from.get(key).and_then(Value::as_object)
}

/// The list at `key`, when it is one.
pub(super) fn list<'a>(from: &'a Object, key: &str) -> Option<&'a Vec<Value>> {
    from.get(key).and_then(Value::as_array)
}

/// The text at `key`, when it is one and not empty.
pub(super) fn text<'a>(from: &'a Object, key: &str) -> Option<&'a str> {
    from.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Whether the value at `key` is `true`.
pub(super) fn is_on(from: &Object, key: &str) -> bool {
    from.get(key) == Some(&Value::Bool(true))
}

/// Copies `keys` that are there, under their names.
pub(super) fn copy(from: &Object, to: &mut Object, keys: &[&str]) {
    for key in keys {
        rename(from, key, to, key);
    }
}

/// Copies the value at `key` to `new_key`; a null is nothing.
pub(super) fn rename(from: &Object, key: &str, to: &mut Object, new_key: &str) {
    if let Some(value) = from.get(key).filter(|value| !value.is_null()) {
        to.insert(new_key.to_owned(), value.clone());
    }
}

/// Inserts `value` unless it is absent.
pub(super) fn insert(to: &mut Object, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        to.insert(key.to_owned(), value);
    }
}

/// `spec` and `status`, each by its own mapping when it is there.
pub(super) fn parts(body: &Value, spec: impl Fn(&Object) -> Object, status: impl Fn(&Object) -> Object) -> Value {
    let mut out = Object::new();
    if let Some(body) = body.as_object() {
        insert(&mut out, "spec", object(body, "spec").map(|part| Value::Object(spec(part))));
        insert(&mut out, "status", object(body, "status").map(|part| Value::Object(status(part))));
    }
    Value::Object(out)
}
