//! A value against a JSON schema: every violation, each with its path and remedy.
//!
//! It knows the keywords that the schemas of our files use and no others; a test walks the platform's schema and fails on
//! a keyword that is not known here.

use graph::Finding;
use serde_json::{Map, Value};

/// Keywords that say something about a value; the others only describe.
#[cfg(test)]
pub(crate) const KEYWORDS: &[&str] =
    &["type", "const", "enum", "properties", "required", "additionalProperties", "items", "minimum", "maximum"];

/// Letters by which two keys may differ and still be taken for one another.
const SLIP_LETTERS: usize = 2;

/// Reports what of `value` the schema does not allow, and takes out of it what cannot be typed (unknown keys, fields of
/// another kind), so that the meaning of the rest can be judged too. Whether `value` itself can be typed.
pub(crate) fn check(schema: &Value, value: &mut Value, path: &str, findings: &mut Vec<Finding>) -> bool {
    let Value::Object(schema) = schema else { return true };
    if let Some(wanted) = schema.get("const") {
        if value != wanted {
            let problem = format!("{} is not {}", shown(value), shown(wanted));
            findings.push(Finding::new(path, problem, format!("write {}", shown(wanted))));
        }
        return value.is_string();
    }
    if let Some(kind) = schema.get("type").and_then(Value::as_str)
        && !is_of(value, kind)
    {
        findings.push(Finding::new(
            path,
            format!("{} is not {}", shown(value), article(kind)),
            format!("give {}", article(kind)),
        ));
        return false;
    }
    if let Some(Value::Array(words)) = schema.get("enum")
        && !words.contains(value)
    {
        let list: Vec<_> = words.iter().map(shown).collect();
        findings.push(Finding::new(
            path,
            format!("{} is not one of the words", shown(value)),
            format!("use {}", list.join(" or ")),
        ));
        return false;
    }
    bounds(schema, value, path, findings);
    match value {
        Value::Object(object) => object_fields(schema, object, path, findings),
        Value::Array(items) => list_items(schema.get("items").unwrap_or(&Value::Null), items, path, findings),
        _ => {}
    }
    true
}

/// An item that cannot be typed gives way to an empty one, so that those behind it keep their places.
fn list_items(of: &Value, items: &mut [Value], path: &str, findings: &mut Vec<Finding>) {
    for (i, item) in items.iter_mut().enumerate() {
        if !check(of, item, &format!("{path}[{i}]"), findings) {
            let is_text = of.get("type").and_then(Value::as_str) == Some("string");
            *item = if is_text { Value::String(String::new()) } else { Value::Object(Map::new()) };
        }
    }
}

fn bounds(schema: &Map<String, Value>, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (least, most) = (bound("minimum"), bound("maximum"));
    if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
        let range = match (least, most) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("{least} or more"),
            (_, most) => format!("{} or less", most.unwrap_or_default()),
        };
        findings.push(Finding::new(path, format!("{number} is out of range"), format!("give {range}")));
    }
}

fn object_fields(
    schema: &Map<String, Value>,
    object: &mut Map<String, Value>,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    let none = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let rest = schema.get("additionalProperties").unwrap_or(&Value::Bool(true));
    // A key without a value is what an editor leaves of a section whose lines are commented out: it counts as absent.
    object.retain(|key, value| !(value.is_null() && known.contains_key(key)));
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            findings.push(Finding::new(join(path, name), "it is missing", describe(known.get(name))));
        }
    }
    let unknown: Vec<String> =
        object.keys().filter(|key| !known.contains_key(key.as_str()) && rest == &Value::Bool(false)).cloned().collect();
    for key in unknown {
        let near = known.keys().find(|candidate| is_slip(&key, candidate));
        let remedy = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("remove it; known here: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
        };
        findings.push(Finding::new(join(path, &key), format!("the field `{key}` is not known"), remedy));
        object.shift_remove(&key);
    }
    object.retain(|key, value| check(known.get(key).unwrap_or(rest), value, &join(path, key), findings));
}

fn describe(schema: Option<&Value>) -> String {
    let said = schema.and_then(|schema| schema.get("description")).and_then(Value::as_str).unwrap_or_default();
    match said.split_whitespace().collect::<Vec<_>>().join(" ") {
        said if said.is_empty() => "add it".to_owned(),
        said => format!("add it: {}", said.trim_end_matches('.')),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Object(_) => "a map".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "nothing".to_owned(),
        other => format!("`{other}`"),
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "object" => "a map of keys and values",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

/// Whether `written` looks like a slip of `known`: another case or separator, its larger part, or at most
/// [`SLIP_LETTERS`] letters off.
fn is_slip(written: &str, known: &str) -> bool {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let (written, known) = (plain(written), plain(known));
    written == known
        || (known.contains(&written) && written.len() * 2 > known.len())
        || (known.len() > SLIP_LETTERS * 2 && distance(&written, &known) <= SLIP_LETTERS)
}

/// Levenshtein's distance in letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of a schema that say nothing about a value.
    const DESCRIPTIVE: &[&str] = &["title", "description", "default", "$comment", "$schema"];

    fn walk(schema: &Value, foreign: &mut Vec<String>) {
        let Value::Object(map) = schema else { return };
        foreign.extend(
            map.keys().filter(|key| !KEYWORDS.contains(&key.as_str()) && !DESCRIPTIVE.contains(&key.as_str())).cloned(),
        );
        map.get("properties").and_then(Value::as_object).into_iter().flatten().for_each(|(_, s)| walk(s, foreign));
        ["items", "additionalProperties"].iter().filter_map(|key| map.get(*key)).for_each(|s| walk(s, foreign));
    }

    #[test]
    fn every_keyword_of_the_platforms_schema_is_checked() {
        let mut foreign = Vec::new();
        walk(&crds::platform::schema(), &mut foreign);
        assert!(foreign.is_empty(), "{foreign:?}");
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert!(is_slip("storage_class", "storageClass"));
        assert!(is_slip("graph", "graphs"));
        assert!(is_slip("namespace", "k8s_namespace"));
        assert!(!is_slip("image", "verify"));
    }
}
