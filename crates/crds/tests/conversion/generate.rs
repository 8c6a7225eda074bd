//! Objects made from a schema: every field that a schema has is made now and then, so a new field is in the properties
//! without anyone thinking of it.

use serde_json::{Map, Value, json};

/// Names that collide with those that conversion gives.
const NAMES: &[&str] = &["main", "sidecar-frontend", "a", "b", "Frontend"];
const KEYS: &[&str] = &["cpu", "nvidia.com/gpu", "a", "Worker", "x.y/z"];
const TEXTS: &[&str] = &["", "a", "main", "sidecar-frontend", "worker", "0", "8Gi", "true", "später"];

/// A stream of choices; the same seed gives the same object.
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`: splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// An object's `spec` and, when the schema has it, `status`.
    pub(crate) fn body(&mut self, schema: &Value) -> Value {
        let mut body = Map::new();
        for part in ["spec", "status"] {
            if let Some(schema) = schema["properties"].get(part) {
                body.insert(part.to_owned(), self.value(schema, 0));
            }
        }
        Value::Object(body)
    }

    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if let Some(words) = schema["enum"].as_array() {
            return words[self.below(words.len())].clone();
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return if self.below(2) == 0 { json!(self.below(3)) } else { json!(self.of(TEXTS)) };
        }
        match schema["type"].as_str() {
            Some("object") => self.object(schema, depth),
            Some("array") => {
                let items = (0..self.below(3)).map(|_| self.value(&schema["items"], depth + 1));
                Value::Array(items.collect())
            }
            Some("boolean") => json!(self.below(2) == 0),
            Some("integer") => json!(self.below(4)),
            Some("number") => json!(self.below(8) as f64 / 4.0),
            _ => json!(self.of(TEXTS)),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut map = Map::new();
        if schema["x-kubernetes-preserve-unknown-fields"] == true {
            map.insert(self.of(KEYS).to_owned(), json!({ "free": self.below(9) }));
        }
        if let Some(values) = schema.get("additionalProperties") {
            for _ in 0..self.below(3) {
                map.insert(self.of(KEYS).to_owned(), self.value(values, depth + 1));
            }
        }
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        // The deeper, the sparser: a pod has thousands of fields.
        let odds = if depth < 3 { 2 } else { 4 + depth };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if name == "name" && property["type"] == "string" && property.get("enum").is_none() {
                map.insert(name.clone(), json!(self.of(NAMES)));
            } else if required.contains(&json!(name)) || self.below(odds) == 0 {
                map.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        Value::Object(map)
    }
}

/// Keys and kinds of value of `value` that its schema does not allow, with their paths.
pub(crate) fn faults(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if schema["x-kubernetes-int-or-string"] == true {
        return;
    }
    let is_right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("integer" | "number") => value.is_number(),
        _ => value.is_string(),
    };
    if !is_right {
        found.push(format!("{path}: {value} is no {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{path}: {value} is no word of the set"));
    }
    let Some(map) = value.as_object() else {
        for item in value.as_array().into_iter().flatten() {
            faults(&schema["items"], item, &format!("{path}[]"), found);
        }
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !map.contains_key(name.as_str().unwrap()) {
            found.push(format!("{path}: {name} is missing"));
        }
    }
    for (key, value) in map {
        let path = format!("{path}.{key}");
        match schema["properties"].get(key).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => faults(schema, value, &path, found),
            None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => found.push(format!("{path}: not known")),
        }
    }
}
