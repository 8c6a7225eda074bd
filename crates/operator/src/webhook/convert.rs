//! `/convert`: objects from one version to the other.

use crds::convert::{Version, convert};
use serde_json::{Value, json};

/// Answers a ConversionReview: all objects in order, or what hinders each that cannot be converted.
///
/// The API server takes all or nothing: one object that cannot be converted fails a whole list, so the message names it.
/// Pure. A review that is none gets a failure for an answer.
pub fn review(mut review: Value) -> Value {
    let uid = review.pointer("/request/uid").cloned().unwrap_or_else(|| json!(""));
    let wanted = review.pointer("/request/desiredAPIVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(Value::Array(objects)) = review.pointer_mut("/request/objects").map(Value::take) else {
        return answer(&uid, Err("the review has no request.objects".to_owned()));
    };
    let Some(version) = Version::parse(&wanted) else {
        let problem = format!("`{wanted}` is neither nvidia.com/v1alpha1 nor nvidia.com/v1beta1");
        return answer(&uid, Err(problem));
    };
    let (mut converted, mut problems) = (Vec::with_capacity(objects.len()), Vec::new());
    for object in &objects {
        match convert(object, version) {
            Ok(object) => converted.push(object),
            Err(error) => problems.push(format!("{}: {error}", named(object))),
        }
    }
    answer(&uid, if problems.is_empty() { Ok(converted) } else { Err(problems.join("\n")) })
}

/// `DynamoGraphDeployment k8s-namespace/name`.
fn named(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn answer(uid: &Value, result: Result<Vec<Value>, String>) -> Value {
    let response = match result {
        Ok(objects) => json!({ "uid": uid, "result": { "status": "Success" }, "convertedObjects": objects }),
        Err(message) => {
            tracing::warn!(problem = %message, "objects cannot be converted");
            json!({ "uid": uid, "result": { "status": "Failure", "message": message }, "convertedObjects": [] })
        }
    };
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response })
}
