//! Bad input by name: one clear message with the field or file, why and the remedy; exit code not 0; nothing left running.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Ended, Machine, free_port};

/// The graph of `examples/agg_mocker.yaml` with a change.
fn graph(from: &str, to: &str) -> String {
    let text = include_str!("../../../examples/agg_mocker.yaml");
    assert!(text.contains(from), "the example has changed");
    text.replace(from, to)
}

/// `busbar up` with these arguments fails so, and nothing runs after it.
fn check(machine: &Machine, args: &[&str], exit_code: i32, parts: &[&str]) {
    let port = free_port().to_string();
    let mut all = vec!["up", "--detach"];
    if !args.contains(&"--port") {
        all.extend(["--port", &port]);
    }
    all.extend(args);
    let ended = machine.run(&all);
    said(&ended, exit_code, parts);
    assert_eq!(machine.run(&["status"]).code, Some(1), "something was left running");
}

fn said(ended: &Ended, exit_code: i32, parts: &[&str]) {
    let (code, text) = (ended.code, &ended.err);
    assert_eq!(code, Some(exit_code), "{text}");
    assert!(text.contains("error: ") && text.contains(" remedy: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not said:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn check_graph(from: &str, to: &str, parts: &[&str]) {
    let machine = Machine::new();
    let file = machine.file("graph.yaml", &graph(from, to));
    check(&machine, &[file.to_str().unwrap()], 2, parts);
}

#[test]
fn an_unknown_field() {
    check_graph("replicas: 4", "replica: 4", &["spec.services.MockWorker.replica", "not known"]);
}

#[test]
fn no_frontend() {
    check_graph("componentType: frontend", "componentType: worker", &["spec.services", "no component is a frontend"]);
    let machine = Machine::new();
    let file = machine.file(
        "graph.yaml",
        "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nmetadata: {name: g}\nspec: {services: {}}",
    );
    check(&machine, &[file.to_str().unwrap()], 2, &["spec.services", "no component is a frontend"]);
}

#[test]
fn a_component_of_an_unknown_kind() {
    check_graph(
        "componentType: worker",
        "componentType: wrker",
        &["spec.services.MockWorker.componentType", "`wrker`"],
    );
}

#[test]
fn a_bad_replica_count() {
    check_graph("replicas: 4", "replicas: -4", &["spec.services.MockWorker.replicas", "-4"]);
}

#[test]
fn two_components_of_one_name() {
    check_graph("    MockWorker:", "    Frontend:", &["duplicate"]);
}

#[test]
fn a_graph_file_that_is_not_there() {
    check(&Machine::new(), &["nowhere.yaml"], 2, &["nowhere.yaml", "No such file"]);
}

#[test]
fn a_model_that_is_not_there_is_cut_or_is_no_gguf() {
    let machine = Machine::new();
    check(&machine, &["--engine", "embedded", "--model", "nowhere.gguf"], 2, &["nowhere.gguf", "no such file"]);
    let text = machine.file("text.gguf", "this is not a model at all, only text");
    check(&machine, &["--engine", "embedded", "--model", text.to_str().unwrap()], 2, &["text.gguf", "GGUF"]);
    let cut = machine.file("cut.gguf", "GGUF\u{3}\0\0\0");
    check(&machine, &["--engine", "embedded", "--model", cut.to_str().unwrap()], 2, &["cut.gguf"]);
}

#[test]
fn a_manifests_model_that_this_machine_cannot_have() {
    let machine = Machine::new();
    let beta = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/agg_router.v1beta1.yaml");
    check(&machine, &["--engine", "embedded", beta], 2, &["Qwen/Qwen3-0.6B", "--model"]);
}

#[test]
fn a_port_that_another_program_holds() {
    let machine = Machine::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let holder = format!("pid {}", std::process::id());
    check(&machine, &["--engine", "mock", "--port", &port], 1, &[&port, &holder, "--port"]);
}

#[test]
fn no_such_engine() {
    check_usage(&["--engine", "warp"], &["warp", "embedded", "mock"]);
}

/// A flag that clap refuses: its text names the values.
fn check_usage(args: &[&str], parts: &[&str]) {
    let machine = Machine::new();
    let ended = machine.run(&[&["up"], args].concat());
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    parts.iter().for_each(|part| assert!(ended.err.contains(part), "`{part}`: {}", ended.err));
}

#[test]
fn a_bind_to_every_address_without_keys() {
    check(&Machine::new(), &["--engine", "mock", "--host", "0.0.0.0"], 2, &["0.0.0.0", "API keys", "busbar keys add"]);
}

#[test]
fn a_full_disk() {
    if !mountable() {
        eprintln!("NOT RUN: a small file system cannot be mounted here (needs root)");
        return;
    }
    let machine = Machine::new();
    let small = machine.home().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small.to_str().unwrap()]));
    let mut command = machine.busbar();
    command.args(["up", "--detach", "--engine", "embedded", "--port", &free_port().to_string()]);
    command.env("BUSBAR_CACHE_DIR", small.join("cache"));
    let ended = machine::ended(&command.output().unwrap());
    assert!(mount(&["umount", small.to_str().unwrap()]));
    said(&ended, 2, &["no space", "small/cache"]);
}

fn mountable() -> bool {
    std::process::Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}

#[test]
fn a_failure_is_json_for_machines() {
    let ended = Machine::new().run(&["up", "nowhere.yaml", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(ended.out.trim()).unwrap();
    assert!(value["error"]["causes"][0].as_str().unwrap().contains("No such file"), "{value}");
    assert!(!value["error"]["remedies"].as_array().unwrap().is_empty());
}
