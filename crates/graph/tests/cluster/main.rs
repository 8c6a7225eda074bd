//! A graph as Kubernetes objects: fixtures in, objects or findings out.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod golden;
mod hashes;
mod objects;
mod options;
mod properties;
mod rules;
mod updates;

use crds::v1beta1::DynamoGraphDeployment;
use graph::cluster::{Settings, component_objects, components, graph_objects, read};
use serde_json::{Value, json};
use std::path::Path;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/tests/fixtures");
/// Dynamo's examples.
const EXAMPLES: [&str; 5] = ["agg", "agg_router", "disagg", "disagg_router", "disagg_planner"];
/// Versions that each is written in.
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

/// A fixture as it would lie in a namespace `serving`, with the uid that the API server gives.
fn manifest(name: &str, version: &str) -> Value {
    let path = Path::new(FIXTURES).join(format!("{name}.{version}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut value: Value = serde_saphyr::from_str(&text).unwrap();
    value["metadata"]["namespace"] = json!("serving");
    value["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
    value
}

fn example(name: &str, version: &str) -> DynamoGraphDeployment {
    graph_of(&manifest(name, version))
}

fn graph_of(manifest: &Value) -> DynamoGraphDeployment {
    read(manifest).unwrap_or_else(|found| panic!("{found:#?}"))
}

/// What an operator with NATS beside Kubernetes discovery was told.
fn settings() -> Settings {
    Settings { nats_address: Some("nats://busbar-nats.busbar-system:4222".to_owned()), ..Settings::default() }
}

/// Every object that the operator makes for the graph, DynamoComponentDeployments first.
fn render(graph: &DynamoGraphDeployment, settings: &Settings) -> Vec<Value> {
    let mut objects = Vec::new();
    let mut below = Vec::new();
    for (i, mut component) in components(graph, settings).into_iter().enumerate() {
        objects.push(serde_json::to_value(&component).unwrap());
        component.metadata.uid = Some(format!("00000000-0000-0000-0000-00000000001{i}"));
        below.extend(component_objects(&component, settings));
    }
    objects.extend(graph_objects(graph, settings));
    objects.extend(below);
    objects
}

/// The one object of that kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut all = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let found = all.next().unwrap_or_else(|| {
        let names: Vec<_> = objects.iter().map(|o| format!("{} {}", o["kind"], o["metadata"]["name"])).collect();
        panic!("no {kind} {name} among {names:#?}")
    });
    assert!(all.next().is_none(), "two of {kind} {name}");
    found
}

/// Names of all objects of a kind, in order.
fn names<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a str> {
    objects.iter().filter(|object| object["kind"] == kind).filter_map(|o| o["metadata"]["name"].as_str()).collect()
}

/// The container `main` of a Deployment.
fn main_container(deployment: &Value) -> &Value {
    container(deployment, "main")
}

fn container<'a>(deployment: &'a Value, name: &str) -> &'a Value {
    let all = deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    all.iter().find(|container| container["name"] == name).unwrap()
}

/// The value of a variable; none when it is not there.
fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    container["env"].as_array()?.iter().find(|var| var["name"] == name)?["value"].as_str()
}
