//! DynamoGraphDeploymentRequest. The profiler's free configuration and what places its pod stay with v1alpha1; hardware,
//! traffic and goals stay with v1beta1.

use super::fields::{Object, copy, insert, object, parts, rename, text};
use serde_json::{Value, json};

/// `state` of v1alpha1 and `phase` of v1beta1 that mean the same; the first of a word is what it becomes.
const PHASES: &[(&str, &str)] = &[
    ("Pending", "Pending"),
    ("Initializing", "Pending"),
    ("Profiling", "Profiling"),
    ("Deploying", "Deploying"),
    ("Ready", "Ready"),
    ("Ready", "Deployed"),
    ("Failed", "Failed"),
];

pub(super) fn to_beta(body: &Value, _name: &str) -> Value {
    parts(body, spec_to_beta, status_to_beta)
}

pub(super) fn to_alpha(body: &Value, _name: &str) -> Value {
    parts(body, spec_to_alpha, status_to_alpha)
}

fn spec_to_beta(spec: &Object) -> Object {
    let mut out = Object::new();
    copy(spec, &mut out, &["model", "backend"]);
    // The defaults differ: absent is false in v1alpha1 and true in v1beta1.
    out.insert("autoApply".to_owned(), spec.get("autoApply").cloned().unwrap_or(json!(false)));
    if let Some(profiling) = object(spec, "profilingConfig") {
        rename(profiling, "profilerImage", &mut out, "image");
    }
    let mocker = spec.get("useMocker").map(|on| json!({ "mocker": { "enabled": on } }));
    insert(&mut out, "features", mocker);
    out
}

fn spec_to_alpha(spec: &Object) -> Object {
    let mut out = Object::new();
    copy(spec, &mut out, &["model", "backend"]);
    out.insert("autoApply".to_owned(), spec.get("autoApply").cloned().unwrap_or(json!(true)));
    let image = spec.get("image").filter(|image| !image.is_null());
    insert(&mut out, "profilingConfig", image.map(|image| json!({ "profilerImage": image })));
    let mocker = object(spec, "features").and_then(|features| object(features, "mocker"));
    insert(&mut out, "useMocker", mocker.and_then(|mocker| mocker.get("enabled").cloned()));
    out
}

fn status_to_beta(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, &["observedGeneration", "conditions"]);
    let state = text(status, "state");
    let phase = PHASES.iter().find(|(alpha, _)| Some(*alpha) == state);
    insert(&mut out, "phase", phase.map(|(_, beta)| json!(beta)));
    if let Some(deployment) = object(status, "deployment") {
        rename(deployment, "name", &mut out, "dgdName");
    }
    let found = status.get("generatedDeployment").filter(|found| !found.is_null());
    insert(&mut out, "profilingResults", found.map(|found| json!({ "selectedConfig": found })));
    out
}

fn status_to_alpha(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, &["observedGeneration", "conditions"]);
    let phase = text(status, "phase");
    let state = PHASES.iter().find(|(_, beta)| Some(*beta) == phase);
    insert(&mut out, "state", state.map(|(alpha, _)| json!(alpha)));
    let name = status.get("dgdName").filter(|name| !name.is_null());
    insert(&mut out, "deployment", name.map(|name| json!({ "name": name })));
    if let Some(results) = object(status, "profilingResults") {
        rename(results, "selectedConfig", &mut out, "generatedDeployment");
    }
    out
}
