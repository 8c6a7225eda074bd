//! Rules of the kinds that are not graphs, and refusals of what nothing here would act on.

use graph::Finding;
use serde_json::Value;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A scaling adapter.
pub(super) fn adapter(object: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    if !text(object, "/spec/dgdRef/componentGroupName").is_empty() {
        found.push(Finding::new(
            "spec.dgdRef.componentGroupName",
            "groups of components scale together on Grove only, and Busbar makes Deployments",
            "name one component: an adapter for each that shall scale",
        ));
    }
    found
}

/// A model: an adapter of a base model has to come from somewhere.
///
/// Source: Dynamo, docs/kubernetes/api-reference.md, DynamoModel.
pub(super) fn model(object: &Value) -> Vec<Finding> {
    let kind = text(object, "/spec/modelType");
    let uri = text(object, "/spec/source/uri");
    if matches!(kind, "lora" | "adapter") && uri.is_empty() {
        let problem = format!("a model of type {kind} needs a source");
        return vec![Finding::new(
            "spec.source.uri",
            problem,
            "give s3://BUCKET/PATH or hf://ORGANISATION/MODEL@REVISION",
        )];
    }
    Vec::new()
}

/// A deployment request: nothing here profiles, and a request that nobody answers would look pending for ever.
pub(super) fn request(object: &Value) -> Vec<Finding> {
    let model = text(object, "/spec/model");
    vec![Finding::new(
        "kind",
        "Busbar does not profile, so a DynamoGraphDeploymentRequest has no controller and would stay Pending for ever",
        format!(
            "write a DynamoGraphDeployment for {}; `busbar up` has one built in, and the platform's examples hold more",
            if model.is_empty() { "the model" } else { model }
        ),
    )]
}

/// A kind that the registration should not have sent here.
pub(super) fn unknown(kind: &str) -> Finding {
    Finding::new(
        "kind",
        format!("the webhook does not know {kind}"),
        "use the webhooks of the operator that installed it",
    )
}
