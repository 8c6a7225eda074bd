//! Manifests in, processes or findings out.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use graph::local::{BUILT_IN_GRAPH, Role, render};
use graph::{Finding, parse};

const FRONTEND: &str = "    Frontend:\n      componentType: frontend\n";

fn v1alpha1(services: &str) -> String {
    format!(
        "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nmetadata:\n  name: g\nspec:\n  services:\n{services}"
    )
}

fn worker(extra: &str) -> String {
    format!(
        "{FRONTEND}    Worker:\n      componentType: worker\n{extra}      extraPodSpec:\n        mainContainer:\n          \
         image: x\n          command: [python3, -m, dynamo.vllm]\n"
    )
}

fn findings(text: &str) -> Vec<Finding> {
    match parse(text) {
        Err(findings) => findings,
        Ok(graph) => render(&graph).expect_err("the manifest is wrong"),
    }
}

/// One finding is at `path` and its text holds `part`; every finding has a remedy.
fn check(text: &str, path: &str, part: &str) {
    let found = findings(text);
    assert!(
        found.iter().any(|f| f.path == path && f.problem.contains(part)),
        "wanted `{part}` at `{path}`, got {found:#?}"
    );
    assert!(found.iter().all(|f| !f.remedy.is_empty()));
}

#[test]
fn the_built_in_graph_is_one_frontend_with_kv_routing_and_two_workers() {
    let plan = render(&parse(BUILT_IN_GRAPH).unwrap()).unwrap();
    let names: Vec<_> = plan.processes.iter().map(|p| (p.name.as_str(), p.role)).collect();
    assert_eq!(
        names,
        [("frontend-0", Role::Frontend), ("vllmdecodeworker-0", Role::Worker), ("vllmdecodeworker-1", Role::Worker)]
    );
    assert_eq!(plan.processes[0].env, [("DYN_ROUTER_MODE".to_owned(), "kv".to_owned())]);
    assert_eq!(plan.processes[1].argv, ["python3", "-m", "dynamo.vllm"]);
}

#[test]
fn every_example_is_a_graph_that_one_machine_runs() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // A platform is not a graph; crate plan reads it.
        if text.lines().any(|line| line == "kind: Platform") {
            continue;
        }
        let graph = parse(&text).unwrap_or_else(|f| panic!("{}: {f:#?}", path.display()));
        render(&graph).unwrap_or_else(|f| panic!("{}: {f:#?}", path.display()));
        seen += 1;
    }
    assert!(seen >= 3, "examples are missing");
}

#[test]
fn both_versions_of_the_same_graph_give_the_same_processes() {
    let beta = include_str!("../../../examples/agg_router.v1beta1.yaml");
    let (a, b) = (render(&parse(BUILT_IN_GRAPH).unwrap()).unwrap(), render(&parse(beta).unwrap()).unwrap());
    let shape = |plan: &graph::local::LocalPlan| -> Vec<_> {
        plan.processes.iter().map(|p| (p.name.clone(), p.role, p.env.clone())).collect()
    };
    assert_eq!(shape(&a), shape(&b));
    assert_eq!(b.processes[1].argv[..5], ["python3", "-m", "dynamo.vllm", "--model", "Qwen/Qwen3-0.6B"]);
}

#[test]
fn an_unknown_field_is_named_at_any_depth() {
    check(&v1alpha1(&worker("      replica: 2\n")), "spec.services.Worker.replica", "`replica` is not known");
    check(
        &v1alpha1(&worker("").replace("image: x", "image: x\n          imagePolicy: y")),
        "spec.services.Worker.extraPodSpec.mainContainer.imagePolicy",
        "not known",
    );
    let beta = include_str!("../../../examples/agg_router.v1beta1.yaml").replace("replicas: 2", "replica: 2");
    check(&beta, "spec.components[1].replica", "not known");
}

#[test]
fn a_graph_without_a_frontend_is_refused() {
    let only_worker = worker("").replace(FRONTEND, "");
    check(&v1alpha1(&only_worker), "spec.services", "no component is a frontend");
}

#[test]
fn a_component_of_an_unknown_kind_is_refused() {
    check(
        &v1alpha1(&worker("").replace("componentType: worker", "componentType: wrker")),
        "spec.services.Worker.componentType",
        "`wrker`",
    );
}

#[test]
fn a_bad_replica_count_is_refused() {
    check(&v1alpha1(&worker("      replicas: -1\n")), "spec.services.Worker.replicas", "-1");
    check(&v1alpha1(&worker("      replicas: 5000\n")), "spec.services.Worker.replicas", "5000");
    check(&v1alpha1(&worker("      replicas: two\n")), "spec.services.Worker.replicas", "invalid type");
    check(&v1alpha1(&worker("      replicas: 100\n")), "spec", "101 replicas");
    check(&v1alpha1(&worker("      replicas: 0\n")), "spec", "no worker has a replica");
}

#[test]
fn two_components_of_one_name_are_refused() {
    check(&v1alpha1(&format!("{}{}", worker(""), worker("").replace(FRONTEND, ""))), "", "duplicate");
    let beta = include_str!("../../../examples/agg_router.v1beta1.yaml").replace("VllmDecodeWorker", "frontend");
    check(&beta, "spec.components[1]", "`frontend` is there already");
}

#[test]
fn a_command_that_is_not_ours_is_refused_with_the_shapes() {
    check(&v1alpha1(&worker("").replace("python3, -m, dynamo.vllm", "node, x.js")), "spec.services.Worker", "`node`");
    check(&v1alpha1(&worker("").replace("dynamo.vllm", "dynamo.frontend")), "spec.services.Worker", "something else");
}

#[test]
fn disaggregated_and_cluster_only_components_say_so() {
    check(&v1alpha1(&worker("      subComponentType: prefill\n")), "spec.services.Worker", "disaggregated");
    check(
        &v1alpha1(&worker("").replace("componentType: worker", "componentType: planner")),
        "spec.services.Worker",
        "needs a cluster",
    );
}

#[test]
fn a_file_that_is_no_graph_says_what_it_is() {
    check("a: [", "", "not YAML");
    check("kind: Platform", "kind", "`Platform`");
    check("{}", "kind", "no kind");
    check("kind: DynamoGraphDeployment\napiVersion: nvidia.com/v9", "apiVersion", "nvidia.com/v9");
}

#[test]
fn all_violations_are_told_at_once() {
    let text = v1alpha1(
        &worker("      replicas: -1\n      replica: 3\n").replace("componentType: worker", "componentType: wrker"),
    );
    assert_eq!(findings(&text).len(), 3, "{:#?}", findings(&text));
}

#[test]
fn values_of_secrets_never_enter_the_plan() {
    let secret =
        "      envs:\n        - name: HF_TOKEN\n          valueFrom:\n            secretKeyRef: {name: hf, key: t}\n";
    let plan = render(&parse(&v1alpha1(&worker(secret))).unwrap()).unwrap();
    assert!(plan.processes.iter().all(|p| p.env.iter().all(|(name, _)| name != "HF_TOKEN")));
    assert!(plan.notes.iter().any(|note| note.contains("HF_TOKEN") && note.contains("your own environment")));
}
