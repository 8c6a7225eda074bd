//! The CustomResourceDefinitions: fresh files, structural schemas, the names that scripts read.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use crds::definition::{ConversionService, definitions, files};
use crds::strict::unknown_keys;
use expect_test::expect_file;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/crds");
/// Bytes of all files. Helm keeps a release, charts and manifests, in one Secret of at most 1 MiB, packed.
const BYTES_MAX: usize = 1024 * 1024;

fn of_kind(kind: &str) -> Value {
    let all = definitions(&ConversionService::default());
    all.into_iter().map(|(_, value)| value).find(|value| value["spec"]["names"]["kind"] == kind).unwrap()
}

fn version<'a>(definition: &'a Value, name: &str) -> &'a Value {
    let versions = definition["spec"]["versions"].as_array().unwrap();
    versions.iter().find(|version| version["name"] == name).unwrap()
}

/// To write them: `busbar crds --output-dir assets/crds`, or this test with `UPDATE_EXPECT=1`.
#[test]
fn the_files_of_the_chart_are_fresh() {
    let files = files(&ConversionService::default()).unwrap();
    for (name, text) in &files {
        expect_file![Path::new(FOLDER).join(name)].assert_eq(text);
    }
    let mut there: Vec<_> =
        std::fs::read_dir(FOLDER).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, files.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), "a file of no kind");
}

#[test]
fn the_text_of_a_file_means_its_definition_and_all_are_small_enough_for_helm() {
    let definitions = definitions(&ConversionService::default());
    let files = files(&ConversionService::default()).unwrap();
    for ((name, text), (_, definition)) in files.iter().zip(&definitions) {
        let read: Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(&read, definition, "{name}");
    }
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    assert!(bytes < BYTES_MAX, "{bytes} bytes");
}

#[test]
fn kubernetes_own_type_of_a_definition_knows_every_key() {
    for (name, definition) in definitions(&ConversionService::default()) {
        let typed: CustomResourceDefinition = serde_json::from_value(definition.clone()).unwrap();
        let unknown = unknown_keys(&definition, &typed).unwrap();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

/// Kubernetes, "Specifying a structural schema", rules 1 to 4, and what the API server refuses besides.
fn check_structural(schema: &Value, path: &str, is_root: bool) {
    let map = schema.as_object().unwrap_or_else(|| panic!("{path}: no schema"));
    let is_free =
        schema["x-kubernetes-preserve-unknown-fields"] == true || schema["x-kubernetes-int-or-string"] == true;
    assert!(schema["type"].is_string() || is_free, "{path}: no type");
    for key in
        ["$ref", "$defs", "oneOf", "allOf", "not", "const", "nullable", "title", "uniqueItems", "patternProperties"]
    {
        assert!(!map.contains_key(key), "{path}: {key}");
    }
    if let Some(any_of) = map.get("anyOf") {
        assert_eq!(any_of, &json!([{"type": "integer"}, {"type": "string"}]), "{path}");
        assert_eq!(schema["x-kubernetes-int-or-string"], true, "{path}");
    }
    assert!(
        !(map.contains_key("properties") && map.contains_key("additionalProperties")),
        "{path}: both kinds of object"
    );
    if schema["type"] == "array" {
        assert!(map.contains_key("items"), "{path}: a list of what?");
    }
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
        assert_eq!(schema["x-kubernetes-list-type"], "map", "{path}");
        let required =
            schema["items"]["required"].as_array().unwrap_or_else(|| panic!("{path}: keys are not required"));
        assert!(keys.iter().all(|key| required.contains(key)), "{path}: a key may be absent");
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let (text, message) = (rule["rule"].as_str().unwrap(), rule["message"].as_str().unwrap());
        assert!(text.contains("self") || text.contains("oldSelf"), "{path}: {text}");
        assert!(!message.is_empty() && message.len() < 2048, "{path}: {message}");
        assert_eq!(text.matches('(').count(), text.matches(')').count(), "{path}: {text}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(schema["properties"].get(name.as_str().unwrap()).is_some(), "{path}: {name} is required and not there");
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Metadata of the object itself says no more than that it is an object.
        if !(is_root && name == "metadata") {
            check_structural(property, &format!("{path}.{name}"), false);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get(key) {
            check_structural(inner, &format!("{path}[]"), false);
        }
    }
}

#[test]
fn every_schema_is_structural() {
    for (file, definition) in definitions(&ConversionService::default()) {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let path = format!("{file} {}", version["name"]);
            check_structural(&version["schema"]["openAPIV3Schema"], &path, true);
        }
    }
}

fn check_kind(kind: &str, plural: &str, short: Option<&str>, versions: &[(&str, bool, &[&str])]) {
    let definition = of_kind(kind);
    let spec = &definition["spec"];
    assert_eq!(definition["metadata"]["name"], format!("{plural}.nvidia.com"));
    assert_eq!((&spec["group"], &spec["scope"]), (&json!("nvidia.com"), &json!("Namespaced")));
    assert_eq!(spec["names"]["plural"], plural);
    assert_eq!(spec["names"]["singular"], kind.to_lowercase());
    assert_eq!(spec["names"].get("shortNames"), short.map(|short| json!([short])).as_ref(), "{kind}");
    assert_eq!(spec["versions"].as_array().unwrap().len(), versions.len());
    for (name, is_stored, columns) in versions {
        let version = version(&definition, name);
        assert_eq!((&version["served"], &version["storage"]), (&json!(true), &json!(is_stored)), "{kind} {name}");
        let columns_there = version["additionalPrinterColumns"].as_array().into_iter().flatten();
        assert_eq!(columns_there.map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(), *columns, "{kind} {name}");
    }
    assert_eq!(spec.get("conversion").is_some(), versions.len() > 1, "{kind}");
}

/// dynamo.md's table of kinds: plural, short name, versions, columns.
#[test]
fn names_versions_and_columns_are_those_that_users_of_dynamo_see() {
    let graph: &[&str] = &["Ready", "Backend", "Age"];
    let component: &[&str] = &["Available", "Backend", "Age"];
    let request: &[&str] = &["Model", "Backend", "Phase", "Profiling", "Reason", "Message", "DGD", "Age"];
    check_kind(
        "DynamoGraphDeployment",
        "dynamographdeployments",
        Some("dgd"),
        &[("v1alpha1", false, graph), ("v1beta1", true, graph)],
    );
    check_kind(
        "DynamoComponentDeployment",
        "dynamocomponentdeployments",
        Some("dcd"),
        &[("v1alpha1", false, component), ("v1beta1", true, component)],
    );
    check_kind(
        "DynamoGraphDeploymentScalingAdapter",
        "dynamographdeploymentscalingadapters",
        Some("dgdsa"),
        &[
            ("v1alpha1", false, &["DGD", "SERVICE", "REPLICAS", "AGE"]),
            ("v1beta1", true, &["DGD", "COMPONENT", "REPLICAS", "AGE"]),
        ],
    );
    check_kind(
        "DynamoGraphDeploymentRequest",
        "dynamographdeploymentrequests",
        Some("dgdr"),
        &[("v1alpha1", false, &["Model", "Backend", "State", "DGD-State", "Age"]), ("v1beta1", true, request)],
    );
    let model: &[&str] = &["BaseModel", "Type", "Ready", "Total", "Age"];
    check_kind("DynamoModel", "dynamomodels", Some("dm"), &[("v1alpha1", true, model)]);
    check_kind("DynamoWorkerMetadata", "dynamoworkermetadatas", None, &[("v1alpha1", true, &[])]);
    assert_eq!(definitions(&ConversionService::default()).len(), 6);
}

/// Every column's path leads to a field of its version's schema.
#[test]
fn every_column_shows_a_field_that_exists() {
    for (file, definition) in definitions(&ConversionService::default()) {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
                let path = column["jsonPath"].as_str().unwrap();
                if path.starts_with(".metadata") {
                    continue;
                }
                let mut schema = &version["schema"]["openAPIV3Schema"];
                let (plain, filtered) = path.split_once("[?").map_or((path, None), |(a, b)| (a, Some(b)));
                for step in plain.split('.').skip(1) {
                    schema = &schema["properties"][step];
                }
                if let Some((_, field)) = filtered.and_then(|rest| rest.split_once("].")) {
                    schema = &schema["items"]["properties"][field];
                }
                assert!(schema["type"].is_string(), "{file} {}: {path}", version["name"]);
            }
        }
    }
}

#[test]
fn subresources_are_status_for_all_that_have_one_and_scale_for_the_adapter() {
    for (file, definition) in definitions(&ConversionService::default()) {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let has_status = version["schema"]["openAPIV3Schema"]["properties"].get("status").is_some();
            assert_eq!(version["subresources"].get("status").is_some(), has_status, "{file}");
            assert_eq!(version["subresources"].get("scale").is_some(), file.contains("scalingadapters"), "{file}");
        }
    }
    let adapter = of_kind("DynamoGraphDeploymentScalingAdapter");
    let scale = &version(&adapter, "v1beta1")["subresources"]["scale"];
    assert_eq!(scale["specReplicasPath"], ".spec.replicas");
    assert_eq!(scale["statusReplicasPath"], ".status.replicas");
    assert_eq!(scale["labelSelectorPath"], ".status.selector");
}

#[test]
fn two_versions_are_never_left_without_a_webhook_that_converts() {
    let service = ConversionService { k8s_namespace: "ns".into(), name: "svc".into(), ca_bundle: Some("Y2E=".into()) };
    for (file, definition) in definitions(&service) {
        if let Some(conversion) = definition["spec"].get("conversion") {
            assert_eq!(conversion["strategy"], "Webhook", "{file}");
            let client = &conversion["webhook"]["clientConfig"];
            assert_eq!(
                client["service"],
                json!({"name": "svc", "namespace": "ns", "path": "/convert", "port": 443}),
                "{file}"
            );
            assert_eq!(client["caBundle"], "Y2E=");
        }
    }
}

#[test]
fn labels_of_a_pod_template_are_not_pruned() {
    let graph = of_kind("DynamoGraphDeployment");
    let beta = version(&graph, "v1beta1");
    let template = beta
        .pointer("/schema/openAPIV3Schema/properties/spec/properties/components/items/properties/podTemplate")
        .unwrap();
    assert_eq!(template["properties"]["metadata"]["properties"]["labels"]["additionalProperties"]["type"], "string");
    let containers = &template["properties"]["spec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["items"].get("description").is_none());
}
