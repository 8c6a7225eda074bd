//! An object that is written in one version and read in the other is the same object.

use crate::stage::{STAGE, create, fixture, graphs, on_stage};
use crds::convert::{Version, convert};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

/// What a user wrote: without what the API server and the conversion add.
fn written(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for key in ["managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "namespace"] {
        metadata.shift_remove(key);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(crds::convert::REMAINDER);
        if annotations.is_empty() {
            metadata.shift_remove("annotations");
        }
    }
    object
}

/// The same bytes, whatever the order of keys.
fn bytes(value: &Value) -> String {
    match value {
        Value::Object(parts) => {
            let mut parts: Vec<_> = parts.iter().map(|(key, value)| format!("{key:?}:{}", bytes(value))).collect();
            parts.sort();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(parts) => format!("[{}]", parts.iter().map(bytes).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// The manifest with something that the other version has no field for: it must not be lost on the way.
fn with_what_only_it_can_say(mut manifest: Value) -> Value {
    if manifest["apiVersion"] == "nvidia.com/v1alpha1" {
        manifest["spec"]["services"]["Frontend"]["ingress"] = json!({ "enabled": true, "host": "chat" });
    } else {
        manifest["spec"]["components"].as_array_mut().unwrap().reverse();
    }
    manifest
}

#[test]
fn every_example_comes_back_byte_for_byte_from_the_api_server_in_both_versions() {
    on_stage(async {
        for given in ["v1alpha1", "v1beta1"] {
            let other = if given == "v1alpha1" { Version::V1beta1 } else { Version::V1alpha1 };
            let namespace = STAGE.namespace(given).await;
            let here = graphs(&STAGE.client, &namespace, given);
            let there = graphs(&STAGE.client, &namespace, other.word());
            for name in ["agg", "agg_router", "disagg", "disagg_router", "disagg_planner"] {
                let manifest = with_what_only_it_can_say(fixture(&format!("{name}.{given}.yaml")));
                create(&here, &manifest).await.unwrap();
                let object = manifest["metadata"]["name"].as_str().unwrap();
                let read = || async { serde_json::to_value(here.get(object).await.unwrap()).unwrap() };
                assert_eq!(bytes(&written(&read().await)), bytes(&manifest), "{name} {given}");

                let mut converted = serde_json::to_value(there.get(object).await.unwrap()).unwrap();
                let expected = convert(&manifest, other).unwrap();
                assert_eq!(bytes(&written(&converted)), bytes(&written(&expected)), "{name} {given} as the other");

                // Someone who knows the other version alone writes it back, with a label of theirs.
                converted["metadata"]["labels"] = json!({ "touched": "yes" });
                let touched: DynamicObject = serde_json::from_value(converted).unwrap();
                there.replace(object, &PostParams::default(), &touched).await.unwrap();
                let mut expected = manifest.clone();
                expected["metadata"]["labels"] = json!({ "touched": "yes" });
                assert_eq!(bytes(&written(&read().await)), bytes(&expected), "{name} {given} after the other wrote it");
            }
            let list = there.list(&kube::api::ListParams::default()).await.unwrap();
            assert_eq!(list.items.len(), 5, "lists are converted whole");
        }
    });
}
