//! DynamoGraphDeployment: a map of services is a list of components.

use super::component;
use super::fields::{Object, copy, insert, is_on, list, object, parts, rename, text};
use serde_json::{Value, json};

/// Fields of the spec that both versions write the same way.
const SPEC_SHARED: &[&str] = &[
    "annotations",
    "labels",
    "priorityClassName",
    "backendFramework",
    "restart",
    "topologyConstraint",
    "providerOverride",
];
/// Fields of the status that both versions write the same way.
const STATUS_SHARED: &[&str] = &["observedGeneration", "state", "conditions", "restart", "checkpoints", "placement"];
/// Fields of a rolling update that both versions write the same way.
const ROLLING_UPDATE_SHARED: &[&str] = &["phase", "startTime", "endTime"];

pub(super) fn to_beta(body: &Value, _name: &str) -> Value {
    parts(body, spec_to_beta, status_to_beta)
}

pub(super) fn to_alpha(body: &Value, _name: &str) -> Value {
    parts(body, spec_to_alpha, status_to_alpha)
}

fn spec_to_beta(spec: &Object) -> Object {
    let mut out = Object::new();
    copy(spec, &mut out, SPEC_SHARED);
    rename(spec, "envs", &mut out, "env");
    if let Some(services) = object(spec, "services") {
        let mut named: Vec<_> = services.iter().filter_map(|(name, s)| Some((name, s.as_object()?))).collect();
        // A map has no order that survives the API server; names do.
        named.sort_by_key(|(name, _)| *name);
        let components = named.into_iter().map(|(name, s)| Value::Object(component::spec_to_beta(s, name)));
        out.insert("components".to_owned(), components.collect());
    }
    insert(&mut out, "experimental", experimental(spec, |adapter| is_on(adapter, "enabled").then(|| json!({}))));
    out
}

fn spec_to_alpha(spec: &Object) -> Object {
    let mut out = Object::new();
    copy(spec, &mut out, SPEC_SHARED);
    rename(spec, "env", &mut out, "envs");
    if let Some(components) = list(spec, "components") {
        let mut services = Object::new();
        for component in components.iter().filter_map(Value::as_object) {
            if let Some(name) = text(component, "name") {
                services.insert(name.to_owned(), Value::Object(component::spec_to_alpha(component)));
            }
        }
        out.insert("services".to_owned(), Value::Object(services));
    }
    insert(&mut out, "experimental", experimental(spec, |_| Some(json!({ "enabled": true }))));
    out
}

/// The preview features of a graph; only the adapters of component groups differ.
fn experimental(spec: &Object, adapter: impl Fn(&Object) -> Option<Value>) -> Option<Value> {
    let mut features = object(spec, "experimental")?.clone();
    if let Some(Value::Array(groups)) = features.get_mut("componentGroups") {
        for group in groups.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(given) = group.shift_remove("scalingAdapter") {
                insert(group, "scalingAdapter", given.as_object().and_then(&adapter));
            }
        }
    }
    Some(Value::Object(features))
}

fn status_to_beta(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, STATUS_SHARED);
    insert(&mut out, "components", by_name(status, "services", component::replicas_to_beta));
    insert(&mut out, "rollingUpdate", rolling_update(status, "updatedServices", "updatedComponents"));
    out
}

fn status_to_alpha(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, STATUS_SHARED);
    insert(&mut out, "services", by_name(status, "components", component::replicas_to_alpha));
    insert(&mut out, "rollingUpdate", rolling_update(status, "updatedComponents", "updatedServices"));
    out
}

fn by_name(status: &Object, key: &str, map: impl Fn(&Object) -> Object) -> Option<Value> {
    let entries = object(status, key)?.iter().filter_map(|(name, entry)| Some((name, entry.as_object()?)));
    Some(Value::Object(entries.map(|(name, entry)| (name.clone(), Value::Object(map(entry)))).collect()))
}

fn rolling_update(status: &Object, key: &str, new_key: &str) -> Option<Value> {
    let update = object(status, "rollingUpdate")?;
    let mut out = Object::new();
    copy(update, &mut out, ROLLING_UPDATE_SHARED);
    rename(update, key, &mut out, new_key);
    Some(Value::Object(out))
}
