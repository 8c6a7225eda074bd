//! `/mutate`: what an object means by leaving it out, written down. As little as possible.
//!
//! A DynamoComponentDeployment is named like its object, as in Dynamo. Counts and sizes that are left out stay out: the
//! stored object is what the user wrote, tools that compare the two find no difference, and who reads an object knows
//! the defaults (`replicas` is 1, shared memory 8Gi).

use super::review::{Answer, Request};
use serde_json::{Value, json};

/// The answer to a review: allowed, with what is missing as a patch. Pure.
pub fn answer(request: &Request) -> Answer {
    let mut answer = Answer::default();
    let is_component = request.kind.kind == crds::DYNAMO_COMPONENT_DEPLOYMENT && request.kind.version == "v1beta1";
    let name = request.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(&request.name);
    let spec = request.object.get("spec").filter(|spec| spec.is_object());
    let is_named = |spec: &Value| spec.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if is_component && !name.is_empty() && spec.is_some_and(|spec| !is_named(spec)) {
        answer.patch.push(json!({ "op": "add", "path": "/spec/name", "value": name }));
    }
    answer
}
