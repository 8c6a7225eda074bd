//! Conversion between the two API versions: tables for every field, properties over generated objects, Dynamo's examples.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod examples;
mod fields;
mod generate;
mod properties;

use crds::convert::{Version, convert};
use crds::definition::{ConversionService, definitions};
use serde_json::{Value, json};

/// Kinds that have two versions.
const KINDS: [&str; 4] = [
    "DynamoGraphDeployment",
    "DynamoComponentDeployment",
    "DynamoGraphDeploymentScalingAdapter",
    "DynamoGraphDeploymentRequest",
];

fn other(version: Version) -> Version {
    if version == Version::V1alpha1 { Version::V1beta1 } else { Version::V1alpha1 }
}

fn object(kind: &str, version: Version, body: &Value) -> Value {
    let mut object = json!({ "apiVersion": version.api_version(), "kind": kind, "metadata": { "name": "g" } });
    object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    object
}

fn body(object: &Value) -> Value {
    let mut body = object.clone();
    for key in ["apiVersion", "kind", "metadata"] {
        body.as_object_mut().unwrap().shift_remove(key);
    }
    body
}

/// The schema of one version of a kind.
fn schema(kind: &str, version: Version) -> Value {
    let all = definitions(&ConversionService::default());
    let definition = all.into_iter().map(|(_, d)| d).find(|d| d["spec"]["names"]["kind"] == kind).unwrap();
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let found = versions.iter().find(|v| v["name"] == version.word()).unwrap();
    found["schema"]["openAPIV3Schema"].clone()
}

fn there(given: &Value, to: Version) -> Value {
    convert(given, to).unwrap_or_else(|error| panic!("{error}: {given}"))
}
