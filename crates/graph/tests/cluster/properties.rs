//! What holds for every object of every graph.

use crate::{EXAMPLES, VERSIONS, example, render, settings};
use crds::v1beta1::DynamoGraphDeployment;
use graph::cluster::{Quantity, check};
use proptest::prelude::{Strategy, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};
use serde_json::{Value, json};

/// Kinds whose names become parts of host names or values of labels.
const SHORT_NAMED: [&str; 4] = ["DynamoComponentDeployment", "Deployment", "Service", "PodDisruptionBudget"];

fn is_dns_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(is_plain) && name.ends_with(is_plain) && name.chars().all(|c| is_plain(c) || c == '-' || c == '.')
}

/// What is wrong with an object of a graph in the namespace `serving`.
fn faults(object: &Value) -> Vec<String> {
    let metadata = &object["metadata"];
    let (kind, name) = (object["kind"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
    let length_max = if SHORT_NAMED.contains(&kind) { 63 } else { 253 };
    let owner = &metadata["ownerReferences"][0];
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let pod = object["spec"]["template"]["metadata"]["labels"].as_object().into_iter().flatten();
    let long = labels.chain(pod).find(|(_, value)| value.as_str().is_none_or(|value| value.len() > 63));
    [
        (object["apiVersion"].as_str().is_none_or(str::is_empty), "no apiVersion".to_owned()),
        (kind.is_empty(), "no kind".to_owned()),
        (!is_dns_name(name) || name.len() > length_max, "bad name".to_owned()),
        (kind == "Service" && name.contains('.'), "a dot in the name of a Service".to_owned()),
        (metadata["namespace"] != "serving", "wrong namespace".to_owned()),
        (metadata["labels"]["app.kubernetes.io/managed-by"] != "busbar-operator", "not marked as ours".to_owned()),
        (owner["uid"].as_str().is_none_or(str::is_empty) || owner["controller"] != true, "no owner".to_owned()),
        (long.is_some(), format!("label too long: {long:?}")),
    ]
    .into_iter()
    .filter_map(|(is_wrong, fault)| is_wrong.then(|| format!("{kind} {name}: {fault}")))
    .collect()
}

#[test]
fn every_object_has_kind_name_namespace_label_and_owner() {
    for name in EXAMPLES {
        for version in VERSIONS {
            let graph = example(name, version);
            let objects = render(&graph, &settings());
            let wrong: Vec<String> = objects.iter().flat_map(faults).collect();
            assert_eq!(wrong, [""; 0], "{name} {version}");
            assert_eq!(render(&graph, &settings()), objects, "the same again");
            let mut keys: Vec<_> =
                objects.iter().map(|o| (&o["kind"], &o["metadata"]["name"])).map(|k| format!("{k:?}")).collect();
            keys.sort();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all, "two objects of one name in {name} {version}");
        }
    }
}

/// A graph of arbitrary names, most of them good.
fn graphs() -> impl Strategy<Value = DynamoGraphDeployment> {
    let name = "[a-z][a-z0-9.-]{0,50}";
    let component = ("[A-Za-z0-9][A-Za-z0-9-]{0,40}", 0..4_usize, 0..3_i64, proptest::bool::ANY);
    (name, collection::vec(component, 1..4)).prop_map(|(name, components)| {
        let components: Vec<Value> = components
            .into_iter()
            .map(|(name, kind, replicas, has_model)| {
                let kind = ["frontend", "worker", "prefill", "decode"][kind];
                let mut component = json!({"name": name, "type": kind, "replicas": replicas, "podTemplate":
                    {"spec": {"containers": [{"name": "main", "image": "x:1"}]}}});
                if has_model {
                    component["modelRef"] = json!({"name": "m/n"});
                }
                component
            })
            .collect();
        serde_json::from_value(json!({"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": {"name": name, "namespace": "serving", "uid": "u"}, "spec": {"components": components}}))
        .unwrap()
    })
}

proptest! {
    #[test]
    fn a_graph_that_is_accepted_becomes_objects_that_are_named_well(graph in graphs()) {
        if check(&graph).is_empty() {
            let wrong: Vec<String> = render(&graph, &settings()).iter().flat_map(faults).collect();
            prop_assert!(wrong.is_empty(), "{wrong:#?}");
        }
    }

    #[test]
    fn no_text_breaks_the_reader_of_quantities(text in "[-+.0-9a-zA-Z]{0,40}") {
        if let Some(quantity) = Quantity::parse(&text) {
            prop_assert_eq!(quantity.sign().is_lt(), text.starts_with('-') && quantity != Quantity::parse("0").unwrap());
        }
    }
}
