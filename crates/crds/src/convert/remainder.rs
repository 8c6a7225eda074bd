//! What the target of a conversion cannot say, as a list of changes.
//!
//! A change names a place (keys of objects, names of items in lists that are told apart by name, else positions) and
//! what stands there. When the object returns, all changes are made at once if the result still says what the given
//! object says. Otherwise someone changed the object in between: then they are tried a component at a time, then one by
//! one, and those that would alter what the given object says are dropped.

use super::{ConversionError, REMAINDER, REMAINDER_BYTES_MAX, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Segments that name a component: `spec`, `services` or `components`, and its name.
const COMPONENT_SEGMENTS: usize = 3;

/// The changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Remainder(Vec<Change>);

/// One change at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Change {
    /// Where.
    at: Vec<Step>,
    /// What.
    #[serde(flatten)]
    to: To,
}

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Step {
    /// A position of a list.
    Position(usize),
    /// A key of an object, or the name of an item of a list.
    Name(String),
}

/// What stands at the place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum To {
    /// This value.
    Set(Value),
    /// Nothing.
    Absent(bool),
    /// The items of a list in this order of names.
    Order(Vec<String>),
}

impl Remainder {
    /// Takes the changes for version `of` out of an object's metadata; those for the other version are stale and go too.
    pub(super) fn take(metadata: &mut Value, of: Version) -> Result<Self, ConversionError> {
        let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return Ok(Self::default()) };
        let Some(text) = annotations.shift_remove(REMAINDER) else { return Ok(Self::default()) };
        if annotations.is_empty()
            && let Value::Object(metadata) = metadata
        {
            metadata.shift_remove("annotations");
        }
        let unreadable = |error: serde_json::Error| ConversionError::Remainder(error.to_string());
        let mut written: Map<String, Value> =
            serde_json::from_str(text.as_str().unwrap_or_default()).map_err(unreadable)?;
        written
            .shift_remove(of.word())
            .map_or(Ok(Self::default()), |own| serde_json::from_value(own).map_err(unreadable))
    }

    /// Writes the changes, which lead to version `of`, into the metadata of an object of version `target`.
    pub(super) fn put(self, metadata: &mut Value, of: Version, target: Version) -> Result<(), ConversionError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = json!({ of.word(): self }).to_string();
        if text.len() > REMAINDER_BYTES_MAX {
            return Err(ConversionError::TooLarge { bytes: text.len(), target: target.word() });
        }
        if !metadata.get("annotations").is_some_and(Value::is_object) {
            metadata["annotations"] = json!({});
        }
        metadata["annotations"][REMAINDER] = Value::String(text);
        Ok(())
    }

    /// The changes that lead from `have` to `want`.
    pub(super) fn between(want: &Value, have: &Value) -> Self {
        let mut changes = Vec::new();
        compare(want, have, &mut Vec::new(), &mut changes);
        Self(changes)
    }

    /// Makes the changes on `plain`, as far as the result still says what `given` says; `back` tells what a value of the
    /// target says in the given version.
    pub(super) fn restore(&self, plain: &Value, given: &Value, back: &dyn Fn(&Value) -> Value) -> Value {
        if self.0.is_empty() {
            return plain.clone();
        }
        let plain_says = back(plain);
        let is_faithful = |candidate: &Value| {
            let says = back(candidate);
            says == *given || says == plain_says
        };
        let all = made(plain, &self.0);
        if is_faithful(&all) {
            return all;
        }
        let mut result = plain.clone();
        for group in self.0.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let candidate = made(&result, group);
            if is_faithful(&candidate) {
                result = candidate;
                continue;
            }
            for change in group {
                let candidate = made(&result, std::slice::from_ref(change));
                if is_faithful(&candidate) {
                    result = candidate;
                }
            }
        }
        result
    }
}

fn group_of(change: &Change) -> &[Step] {
    &change.at[..change.at.len().min(COMPONENT_SEGMENTS)]
}

fn compare(want: &Value, have: &Value, at: &mut Vec<Step>, changes: &mut Vec<Change>) {
    if want == have {
        return;
    }
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => compare_objects(want, have, at, changes),
        (Value::Array(want_items), Value::Array(have_items)) => match (names(want_items), names(have_items)) {
            (Some(want_names), Some(have_names)) => {
                compare_named((want_items, &want_names), (have_items, &have_names), at, changes);
            }
            _ if want_items.len() == have_items.len() => {
                for (position, (want, have)) in want_items.iter().zip(have_items).enumerate() {
                    at.push(Step::Position(position));
                    compare(want, have, at, changes);
                    at.pop();
                }
            }
            _ => changes.push(Change { at: at.clone(), to: To::Set(want.clone()) }),
        },
        _ => changes.push(Change { at: at.clone(), to: To::Set(want.clone()) }),
    }
}

fn compare_objects(
    want: &Map<String, Value>,
    have: &Map<String, Value>,
    at: &mut Vec<Step>,
    changes: &mut Vec<Change>,
) {
    for key in have.keys().filter(|key| !want.contains_key(*key)) {
        changes.push(Change { at: [&at[..], &[Step::Name(key.clone())]].concat(), to: To::Absent(true) });
    }
    for (key, value) in want {
        at.push(Step::Name(key.clone()));
        match have.get(key) {
            Some(have) => compare(value, have, at, changes),
            None => changes.push(Change { at: at.clone(), to: To::Set(value.clone()) }),
        }
        at.pop();
    }
}

fn compare_named(
    (want, want_names): (&[Value], &[&str]),
    (have, have_names): (&[Value], &[&str]),
    at: &mut Vec<Step>,
    changes: &mut Vec<Change>,
) {
    let mut order: Vec<&str> = have_names.iter().copied().filter(|name| want_names.contains(name)).collect();
    for name in have_names.iter().filter(|name| !want_names.contains(name)) {
        changes.push(Change { at: [&at[..], &[Step::Name((*name).to_owned())]].concat(), to: To::Absent(true) });
    }
    for (item, name) in want.iter().zip(want_names) {
        at.push(Step::Name((*name).to_owned()));
        match have_names.iter().position(|have| have == name) {
            Some(position) => compare(item, &have[position], at, changes),
            None => {
                order.push(name);
                changes.push(Change { at: at.clone(), to: To::Set(item.clone()) });
            }
        }
        at.pop();
    }
    if order != want_names {
        let names = want_names.iter().map(|name| (*name).to_owned()).collect();
        changes.push(Change { at: at.clone(), to: To::Order(names) });
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

/// Names of the items when all have one and no two the same.
fn names(items: &[Value]) -> Option<Vec<&str>> {
    let names: Vec<&str> = items.iter().map(name_of).collect::<Option<_>>()?;
    let is_unique = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
    is_unique.then_some(names)
}

/// `value` with the changes made; a change whose place is not there any more is passed over.
fn made(value: &Value, changes: &[Change]) -> Value {
    let mut value = value.clone();
    for change in changes {
        make(&mut value, &change.at, &change.to);
    }
    value
}

fn make(value: &mut Value, at: &[Step], to: &To) {
    let Some((step, rest)) = at.split_first() else {
        match to {
            To::Set(new) => *value = new.clone(),
            To::Order(names) => put_in_order(value, names),
            To::Absent(_) => {}
        }
        return;
    };
    let is_last = rest.is_empty();
    match (value, step) {
        (Value::Object(map), Step::Name(key)) => match to {
            To::Set(new) if is_last => {
                map.insert(key.clone(), new.clone());
            }
            To::Absent(_) if is_last => {
                map.shift_remove(key);
            }
            _ => {
                if let Some(inner) = map.get_mut(key) {
                    make(inner, rest, to);
                }
            }
        },
        (Value::Array(items), Step::Name(name)) => {
            let position = items.iter().position(|item| name_of(item) == Some(name));
            match (to, position) {
                (To::Set(new), None) if is_last => items.push(new.clone()),
                (To::Absent(_), Some(position)) if is_last => {
                    items.remove(position);
                }
                (_, Some(position)) => make(&mut items[position], rest, to),
                (_, None) => {}
            }
        }
        (Value::Array(items), Step::Position(position)) => {
            if let Some(item) = items.get_mut(*position) {
                make(item, rest, to);
            }
        }
        _ => {}
    }
}

/// Items that the list of names does not hold stay behind those that it holds.
fn put_in_order(value: &mut Value, names: &[String]) {
    if let Value::Array(items) = value {
        let place = |item: &Value| names.iter().position(|name| name_of(item) == Some(name)).unwrap_or(names.len());
        items.sort_by_key(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(want: &Value, have: &Value, changes: usize) {
        let remainder = Remainder::between(want, have);
        assert_eq!(remainder.0.len(), changes, "{remainder:?}");
        let text = serde_json::to_string(&remainder).unwrap();
        let read: Remainder = serde_json::from_str(&text).unwrap();
        assert_eq!(read, remainder, "{text}");
        assert_eq!(made(have, &read.0), *want, "{text}");
    }

    #[test]
    fn changes_lead_from_what_is_there_to_what_was() {
        check(&json!({"a": 1}), &json!({"a": 1}), 0);
        check(&json!({"a": {"b": null}}), &json!({"a": {"c": 1}}), 2);
        check(&json!([1, 2]), &json!([1, 3]), 1);
        check(&json!([1]), &json!([1, 3]), 1);
        check(&json!("x"), &json!({}), 1);
    }

    #[test]
    fn items_of_lists_are_told_apart_by_name() {
        let have = json!({"l": [{"name": "a", "x": 1}, {"name": "b", "x": 2}]});
        check(&json!({"l": [{"name": "b", "x": 2}, {"name": "a", "x": 1}]}), &have, 1);
        check(&json!({"l": [{"name": "a", "x": 1}, {"name": "b"}]}), &have, 1);
        check(&json!({"l": [{"name": "c"}, {"name": "b", "x": 2}]}), &have, 3);
        check(&json!({"l": []}), &have, 2);
        // Two of one name: by position.
        check(&json!({"l": [{"name": "a"}, {"name": "a"}]}), &have, 3);
    }

    #[test]
    fn a_change_whose_place_is_gone_is_passed_over() {
        let remainder = Remainder::between(&json!({"a": {"b": 1}}), &json!({"a": {}}));
        assert_eq!(made(&json!({"c": 1}), &remainder.0), json!({"c": 1}));
    }

    #[test]
    fn only_changes_that_the_given_object_does_not_contradict_are_made() {
        // The target says `n`; `note` is what it alone can say.
        let back = |value: &Value| json!({"n": value.get("n")});
        let kept = Remainder::between(&json!({"n": 1, "note": "x"}), &json!({"n": 2}));
        let plain = json!({"n": 2});
        assert_eq!(kept.restore(&plain, &json!({"n": 2}), &back), json!({"n": 2, "note": "x"}));
    }
}
