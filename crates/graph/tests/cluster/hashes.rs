//! What makes another generation of workers, and what does not.

use crate::{example, graph_of, manifest};
use graph::cluster::{base_model_hash, worker_hash};
use serde_json::{Value, json};

/// The hash after `change`, and whether it is another one.
fn changes_with(change: impl Fn(&mut Value)) -> bool {
    let mut manifest = manifest("disagg", "v1beta1");
    let before = worker_hash(&graph_of(&manifest));
    change(&mut manifest);
    worker_hash(&graph_of(&manifest)) != before
}

/// The container of the component at `i`.
fn main(manifest: &mut Value, i: usize) -> &mut Value {
    &mut manifest["spec"]["components"][i]["podTemplate"]["spec"]["containers"][0]
}

#[test]
fn what_runs_in_a_worker_makes_another_generation() {
    assert!(changes_with(|m| main(m, 1)["image"] = json!("other:1.0.0")));
    assert!(changes_with(|m| main(m, 2)["args"] = json!(["--model", "other", "--disaggregation-mode", "prefill"])));
    assert!(changes_with(|m| main(m, 1)["env"] = json!([{"name": "A", "value": "1"}])));
    assert!(changes_with(|m| m["spec"]["env"] = json!([{"name": "A", "value": "1"}])));
    assert!(changes_with(|m| m["spec"]["components"][1]["sharedMemorySize"] = json!("16Gi")));
    assert!(changes_with(|m| m["spec"]["components"][1]["podTemplate"]["spec"]["nodeSelector"] = json!({"a": "b"})));
}

#[test]
fn how_many_there_are_and_what_is_no_worker_do_not() {
    assert!(!changes_with(|m| m["spec"]["components"][1]["replicas"] = json!(7)));
    assert!(!changes_with(|m| m["spec"]["components"][1]["scalingAdapter"] = json!({})));
    assert!(!changes_with(|m| main(m, 0)["image"] = json!("other:1.0.0")));
    assert!(!changes_with(|m| m["spec"]["restart"] = json!({"id": "again"})));
    assert!(!changes_with(|m| m["metadata"]["labels"] = json!({"a": "b"})));
}

#[test]
fn order_and_the_place_of_a_variable_do_not() {
    assert!(!changes_with(|m| m["spec"]["components"].as_array_mut().unwrap().reverse()));
    // The framework is the same, said or found.
    assert!(!changes_with(|m| {
        m["spec"].as_object_mut().unwrap().shift_remove("backendFramework");
    }));
    let with = |spec: Value, one: Value, two: Value| {
        let mut manifest = manifest("disagg", "v1beta1");
        manifest["spec"]["env"] = spec;
        main(&mut manifest, 1)["env"] = one;
        main(&mut manifest, 2)["env"] = two;
        worker_hash(&graph_of(&manifest))
    };
    let (a, b) = (json!({"name": "A", "value": "1"}), json!({"name": "B", "value": "2"}));
    let expected = with(json!([a, b]), json!([]), json!([]));
    assert_eq!(with(json!([b, a]), json!([]), json!([])), expected);
    assert_eq!(with(json!([a]), json!([b]), json!([b])), expected);
}

#[test]
fn both_versions_of_one_graph_have_one_hash() {
    assert_eq!(worker_hash(&example("agg", "v1alpha1")), worker_hash(&example("agg", "v1beta1")));
}

#[test]
fn a_base_model_hashes_to_what_dynamo_labels_with() {
    // printf %s Qwen/Qwen3-0.6B | sha256sum
    assert_eq!(base_model_hash("Qwen/Qwen3-0.6B"), HASH_OF_QWEN);
}

const HASH_OF_QWEN: &str = "fb68f5a6";
