//! What is wrong is refused while its user still looks, with the path and what to do.

use crate::stage::{STAGE, create, fixture, graphs, kubectl, objects, on_stage};
use serde_json::{Value, json};

fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    object
}

const POD: &str = "/spec/components/1/podTemplate/spec/containers/0";

#[test]
fn every_bad_graph_is_refused_with_its_path() {
    let beta = fixture("agg.v1beta1.yaml");
    let alpha = fixture("agg.v1alpha1.yaml");
    let worker = alpha["spec"]["services"].as_object().unwrap().keys().find(|key| *key != "Frontend").unwrap().clone();
    let service = format!("/spec/services/{worker}");
    let (mut doubled, mut tp, mut alpha_tp) = (beta.clone(), beta.clone(), alpha.clone());
    let mut twin = beta["spec"]["components"][1].clone();
    twin["name"] = json!(twin["name"].as_str().unwrap().to_uppercase());
    doubled["spec"]["components"].as_array_mut().unwrap().push(twin);
    for (graph, path) in
        [(&mut tp, format!("{POD}/args")), (&mut alpha_tp, format!("{service}/extraPodSpec/mainContainer/args"))]
    {
        let arguments = graph.pointer_mut(&path).unwrap().as_array_mut().unwrap();
        arguments.extend([json!("--tensor-parallel-size"), json!("3")]);
    }
    let long = "x".repeat(60);
    let cases = [
        (
            "a bad quantity",
            with(&beta, POD, json!({"name": "main", "image": "i", "resources": {"limits": {"cpu": "4cores"}}})),
            "resources.limits",
        ),
        ("no components", with(&beta, "/spec/components", json!([])), "spec"),
        ("a name too long", with(&beta, "/metadata/name", json!(long)), "metadata.name"),
        (
            "a component's name too long",
            with(&beta, "/spec/components/1/name", json!("y".repeat(64))),
            "spec.components[1].name",
        ),
        ("TP that does not fit the GPUs", tp, "spec.components[1].podTemplate.spec.containers[0]"),
        ("two components of one name", doubled, "spec"),
        ("replicas below zero", with(&beta, "/spec/components/1/replicas", json!(-1)), "spec.components[1].replicas"),
        ("a wrong type", with(&beta, "/spec/components/1/type", json!("wroker")), "spec.components[1].type"),
        ("no image", with(&beta, &format!("{POD}/image"), json!("")), "spec.components[1]"),
        ("v1alpha1: no services", with(&alpha, "/spec/services", json!({})), "spec"),
        (
            "v1alpha1: a bad quantity",
            with(&alpha, &format!("{service}/resources"), json!({"limits": {"memory": "10Gb"}})),
            &format!("spec.services.{worker}.resources.limits"),
        ),
        ("v1alpha1: TP", alpha_tp, &format!("spec.services.{worker}")),
        ("v1alpha1: a name too long", with(&alpha, "/metadata/name", json!(long)), "metadata.name"),
    ];
    on_stage(async {
        let namespace = STAGE.namespace("bad").await;
        for (what, graph, path) in cases {
            let version = graph["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap();
            let refusal = create(&graphs(&STAGE.client, &namespace, version), &graph).await;
            let refusal = refusal.err().unwrap_or_else(|| panic!("{what} was taken"));
            println!("{what}: {refusal}");
            assert!(refusal.contains(path), "{what}: {refusal}");
        }
    });
}

#[test]
fn a_misspelt_field_is_refused_however_deep_it_lies() {
    let namespace = on_stage(STAGE.namespace("strict"));
    for (file, path) in
        [("agg.v1beta1.yaml", POD), ("agg.v1alpha1.yaml", "/spec/services/Frontend/extraPodSpec/mainContainer")]
    {
        let mut graph = fixture(file);
        graph.pointer_mut(path).unwrap()["imagee"] = json!("x");
        let output = kubectl(&namespace, &["create", "--validate=strict", "-f", "-"], &graph.to_string());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("imagee"), "{file}: {said}");
        let output = kubectl(&namespace, &["create", "--validate=strict", "-f", "-"], &fixture(file).to_string());
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        kubectl(&namespace, &["delete", "dgd", "--all"], "");
    }
}

#[test]
fn what_no_controller_acts_on_is_refused_and_a_component_is_named_like_its_object() {
    on_stage(async {
        let namespace = STAGE.namespace("kinds").await;
        let kinds = |version: &str, kind: &str| objects(&STAGE.client, &namespace, version, kind);
        let object = |version: &str, kind: &str, spec: Value| json!({ "apiVersion": format!("nvidia.com/{version}"), "kind": kind, "metadata": { "name": "x" }, "spec": spec });
        for version in ["v1beta1", "v1alpha1"] {
            let spec = if version == "v1beta1" {
                json!({ "model": "Qwen/Qwen3-0.6B" })
            } else {
                json!({ "model": "Qwen/Qwen3-0.6B", "backend": "vllm", "profilingConfig": { "profilerImage": "i" } })
            };
            let request = object(version, crds::DEPLOYMENT_REQUEST, spec);
            let refusal = create(&kinds(version, crds::DEPLOYMENT_REQUEST), &request).await.unwrap_err();
            assert!(refusal.contains("does not profile"), "{refusal}");
        }
        let lora =
            object("v1alpha1", "DynamoModel", json!({ "modelName": "a", "baseModelName": "b", "modelType": "lora" }));
        let refusal = create(&kinds("v1alpha1", "DynamoModel"), &lora).await.unwrap_err();
        assert!(refusal.contains("spec.source.uri"), "{refusal}");
        let pod = fixture("agg.v1beta1.yaml")["spec"]["components"][0]["podTemplate"].clone();
        let component =
            object("v1beta1", crds::DYNAMO_COMPONENT_DEPLOYMENT, json!({ "type": "frontend", "podTemplate": pod }));
        let made = create(&kinds("v1beta1", crds::DYNAMO_COMPONENT_DEPLOYMENT), &component).await.unwrap();
        assert_eq!(made["spec"]["name"], "x");
        assert!(made["spec"].get("replicas").is_none(), "{made}");
    });
}
