//! Platform files in, plans out: the whole plan of each is held by a golden file (`UPDATE_EXPECT=1` writes them).
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use expect_test::expect_file;
use plan::{GraphText, Plan, plan, read};
use serde_json::json;

const EXAMPLE: &str = include_str!("../../../examples/platform.yaml");
const WHOLE: &str = include_str!("golden/whole.platform.yaml");
const MOCKER: &str = include_str!("../../../examples/agg_mocker.yaml");
const ROUTER: &str = include_str!("../../../examples/agg_router.v1beta1.yaml");

/// The plan of a file whose graph files are those of `examples`.
fn planned(text: &str) -> Plan {
    let platform = read(text).unwrap_or_else(|found| panic!("{found:#?}"));
    let texts: Vec<_> = platform
        .graphs
        .iter()
        .enumerate()
        .map(|(i, entry)| match (entry.file.as_deref(), &entry.graph) {
            (Some("agg_mocker.yaml"), _) => GraphText { source: "agg_mocker.yaml".into(), text: MOCKER.into() },
            (Some(file), _) => GraphText { source: file.into(), text: ROUTER.into() },
            (None, graph) => GraphText { source: format!("graphs[{i}].graph"), text: json!(graph).to_string() },
        })
        .collect();
    plan(&platform, &texts, "0.0.0-abc").unwrap_or_else(|found| panic!("{found:#?}"))
}

fn check(name: &str, text: &str) {
    let written = serde_json::to_string_pretty(&planned(text)).unwrap() + "\n";
    let again = serde_json::to_string_pretty(&planned(text)).unwrap() + "\n";
    assert_eq!(written, again, "the same file gave other bytes");
    expect_file![format!("golden/{name}.plan.json")].assert_eq(&written);
}

#[test]
fn the_example_is_planned() {
    check("example", EXAMPLE);
}

#[test]
fn a_file_that_says_everything_is_planned() {
    check("whole", WHOLE);
}

#[test]
fn an_image_called_busbar_is_the_platforms_and_another_is_left_alone() {
    let plan = planned(WHOLE);
    let reference = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/platform/busbar:0.0.0-abc";
    assert_eq!(plan.image.reference, reference);
    assert!(plan.image.packed);
    let tiny = &plan.graphs[1].manifest;
    assert_eq!(tiny.pointer("/spec/services/Front/extraPodSpec/mainContainer/image").unwrap(), reference);
    let router = plan.graphs[0].manifest.to_string();
    assert!(router.contains("nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1") && !router.contains(reference), "{router}");
}

#[test]
fn gpus_are_counted_over_replicas_in_both_versions() {
    let plan = planned(WHOLE);
    assert_eq!(plan.graphs.iter().map(|graph| graph.gpus).collect::<Vec<_>>(), [2, 6]);
    let checks = serde_json::to_value(&plan.checks).unwrap();
    assert!(checks.as_array().unwrap().contains(&json!({"check": "gpus", "count": 8})), "{checks}");
}

#[test]
fn every_object_that_is_applied_carries_the_platforms_labels() {
    let plan = planned(WHOLE);
    let objects = plan.k8s_namespaces.iter().chain(plan.graphs.iter().map(|graph| &graph.manifest));
    for object in objects {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "busbar", "{object}");
        assert_eq!(labels["busbar.dev/platform"], "llm", "{object}");
    }
    assert_eq!(plan.graphs[1].manifest["metadata"]["labels"]["owner"], "platform");
}

#[test]
fn a_namespace_that_every_cluster_has_is_never_made() {
    let names: Vec<_> =
        planned(EXAMPLE).k8s_namespaces.iter().map(|object| object["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["busbar-system"]);
}

#[test]
fn an_image_that_is_named_is_not_packed_and_needs_no_registry() {
    let text = EXAMPLE.replace("graphs:\n", "image: registry.example.com:5000/busbar:1.2\ngraphs:\n");
    let plan = planned(&text);
    assert!(!plan.image.packed);
    let image = &plan.release.values["dynamo-operator"]["controllerManager"]["manager"]["image"];
    assert_eq!(image["repository"], "registry.example.com:5000/busbar");
    assert_eq!(image["tag"], "1.2");
    let checks = serde_json::to_value(&plan.checks).unwrap();
    assert!(checks.as_array().unwrap().iter().all(|check| check["check"] != "registry"), "{checks}");
}

#[test]
fn without_a_storage_class_the_chart_is_told_to_leave_it_to_the_cluster() {
    let values = planned(EXAMPLE).release.values;
    let claim = &values["nats"]["config"]["jetstream"]["fileStore"]["pvc"];
    assert_eq!(claim.get("storageClassName"), Some(&json!("")), "{claim}");
}
