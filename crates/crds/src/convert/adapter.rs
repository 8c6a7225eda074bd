//! DynamoGraphDeploymentScalingAdapter: `serviceName` is `componentName`.

use super::fields::{Object, copy, insert, object, parts, rename};
use serde_json::Value;

pub(super) fn to_beta(body: &Value, _name: &str) -> Value {
    parts(body, |spec| target(spec, "serviceName", "componentName"), Object::clone)
}

pub(super) fn to_alpha(body: &Value, _name: &str) -> Value {
    parts(body, |spec| target(spec, "componentName", "serviceName"), Object::clone)
}

fn target(spec: &Object, key: &str, new_key: &str) -> Object {
    let mut out = Object::new();
    copy(spec, &mut out, &["replicas"]);
    let reference = object(spec, "dgdRef").map(|reference| {
        let mut out = Object::new();
        copy(reference, &mut out, &["name", "componentGroupName"]);
        rename(reference, key, &mut out, new_key);
        Value::Object(out)
    });
    insert(&mut out, "dgdRef", reference);
    out
}
