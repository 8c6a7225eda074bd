//! `busbar lint` and `busbar plan` as a person runs them, without any cluster.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Ended, Machine};
use serde_json::Value;
use std::path::PathBuf;

fn example(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).display().to_string()
}

fn run(machine: &Machine, args: &[&str]) -> Ended {
    let mut command = machine.busbar();
    // Nothing of the tester's: neither a cluster nor a Helm.
    machine::ended(&command.args(args).env("KUBECONFIG", "/nowhere/kubeconfig").output().unwrap())
}

#[test]
fn every_example_is_found_well_formed() {
    let machine = Machine::new();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.ends_with(".yaml"))
        .collect();
    let args: Vec<_> = std::iter::once("lint").chain(files.iter().map(String::as_str)).collect();
    let ended = run(&machine, &args);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(ended.out.lines().count(), files.len(), "{}", ended.out);
}

#[test]
fn the_example_is_planned_offline_the_same_each_time() {
    let machine = Machine::new();
    let plan = || {
        let ended = run(&machine, &["plan", &example("platform.yaml"), "--offline", "-o", "json"]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    };
    let (first, second) = (plan(), plan());
    assert_eq!(first, second);
    let value: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(value["cluster"], Value::Null);
    assert_eq!(value["plan"]["name"], "busbar");
    let reference = value["plan"]["image"]["reference"].as_str().unwrap();
    assert!(reference.starts_with(concat!("localhost:5000/busbar:", env!("CARGO_PKG_VERSION"), "-")), "{reference}");
    assert!(value["plan"]["graphs"][0]["manifest"].to_string().contains(reference));
}

#[test]
fn a_plan_needs_no_cluster_and_says_that_none_was_asked() {
    let ended = run(&Machine::new(), &["plan", &example("platform.yaml")]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("no cluster was asked") && ended.err.contains("/nowhere/kubeconfig"), "{}", ended.err);
    for part in ["busbar-system", "agg-mocker", "MockWorker", "capital of France"] {
        assert!(ended.out.contains(part), "`{part}` is not in:\n{}", ended.out);
    }
}

/// The command fails with the exit code of a bad call and says each part.
fn refused(machine: &Machine, args: &[&str], parts: &[&str]) {
    let ended = run(machine, args);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains(" remedy: "), "{}", ended.err);
    for part in parts {
        assert!(ended.err.contains(part), "`{part}` is not said:\n{}", ended.err);
    }
}

#[test]
fn a_platform_file_that_is_wrong_is_refused_by_every_verb_with_all_that_is_wrong() {
    let machine = Machine::new();
    let text = "apiVersion: busbar.dev/v1alpha1\nkind: Platform\nmetadata: {name: X}\ntarget: {kubernets: {}}\n";
    let file = machine.file("platform.yaml", text).display().to_string();
    let parts = ["metadata.name", "target.kubernets", "did you mean `kubernetes`?"];
    for verb in ["lint", "plan", "up", "verify", "down"] {
        refused(&machine, &[verb, &file], &parts);
    }
}

#[test]
fn a_graph_file_that_is_wrong_or_missing_is_named() {
    let machine = Machine::new();
    let platform = std::fs::read_to_string(example("platform.yaml")).unwrap();
    let file = machine.file("platform.yaml", &platform).display().to_string();
    refused(&machine, &["lint", &file], &["graphs[0].file", "agg_mocker.yaml", "No such file"]);
    let graph = std::fs::read_to_string(example("agg_mocker.yaml")).unwrap();
    machine.file("agg_mocker.yaml", &graph.replace("replicas: 4", "replica: 4"));
    refused(&machine, &["lint", &file], &["agg_mocker.yaml: spec.services.MockWorker.replica", "not known"]);
}

#[test]
fn verbs_say_which_kind_they_take() {
    let machine = Machine::new();
    let graph = example("agg_mocker.yaml");
    refused(&machine, &["plan", &graph], &["`DynamoGraphDeployment` is no Platform", "busbar up"]);
    let platform = example("platform.yaml");
    refused(&machine, &["up", &platform, "--engine", "mock"], &["--engine", "on this machine"]);
    refused(&machine, &["up", &platform, "--detach"], &["--detach", "a cluster keeps what runs"]);
}

#[test]
fn down_takes_the_file_of_a_graph_of_this_machine_and_does_nothing_twice() {
    let ended = run(&Machine::new(), &["down", &example("agg_mocker.yaml")]);
    assert_eq!((ended.code, ended.err.trim()), (Some(0), "nothing runs"), "{}", ended.err);
}
