//! What the webhooks answer, as tables over reviews; and what an adapter decides.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use crds::convert::{REMAINDER, Version, convert};
use crds::v1beta1::{DynamoGraphDeployment, DynamoGraphDeploymentScalingAdapter};
use k8s_openapi::jiff::Timestamp;
use operator::adapter::decide;
use operator::webhook::registration::{Target, configurations};
use operator::webhook::review::{Answer, Request, Review};
use operator::webhook::{WebhookConfig, convert as conversion, default, validate};
use serde_json::{Value, json};
use std::path::Path;

const OPERATOR: &str = "system:serviceaccount:busbar-system:busbar-operator";

fn fixture(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/tests/fixtures");
    serde_saphyr::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

fn review(object: &Value, old: Option<&Value>, user: Option<&str>) -> Request {
    let version = object["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap();
    let review = json!({ "request": {
        "uid": "u", "kind": { "group": "nvidia.com", "version": version, "kind": object["kind"] },
        "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
        "userInfo": user.map_or(json!({}), |user| json!({ "username": user })),
        "object": object, "oldObject": old,
    } });
    serde_json::from_value::<Review>(review).unwrap().request
}

fn created(object: &Value) -> Answer {
    validate::answer(&review(object, None, Some("alice")), Some(OPERATOR))
}

fn changed(old: &Value, new: &Value) -> Answer {
    validate::answer(&review(new, Some(old), Some("alice")), Some(OPERATOR))
}

fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    object
}

#[test]
fn every_example_is_taken_in_both_versions() {
    for name in ["agg", "agg_router", "disagg", "disagg_router", "disagg_planner"] {
        for version in ["v1alpha1", "v1beta1"] {
            let manifest = fixture(&format!("{name}.{version}.yaml"));
            assert_eq!(created(&manifest).refusal, None, "{name} {version}");
            assert_eq!(changed(&manifest, &manifest), Answer::default(), "what does not change is not looked at");
        }
    }
    let planner = created(&fixture("disagg_planner.v1beta1.yaml"));
    assert!(planner.warnings.iter().any(|warning| warning.contains("planner")), "{:?}", planner.warnings);
}

#[test]
fn all_faults_come_in_one_message_each_with_the_path_that_its_user_wrote() {
    let beta = fixture("agg.v1beta1.yaml");
    let bad = with(&beta, "/spec/components/0/name", beta["spec"]["components"][1]["name"].clone());
    let bad =
        with(&bad, "/spec/components/1/podTemplate/spec/containers/0/resources", json!({"limits": {"cpu": "lots"}}));
    let refusal = created(&bad).refusal.unwrap();
    assert!(refusal.starts_with("2 faults:"), "{refusal}");
    assert!(refusal.contains("spec.components[1].name"), "{refusal}");
    assert!(refusal.contains("spec.components[1].podTemplate.spec.containers[0].resources.limits"), "{refusal}");
    let alpha = fixture("agg.v1alpha1.yaml");
    let worker =
        alpha["spec"]["services"].as_object().unwrap().keys().find(|name| *name != "Frontend").unwrap().clone();
    let bad = with(&alpha, &format!("/spec/services/{worker}/resources/limits/gpu"), json!("many"));
    let refusal = created(&bad).refusal.unwrap();
    assert!(refusal.contains(&format!("spec.services.{worker}.resources.limits")), "{refusal}");
}

#[test]
fn a_change_is_refused_for_what_it_brings_and_an_old_fault_is_a_warning() {
    let good = fixture("agg.v1beta1.yaml");
    let bad =
        with(&good, "/spec/components/1/podTemplate/spec/containers/0/resources", json!({"limits": {"cpu": "lots"}}));
    assert!(changed(&good, &bad).refusal.is_some());
    assert!(changed(&bad, &good).refusal.is_none());
    let better = with(&bad, "/spec/components/0/replicas", json!(3));
    let answer = changed(&bad, &better);
    assert_eq!(answer.refusal, None);
    assert!(answer.warnings.iter().any(|warning| warning.contains("lots")), "{:?}", answer.warnings);
    let worse = with(&better, "/spec/components/0/name", json!("-"));
    let refusal = changed(&bad, &worse).refusal.unwrap();
    assert!(!refusal.contains("lots") && refusal.contains("spec.components[0].name"), "{refusal}");
    let mut going = worse;
    going["metadata"]["deletionTimestamp"] = json!("2026-11-28T00:00:00Z");
    assert_eq!(changed(&bad, &going).refusal, None, "an object that goes can always go");
}

fn adapted(replicas: i64) -> Value {
    let graph = fixture("agg.v1beta1.yaml");
    let mut graph = with(&graph, "/spec/components/1/replicas", json!(replicas));
    graph["spec"]["components"][1]["scalingAdapter"] = json!({});
    graph
}

#[test]
fn replicas_that_an_adapter_owns_are_the_operators_alone() {
    let (two, three) = (adapted(2), adapted(3));
    let ask = |user: Option<&str>, operator: Option<&str>| {
        validate::answer(&review(&three, Some(&two), user), operator).refusal.is_some()
    };
    assert!(!ask(Some(OPERATOR), Some(OPERATOR)));
    assert!(ask(Some("alice"), Some(OPERATOR)));
    assert!(ask(None, Some(OPERATOR)), "a caller that is not told is refused");
    assert!(ask(Some(OPERATOR), None), "while the operator does not know itself nobody may");
    assert!(ask(None, None));
    let mut given_back = three.clone();
    given_back["spec"]["components"][1].as_object_mut().unwrap().shift_remove("scalingAdapter");
    assert_eq!(changed(&two, &given_back).refusal, None, "without the adapter they are the user's");
}

fn of_kind(kind: &str, version: &str, spec: &Value) -> Value {
    json!({ "apiVersion": format!("nvidia.com/{version}"), "kind": kind, "metadata": { "name": "x" }, "spec": spec })
}

#[test]
fn what_nothing_here_would_act_on_is_refused_with_the_reason() {
    let check = |object: &Value, says: &[&str]| {
        let refusal = created(object).refusal.unwrap_or_default();
        assert!(says.iter().all(|part| refusal.contains(part)), "{object}: {refusal}");
    };
    let request = of_kind("DynamoGraphDeploymentRequest", "v1beta1", &json!({ "model": "Qwen/Qwen3-0.6B" }));
    check(&request, &["does not profile", "Qwen/Qwen3-0.6B", "DynamoGraphDeployment"]);
    let group = json!({ "replicas": 1, "dgdRef": { "name": "g", "componentGroupName": "all" } });
    check(
        &of_kind("DynamoGraphDeploymentScalingAdapter", "v1beta1", &group),
        &["spec.dgdRef.componentGroupName", "Grove"],
    );
    let lora = json!({ "modelName": "a", "baseModelName": "b", "modelType": "lora" });
    check(&of_kind("DynamoModel", "v1alpha1", &lora), &["spec.source.uri", "hf://"]);
    check(&of_kind("DynamoCheckpoint", "v1alpha1", &json!({})), &["DynamoCheckpoint"]);
    let base = json!({ "modelName": "a", "baseModelName": "b" });
    assert_eq!(created(&of_kind("DynamoModel", "v1alpha1", &base)).refusal, None);
}

#[test]
fn a_component_is_named_like_its_object_and_nothing_else_is_filled_in() {
    let ask = |kind: &str, version: &str, spec: Value| {
        default::answer(&review(&of_kind(kind, version, &spec), None, None)).patch
    };
    let named = json!([{ "op": "add", "path": "/spec/name", "value": "x" }]);
    assert_eq!(json!(ask("DynamoComponentDeployment", "v1beta1", json!({}))), named);
    assert_eq!(json!(ask("DynamoComponentDeployment", "v1beta1", json!({ "name": "" }))), named);
    assert!(ask("DynamoComponentDeployment", "v1beta1", json!({ "name": "y" })).is_empty());
    assert!(ask("DynamoComponentDeployment", "v1alpha1", json!({})).is_empty());
    assert!(ask("DynamoGraphDeployment", "v1beta1", json!({})).is_empty());
    let review = Answer { patch: vec![json!({ "op": "add" })], ..Answer::default() }.into_review("u");
    assert_eq!(review["response"]["patch"], "W3sib3AiOiJhZGQifV0=", "base64 of the patch, as the API server wants it");
}

#[test]
fn a_conversion_gives_all_objects_in_order_or_names_each_that_fails() {
    let ask = |objects: &[Value], to: &str| {
        conversion::review(json!({ "request": { "uid": "u", "desiredAPIVersion": to, "objects": objects } }))["response"].clone()
    };
    let (alpha, beta) = (fixture("agg.v1alpha1.yaml"), fixture("disagg.v1beta1.yaml"));
    let answer = ask(&[alpha.clone(), beta.clone()], "nvidia.com/v1beta1");
    assert_eq!(answer["result"]["status"], "Success");
    assert_eq!(answer["convertedObjects"], json!([convert(&alpha, Version::V1beta1).unwrap(), beta]));
    let mut spoilt = beta.clone();
    spoilt["metadata"]["annotations"] = json!({ REMAINDER: "{" });
    let answer = ask(&[alpha.clone(), spoilt, of_kind("DynamoModel", "v1alpha1", &json!({}))], "nvidia.com/v1alpha1");
    let message = answer["result"]["message"].as_str().unwrap();
    assert_eq!((&answer["result"]["status"], &answer["convertedObjects"]), (&json!("Failure"), &json!([])));
    assert!(message.contains("DynamoGraphDeployment ?/vllm-disagg: ") && message.contains(REMAINDER), "{message}");
    assert!(message.contains("DynamoModel ?/x: "), "{message}");
    assert_eq!(ask(&[alpha], "nvidia.com/v9")["result"]["status"], "Failure");
    assert_eq!(conversion::review(json!({}))["response"]["result"]["status"], "Failure");
}

fn config(url: Option<&str>, watched: Option<&str>) -> WebhookConfig {
    WebhookConfig {
        address: "0.0.0.0:9443".parse().unwrap(),
        k8s_namespace: "busbar-system".to_owned(),
        service: "busbar-operator-webhook".to_owned(),
        url: url.map(str::to_owned),
        watch_namespace: watched.map(str::to_owned),
        secret: "s".to_owned(),
    }
}

#[test]
fn the_registration_fails_closed_and_concerns_only_our_kinds_and_our_namespace() {
    let one = config(None, Some("team-a"));
    let target = Target::of(&one).unwrap();
    assert_eq!(target.names()[0], "busbar-operator-webhook.busbar-system.svc");
    for object in configurations(&one, &target, "PEM") {
        assert!(object["metadata"]["name"].as_str().unwrap().ends_with("-team-a"), "{object}");
        let webhook = &object["webhooks"][0];
        assert_eq!((&webhook["failurePolicy"], &webhook["timeoutSeconds"]), (&json!("Fail"), &json!(10)));
        assert_eq!(webhook["rules"][0]["apiGroups"], json!(["nvidia.com"]));
        assert_eq!(webhook["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "team-a");
        assert_eq!(webhook["clientConfig"]["caBundle"], "UEVN");
        assert!(webhook["clientConfig"].get("url").is_none());
        assert!(!object.to_string().contains("dynamoworkermetadatas"), "workers register while the operator is away");
    }
    let all = config(None, None);
    let [validating, _] = configurations(&all, &Target::of(&all).unwrap(), "PEM");
    assert_eq!(validating["metadata"]["name"], "busbar-operator-validating");
    assert!(validating["webhooks"][0].get("namespaceSelector").is_none());
    let outside = config(Some("https://[::1]:9443/"), None);
    let target = Target::of(&outside).unwrap();
    assert_eq!(target.names(), ["::1"]);
    let [validating, _] = configurations(&outside, &target, "PEM");
    assert_eq!(validating["webhooks"][0]["clientConfig"]["url"], "https://[::1]:9443/validate");
    for bad in ["http://a", "https://a/path", "https://a?b", "https://user@a", "a:9443", "https://"] {
        assert!(Target::of(&config(Some(bad), None)).unwrap_err().to_string().contains(bad), "{bad}");
    }
}

#[test]
fn an_adapter_scales_its_component_once_and_leaves_everything_else() {
    let now: Timestamp = "2026-11-28T07:00:00Z".parse().unwrap();
    let graph: DynamoGraphDeployment = serde_json::from_value(adapted(2)).unwrap();
    let component = graph.spec.components[1].name.clone();
    let adapter = |name: &str, replicas: i64| -> DynamoGraphDeploymentScalingAdapter {
        let spec = json!({ "replicas": replicas, "dgdRef": { "name": "vllm-agg", "componentName": name } });
        serde_json::from_value(of_kind("DynamoGraphDeploymentScalingAdapter", "v1beta1", &spec)).unwrap()
    };
    let scaled = decide(&adapter(&component, 5), Some(&graph), now);
    let expected = json!([
        { "op": "test", "path": "/spec/components/1/name", "value": component },
        { "op": "add", "path": "/spec/components/1/replicas", "value": 5 },
    ]);
    assert_eq!(scaled.graph_patch, Some(expected));
    assert_eq!(scaled.status.last_scale_time.unwrap().0, now);
    let selector = scaled.status.selector.unwrap();
    assert!(selector.contains("nvidia.com/dynamo-graph-deployment-name=vllm-agg"), "{selector}");
    assert!(selector.ends_with(&format!("nvidia.com/dynamo-component={component}")), "{selector}");
    let there = decide(&adapter(&component, 2), Some(&graph), now);
    assert_eq!((there.graph_patch, there.status.last_scale_time), (None, None));
    let mut closed = graph.clone();
    closed.spec.components[1].scaling_adapter = None;
    for (name, graph) in [(component.as_str(), None), ("other", Some(&graph)), (component.as_str(), Some(&closed))] {
        let decision = decide(&adapter(name, 5), graph, now);
        assert_eq!((decision.graph_patch, decision.status.selector), (None, None), "{name}");
    }
}
