//! Everything that Dynamo's examples become, held whole.

use crate::{EXAMPLES, VERSIONS, example, graph_of, render, settings};
use expect_test::expect_file;
use graph::cluster::Settings;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn text(name: &str, version: &str) -> String {
    written(&render(&example(name, version), &settings()))
}

fn written(objects: &[Value]) -> String {
    objects.iter().fold(String::new(), |mut all, object| {
        write!(all, "---\n{}", serde_saphyr::to_string(object).unwrap()).unwrap();
        all
    })
}

#[test]
fn every_example_becomes_the_same_objects_as_before() {
    for name in EXAMPLES {
        for version in VERSIONS {
            expect_file![Path::new(FOLDER).join(format!("{name}.{version}.yaml"))].assert_eq(&text(name, version));
        }
    }
}

#[test]
fn both_versions_of_one_graph_become_the_same_objects() {
    // The other examples differ in what they tell the engine, as Dynamo's do.
    assert_eq!(text("agg", "v1alpha1"), text("agg", "v1beta1"));
}

#[test]
fn every_option_has_its_place() {
    let manifest: Value = serde_saphyr::from_str(include_str!("everything.v1alpha1.yaml")).unwrap();
    let secrets = [("nvcr.io", "ngc"), ("registry.example.com", "own"), ("docker.io", "hub")];
    let settings = Settings {
        frontend_image: Some("registry.example.com/busbar:1.0.0".to_owned()),
        image_pull_secrets: secrets.map(|(host, name)| (host.to_owned(), vec![name.to_owned()])).into(),
        prometheus_endpoint: Some("http://prometheus:9090".to_owned()),
        model_express_url: Some("http://model-express:8001".to_owned()),
        ..settings()
    };
    let objects = render(&graph_of(&manifest), &settings);
    expect_file![Path::new(FOLDER).join("everything.v1alpha1.yaml")].assert_eq(&written(&objects));
}
