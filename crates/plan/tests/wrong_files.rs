//! Platform files that are wrong: every violation at once, each with its path and what to do.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use graph::Finding;
use plan::{GraphText, plan, read};

const EXAMPLE: &str = include_str!("../../../examples/platform.yaml");
/// The entry of the example's only graph.
const GRAPH_ENTRY: &str =
    "  - file: agg_mocker.yaml            # its image, `busbar`, is the platform's own\n    k8s_namespace: default\n";
const MOCKER: &str = include_str!("../../../examples/agg_mocker.yaml");

/// The findings of the example with `from` replaced by `to`, graphs included.
fn findings(changes: &[(&str, &str)]) -> Vec<Finding> {
    let mut text = EXAMPLE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "the example has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    match read(&text) {
        Err(found) => found,
        Ok(platform) => {
            let given = GraphText { source: "agg_mocker.yaml".into(), text: MOCKER.into() };
            let texts = vec![given; platform.graphs.len()];
            plan(&platform, &texts, "t").expect_err("nothing was found")
        }
    }
}

/// One change gives exactly one finding, at `path`; problem and remedy hold `parts`.
fn check(from: &str, to: &str, path: &str, parts: &[&str]) {
    let found = findings(&[(from, to)]);
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(finding.path, path, "{finding}");
    let said = finding.to_string();
    parts.iter().for_each(|part| assert!(said.contains(part), "`{part}` is not in: {said}"));
    assert!(!finding.remedy.is_empty());
}

#[test]
fn keys_that_are_not_known_and_what_was_meant() {
    check("    storage: 10Gi", "    storge: 10Gi", "platform.nats.storge", &["`storge`", "did you mean `storage`?"]);
    check("k8s_namespace: busbar-system", "namespace: x", "target.kubernetes.namespace", &["k8s_namespace"]);
    check("    # storageClass: gp3 ", "    storage_class: gp3 #", "target.kubernetes.storage_class", &["storageClass"]);
    check("verify:", "extra: {}\nverify:", "extra", &["known here: apiVersion, kind"]);
}

#[test]
fn values_of_another_kind() {
    check("replicas: 2", "replicas: two", "platform.operator.replicas", &["`two`", "a whole number"]);
    check("replicas: 2", "replicas: 20", "platform.operator.replicas", &["20", "1 to 9"]);
    check("plainHttp: true", "plainHttp: maybe", "target.kubernetes.registry.plainHttp", &["true or false"]);
    check("discoveryBackend: kubernetes", "discoveryBackend: dns", "platform.discoveryBackend", &["`dns`", "`etcd`"]);
    check("busbar.dev/v1alpha1", "busbar.dev/v1", "apiVersion", &["busbar.dev/v1alpha1"]);
    check(GRAPH_ENTRY, "  - agg_mocker.yaml\n", "graphs[0]", &["a map"]);
}

#[test]
fn what_is_missing() {
    check("  name: busbar\n", "  {}\n", "metadata.name", &["missing"]);
    check("      address: localhost:5000 ", "      # ", "target.kubernetes.registry.address", &["missing", "HOST"]);
    let found = findings(&[("    registry:\n      address: localhost:5000 ", "    # "), ("      plainHttp: true", "")]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].path, "target.kubernetes.registry");
    assert!(found[0].remedy.contains("`image`"), "{}", found[0]);
}

#[test]
fn names_and_quantities() {
    check("name: busbar\n", "name: Busbar\n", "metadata.name", &["`Busbar`", "lower-case"]);
    check("name: busbar\n", &format!("name: {}\n", "b".repeat(41)), "metadata.name", &["1 to 40"]);
    check("k8s_namespace: default", "k8s_namespace: a_b", "graphs[0].k8s_namespace", &["`a_b`"]);
    check("storage: 10Gi", "storage: 10 gigs", "platform.nats.storage", &["10 gigs", "10Gi"]);
    check("    storage: 10Gi", "    replicas: 2", "platform.nats.replicas", &["quorum", "1, 3 or 5"]);
    check("localhost:5000", "https://localhost", "target.kubernetes.registry.address", &["without a scheme"]);
    check("verify:\n", "verify:\n  expect: '('\n", "verify.expect", &["`(`", "unclosed"]);
    check("verify:\n", "image: busbar\nverify:\n", "image", &["`busbar`", "tag or digest"]);
}

#[test]
fn what_makes_no_sense_together() {
    check("  - file: agg_mocker.yaml", "  - file: a.yaml\n    graph: {}", "graphs[0]", &["both"]);
    check(GRAPH_ENTRY, "  - {}\n", "graphs[0]", &["neither"]);
    check(
        "discoveryBackend: kubernetes",
        "discoveryBackend: etcd\n  etcd: {install: false}",
        "platform.etcd.install",
        &["not installed"],
    );
    check(
        "    k8s_namespace: busbar-system",
        "    k8s_namespace: busbar-system\n    exposure: {ingressClass: nginx, hostSuffix: example.com}",
        "target.kubernetes.exposure",
        &["without TLS", "tlsSecret"],
    );
    check(
        "    k8s_namespace: default",
        "    k8s_namespace: default\n  - file: agg_mocker.yaml",
        "agg_mocker.yaml",
        &["`agg-mocker` is there already in `default`"],
    );
}

#[test]
fn all_at_once() {
    let found = findings(&[
        ("name: busbar\n", "name: B\n"),
        ("storage: 10Gi", "storge: 10Gi"),
        ("replicas: 2", "replicas: two"),
        ("    k8s_namespace: default", "    k8s_namespace: X"),
    ]);
    let paths: Vec<_> = found.iter().map(|finding| finding.path.as_str()).collect();
    let expected = ["platform.operator.replicas", "platform.nats.storge", "metadata.name", "graphs[0].k8s_namespace"];
    assert_eq!(paths, expected);
}

#[test]
fn a_file_that_is_no_yaml_names_the_line() {
    let found = read("apiVersion: [").unwrap_err();
    assert!(found[0].problem.contains("line"), "{}", found[0]);
    let found = read("kind: Platform\nkind: Platform\n").unwrap_err();
    assert!(found[0].problem.contains("duplicate"), "{}", found[0]);
}

#[test]
fn findings_of_a_graph_name_its_file_or_its_place() {
    let inline = "  - graph: {apiVersion: nvidia.com/v1beta1, kind: DynamoGraphDeployment, metadata: {name: g}, spec: {components: [{name: F, type: frontend, replica: 1}]}}\n";
    let platform = read(&EXAMPLE.replace(GRAPH_ENTRY, inline)).unwrap();
    let text = serde_json::to_string(&platform.graphs[0].graph).unwrap();
    let given = |source: &str| [GraphText { source: source.into(), text: text.clone() }];
    let paths = |source: &str| plan(&platform, &given(source), "t").unwrap_err()[0].path.clone();
    assert_eq!(paths("graphs[0].graph"), "graphs[0].graph.spec.components[0].replica");
    assert_eq!(paths("g.yaml"), "g.yaml: spec.components[0].replica");
}
