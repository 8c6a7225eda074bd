//! Unknown keys of a manifest, found by what does not come back when the parsed value is written again.
//!
//! Kubernetes' own types skip what they do not know, so `deny_unknown_fields` would stop at their border; writing the
//! typed value and comparing keys works at any depth.

use serde::Serialize;
use serde_json::Value;

/// Paths of the keys of `input` that `typed` did not take, in document order: `spec.services.Frontend.replica`.
///
/// A key whose value is `null` counts as absent. `typed` must be the value that was parsed from `input`.
///
/// # Errors
/// When `typed` cannot be written as JSON, which only a non-string map key causes.
pub fn unknown_keys(input: &Value, typed: &impl Serialize) -> Result<Vec<String>, serde_json::Error> {
    let written = serde_json::to_value(typed)?;
    let mut found = Vec::new();
    compare(input, &written, "", &mut found);
    Ok(found)
}

fn compare(input: &Value, written: &Value, path: &str, found: &mut Vec<String>) {
    match (input, written) {
        (Value::Object(given), Value::Object(taken)) => {
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match taken.get(key) {
                    Some(taken) => compare(value, taken, &path, found),
                    None if value.is_null() || is_empty(value) => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(taken)) => {
            for (i, (value, taken)) in given.iter().zip(taken).enumerate() {
                compare(value, taken, &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

/// Empty lists and maps may be left out when written.
fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Container;
    use serde_json::json;

    fn check(input: &Value, unknown: &[&str]) {
        let typed: Container = serde_json::from_value(input.clone()).unwrap();
        assert_eq!(unknown_keys(input, &typed).unwrap(), unknown);
    }

    #[test]
    fn a_key_that_kubernetes_does_not_know_is_found_at_any_depth() {
        check(&json!({"name": "main", "image": "x"}), &[]);
        check(&json!({"name": "main", "imagee": "x"}), &["imagee"]);
        check(&json!({"name": "main", "env": [{"name": "A", "valu": "1"}]}), &["env[0].valu"]);
        check(
            &json!({"name": "main", "livenessProbe": {"httpGet": {"port": 1, "pathh": "/"}}}),
            &["livenessProbe.httpGet.pathh"],
        );
    }

    #[test]
    fn null_and_empty_values_count_as_absent() {
        check(&json!({"name": "main", "env": null, "ports": []}), &[]);
    }
}
