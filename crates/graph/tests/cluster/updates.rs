//! What a change may not change.

use crate::manifest;
use crds::v1beta1::DynamoGraphDeployment;
use graph::cluster::{Caller, Settings, check_component_update, check_update, components};
use serde_json::{Value, json};

fn graph(change: &dyn Fn(&mut Value)) -> DynamoGraphDeployment {
    let mut manifest = manifest("agg", "v1beta1");
    change(&mut manifest);
    serde_json::from_value(manifest).unwrap()
}

/// Paths of the findings of a change by a user.
fn paths(old: &dyn Fn(&mut Value), new: &dyn Fn(&mut Value)) -> Vec<String> {
    check_update(&graph(old), &graph(new), Caller::User).into_iter().map(|finding| finding.path).collect()
}

#[test]
fn a_type_stays_once_it_is_set() {
    let unset: &dyn Fn(&mut Value) = &|m| {
        m["spec"]["components"][1].as_object_mut().unwrap().shift_remove("type");
    };
    assert_eq!(paths(&|_| {}, &|m| m["spec"]["components"][1]["type"] = json!("decode")), ["spec.components[1].type"]);
    assert_eq!(paths(&|_| {}, unset), ["spec.components[1].type"]);
    assert_eq!(paths(unset, &|_| {}), [""; 0]);
    // By name, wherever the component stands now.
    assert_eq!(paths(&|_| {}, &|m| m["spec"]["components"].as_array_mut().unwrap().reverse()), [""; 0]);
}

#[test]
fn min_available_stays() {
    let of = |count: u64| move |m: &mut Value| m["spec"]["components"][1]["minAvailable"] = json!(count);
    assert_eq!(paths(&of(1), &of(2)), ["spec.components[1].minAvailable"]);
    assert_eq!(paths(&of(1), &of(1)), [""; 0]);
}

#[test]
fn a_restart_waits_for_the_update_under_way() {
    let updating = |phase: &'static str| move |m: &mut Value| m["status"] = json!({"rollingUpdate": {"phase": phase}});
    let restart: &dyn Fn(&mut Value) = &|m| m["spec"]["restart"] = json!({"id": "2"});
    assert_eq!(paths(&updating("InProgress"), restart), ["spec.restart.id"]);
    assert_eq!(paths(&updating("Completed"), restart), [""; 0]);
}

#[test]
fn replicas_of_a_scaling_adapter_are_the_operators() {
    let of = |count: u64| {
        move |m: &mut Value| {
            m["spec"]["components"][1]["scalingAdapter"] = json!({});
            m["spec"]["components"][1]["replicas"] = json!(count);
        }
    };
    assert_eq!(paths(&of(1), &of(3)), ["spec.components[1].replicas"]);
    assert_eq!(check_update(&graph(&of(1)), &graph(&of(3)), Caller::Operator), []);
    // Without the adapter the replicas are the user's again.
    assert_eq!(paths(&of(1), &|m| m["spec"]["components"][1]["replicas"] = json!(3)), [""; 0]);
    assert_eq!(Caller::from_is_operator(false), Caller::User);
}

#[test]
fn the_workload_provider_stays() {
    let of = |word: &'static str| {
        move |m: &mut Value| m["metadata"]["annotations"] = json!({"nvidia.com/workload-provider": word})
    };
    assert_eq!(paths(&of("component"), &of("grove")), ["metadata.annotations[nvidia.com/workload-provider]"]);
    assert_eq!(paths(&|_| {}, &of("component")), [""; 0]);
}

#[test]
fn a_component_alone_keeps_its_type_too() {
    let old = components(&graph(&|_| {}), &Settings::default()).remove(0);
    let mut new = old.clone();
    new.spec.component.component_type = Some("worker".to_owned());
    let found = check_component_update(&old, &new);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, "spec.type");
}
