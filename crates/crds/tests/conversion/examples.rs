//! Dynamo's own examples, in both versions, written out from their description.

use super::{other, schema, there};
use crate::generate::faults;
use crds::convert::Version;
use crds::strict::unknown_keys;
use crds::{v1alpha1, v1beta1};
use serde_json::{Value, json};
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const NAMES: [&str; 5] = ["agg", "agg_router", "disagg", "disagg_router", "disagg_planner"];

fn read(name: &str, version: Version) -> Value {
    let path = Path::new(FOLDER).join(format!("{name}.{}.yaml", version.word()));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap()
}

fn unknown(manifest: &Value) -> Vec<String> {
    if manifest["apiVersion"] == "nvidia.com/v1alpha1" {
        let typed: v1alpha1::DynamoGraphDeployment = serde_json::from_value(manifest.clone()).unwrap();
        unknown_keys(manifest, &typed).unwrap()
    } else {
        let typed: v1beta1::DynamoGraphDeployment = serde_json::from_value(manifest.clone()).unwrap();
        unknown_keys(manifest, &typed).unwrap()
    }
}

#[test]
fn every_example_is_known_whole_fits_its_schema_and_goes_round() {
    for version in [Version::V1alpha1, Version::V1beta1] {
        for name in NAMES {
            let manifest = read(name, version);
            assert_eq!(manifest["apiVersion"], version.api_version(), "{name}");
            let converted = there(&manifest, other(version));
            for (object, version) in [(&manifest, version), (&converted, other(version))] {
                assert_eq!(unknown(object), [""; 0], "{name}");
                let schema = schema("DynamoGraphDeployment", version);
                let mut found = Vec::new();
                faults(&schema["properties"]["spec"], &object["spec"], "spec", &mut found);
                assert!(found.is_empty(), "{name} {version:?}: {found:#?}");
            }
            assert_eq!(there(&converted, version), manifest, "{name}");
        }
    }
}

fn component<'a>(graph: &'a Value, name: &str) -> &'a Value {
    let components = graph["spec"]["components"].as_array().unwrap();
    components.iter().find(|component| component["name"] == name).unwrap()
}

#[test]
fn a_v1alpha1_worker_becomes_a_pod_with_its_command_gpu_and_secret() {
    let graph = there(&read("agg_router", Version::V1alpha1), Version::V1beta1);
    let worker = component(&graph, "VllmDecodeWorker");
    assert_eq!((&worker["type"], &worker["replicas"]), (&json!("worker"), &json!(2)));
    let main = &worker["podTemplate"]["spec"]["containers"][0];
    assert_eq!(main["name"], "main");
    assert_eq!(main["command"], json!(["python3", "-m", "dynamo.vllm"]));
    assert_eq!(main["resources"]["limits"], json!({"nvidia.com/gpu": "1"}));
    assert_eq!(main["resources"]["requests"], json!({"ephemeral-storage": "2Gi"}));
    assert_eq!(main["envFrom"], json!([{"secretRef": {"name": "hf-token-secret"}}]));
    let frontend = &component(&graph, "Frontend")["podTemplate"]["spec"]["containers"][0];
    assert_eq!(frontend["env"], json!([{"name": "DYN_ROUTER_MODE", "value": "kv"}]));
}

#[test]
fn prefill_and_decode_are_types_of_their_own_in_v1beta1() {
    let graph = there(&read("disagg", Version::V1alpha1), Version::V1beta1);
    assert_eq!(component(&graph, "VllmPrefillWorker")["type"], "prefill");
    assert_eq!(component(&graph, "VllmDecodeWorker")["type"], "decode");
    let planner = there(&read("disagg_planner", Version::V1beta1), Version::V1alpha1);
    assert_eq!(planner["spec"]["services"]["VllmPrefillWorker"]["subComponentType"], "prefill");
    assert_eq!(planner["spec"]["services"]["Planner"]["componentType"], "planner");
}
