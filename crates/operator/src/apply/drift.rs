//! How an object differs from what was asked for.

use graph::cluster::Quantity;
use serde_json::{Map, Value};

/// Differences that are told; more would fill an event and say no more.
const PATHS_MAX: usize = 16;

/// Paths of `intent` that `live` does not hold. What only `live` has does not count: others may own it. Numbers, texts
/// and quantities that mean the same are the same, and what is empty is the same as what is absent, because the API
/// server writes both in its own way.
pub fn differences(live: &Value, intent: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => {
            // A list does not repeat version and kind in its items; an object of another kind is never compared.
            for (key, wanted) in intent.iter().filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind")) {
                compare(live.get(key).unwrap_or(&Value::Null), wanted, key, &mut paths);
            }
        }
        _ => compare(live, intent, "", &mut paths),
    }
    paths.truncate(PATHS_MAX);
    paths
}

fn compare(live: &Value, intent: &Value, path: &str, paths: &mut Vec<String>) {
    match (live, intent) {
        (_, intent) if is_empty(intent) => {
            if !is_empty(live) && !matches!(intent, Value::Null | Value::Object(_)) {
                paths.push(path.to_owned());
            }
        }
        (Value::Object(live), Value::Object(intent)) => compare_fields(live, intent, path, paths),
        (Value::Array(live), Value::Array(intent)) => compare_items(live, intent, path, paths),
        (live, intent) if same(live, intent) => {}
        _ => paths.push(path.to_owned()),
    }
}

fn compare_fields(live: &Map<String, Value>, intent: &Map<String, Value>, path: &str, paths: &mut Vec<String>) {
    for (key, wanted) in intent {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(live.get(key).unwrap_or(&Value::Null), wanted, &path, paths);
    }
}

/// Lists of named items may hold items of others, in any order; all other lists are one value.
fn compare_items(live: &[Value], intent: &[Value], path: &str, paths: &mut Vec<String>) {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let all_named = intent.iter().all(|item| name(item).is_some());
    if all_named {
        for wanted in intent {
            let wanted_name = name(wanted);
            let found = live.iter().find(|item| name(item) == wanted_name).unwrap_or(&Value::Null);
            compare(found, wanted, &format!("{path}[{}]", wanted_name.unwrap_or_default()), paths);
        }
        return;
    }
    if live.len() != intent.len() {
        paths.push(path.to_owned());
        return;
    }
    for (at, (live, wanted)) in live.iter().zip(intent).enumerate() {
        compare(live, wanted, &format!("{path}[{at}]"), paths);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn same(live: &Value, intent: &Value) -> bool {
    if live == intent {
        return true;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_scalar = |value: &Value| matches!(value, Value::String(_) | Value::Number(_));
    if !is_scalar(live) || !is_scalar(intent) {
        return false;
    }
    let (live, intent) = (text(live), text(intent));
    live == intent || Quantity::parse(&live).is_some_and(|amount| Quantity::parse(&intent) == Some(amount))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(live: &Value, intent: &Value, expected: &[&str]) {
        assert_eq!(differences(live, intent), expected);
    }

    #[test]
    fn what_only_others_own_is_no_difference() {
        let live =
            json!({"spec": {"replicas": 2, "extra": true, "c": [{"name": "side"}, {"name": "main", "image": "a"}]}});
        check(&live, &json!({"spec": {"replicas": 2, "c": [{"name": "main", "image": "a"}]}}), &[]);
        check(
            &live,
            &json!({"spec": {"replicas": 3, "c": [{"name": "main", "image": "b"}]}}),
            &["spec.replicas", "spec.c[main].image"],
        );
    }

    #[test]
    fn a_missing_field_a_missing_item_and_a_changed_list_are_differences() {
        check(&json!({}), &json!({"a": 1}), &["a"]);
        check(&json!({"c": []}), &json!({"c": [{"name": "x", "v": 1}]}), &["c[x]"]);
        check(&json!({"args": ["a"]}), &json!({"args": ["a", "b"]}), &["args"]);
        check(&json!({"args": ["a", "c"]}), &json!({"args": ["a", "b"]}), &["args[1]"]);
        check(&json!({"args": ["a"]}), &json!({"args": []}), &["args"]);
    }

    #[test]
    fn the_same_in_another_writing_is_no_difference() {
        for (live, intent) in [("1", "1000m"), ("500m", "0.5"), ("1Gi", "1024Mi"), ("2k", "2000"), ("0", "0m")] {
            check(&json!({"q": live}), &json!({"q": intent}), &[]);
        }
        check(&json!({"port": "80"}), &json!({"port": 80}), &[]);
        check(&json!({}), &json!({"labels": {}, "list": [], "none": null}), &[]);
        check(&json!({"q": "1Gi"}), &json!({"q": "1G"}), &["q"]);
        check(&json!({"q": "x"}), &json!({"q": "y"}), &["q"]);
        // As in the items of a list.
        check(&json!({"q": 1}), &json!({"apiVersion": "v1", "kind": "Q", "q": 1}), &[]);
    }
}
