//! Everything that Dynamo's examples become, held whole.

use crate::{EXAMPLES, VERSIONS, example, render, settings};
use expect_test::expect_file;
use std::fmt::Write as _;
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn text(name: &str, version: &str) -> String {
    render(&example(name, version), &settings()).iter().fold(String::new(), |mut all, object| {
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
