//! What is refused, where, and with which remedy.

use crate::manifest;
use graph::Finding;
use graph::cluster::{Quantity, Settings, check_component, check_settings, components, read};
use serde_json::{Value, json};

/// Findings of `agg` (v1beta1; component 0 is the frontend, 1 the worker) after `change`.
fn findings(change: impl FnOnce(&mut Value)) -> Vec<Finding> {
    let mut manifest = manifest("agg", "v1beta1");
    change(&mut manifest);
    read(&manifest).err().unwrap_or_default()
}

/// Exactly one finding, at `path`, whose problem and remedy hold the given words.
fn check(change: impl FnOnce(&mut Value), path: &str, problem: &str, remedy: &str) {
    one(&findings(change), path, problem, remedy);
}

fn one(found: &[Finding], path: &str, problem: &str, remedy: &str) {
    let [only] = found else { panic!("wanted one finding at {path}, got {found:#?}") };
    assert_eq!(only.path, path, "{only}");
    assert!(only.problem.contains(problem), "wanted `{problem}` in: {only}");
    assert!(only.remedy.contains(remedy), "wanted `{remedy}` in: {only}");
}

fn worker(manifest: &mut Value) -> &mut Value {
    &mut manifest["spec"]["components"][1]
}

fn pod(manifest: &mut Value) -> &mut Value {
    &mut worker(manifest)["podTemplate"]["spec"]
}

fn main(manifest: &mut Value) -> &mut Value {
    &mut pod(manifest)["containers"][0]
}

/// Path of the worker's container.
const MAIN: &str = "spec.components[1].podTemplate.spec.containers[0]";

#[test]
fn the_graph_itself() {
    check(|m| m["spec"]["components"] = json!([]), "spec.components", "no component", "add");
    check(|m| m["spec"]["component"] = json!([1]), "spec.component", "`component` is not known", "correct its name");
    check(|m| m["kind"] = json!("Pod"), "kind", "`Pod`", "DynamoGraphDeployment");
    check(|m| m["apiVersion"] = json!("nvidia.com/v2"), "apiVersion", "`nvidia.com/v2`", "v1beta1");
    check(|m| m["metadata"]["name"] = json!("1st"), "metadata.name", "`1st`", "a letter first");
    check(|m| m["spec"]["backendFramework"] = json!("tgi"), "spec.backendFramework", "`tgi`", "vllm");
    check(|m| m["spec"]["priorityClassName"] = json!("x"), "spec.priorityClassName", "Grove", "podTemplate");
    let twin = |m: &mut Value| {
        let mut twin = worker(m).clone();
        twin["name"] = json!("WORKER");
        m["spec"]["components"].as_array_mut().unwrap().push(twin);
    };
    check(twin, "spec.components[2].name", "`WORKER` is there already", "upper and lower case");
}

#[test]
fn names_that_become_too_long_are_shown() {
    let long = "w".repeat(50);
    let name = long.clone();
    let resulting = format!("`vllm-agg-{long}-");
    check(move |m| worker(m)["name"] = json!(name), "spec.components[1].name", &resulting, "shorten");
    let graph = "g".repeat(56);
    let namespace = format!("`serving-{graph}`, 64 characters");
    let found = findings(|m| m["metadata"]["name"] = json!(graph));
    assert!(found.iter().any(|f| f.path == "metadata.name" && f.problem.contains(&namespace)), "{found:#?}");
    check(|m| worker(m)["name"] = json!("-w"), "spec.components[1].name", "`-w`", "at both ends");
}

#[test]
fn the_pod() {
    check(|m| main(m)["image"] = json!(""), &format!("{MAIN}.image"), "no image", "image of the engine");
    let path = "spec.components[1].podTemplate.spec.containers";
    check(|m| main(m)["name"] = json!("vllm"), path, "no container is named `main`", "`main`");
    check(
        |m| {
            worker(m).as_object_mut().unwrap().shift_remove("podTemplate");
        },
        "spec.components[1].podTemplate",
        "no podTemplate",
        "container named main",
    );
    check(|m| worker(m)["frontendSidecar"] = json!("edge"), path, "`edge`", "add the container");
    let path = "spec.components[1].podTemplate.spec.initContainers";
    check(|m| worker(m)["dynamoSidecar"] = json!("run"), path, "`run`", "add the container");
    check(
        |m| main(m)["volumeMounts"] = json!([{"name": "models", "mountPath": "/m"}]),
        &format!("{MAIN}.volumeMounts[0].name"),
        "no volume `models`",
        "under volumes",
    );
    check(|m| main(m)["imagee"] = json!("x"), &format!("{MAIN}.imagee"), "`imagee` is not known", "correct its name");
}

#[test]
fn amounts() {
    let limit = |name: &'static str, amount: &'static str| {
        move |m: &mut Value| main(m)["resources"]["limits"][name] = json!(amount)
    };
    let at = |list: &str, name: &str| format!("{MAIN}.resources.{list}[{name}]");
    check(limit("memory", "8GiB"), &at("limits", "memory"), "`8GiB` is no quantity", "8Gi");
    check(limit("cpu", "-1"), &at("limits", "cpu"), "less than nothing", "0 or more");
    check(limit("nvidia.com/gpu", "0.5"), &at("limits", "nvidia.com/gpu"), "no whole number", "not shared out");
    check(limit("ephemeral-storage", "1Gi"), &at("requests", "ephemeral-storage"), "more than its limit", "lower it");
    check(
        |m| main(m)["resources"]["requests"]["nvidia.com/gpu"] = json!("2"),
        &at("requests", "nvidia.com/gpu"),
        "same as the limit",
        "limit alone",
    );
    check(|m| worker(m)["sharedMemorySize"] = json!("much"), "spec.components[1].sharedMemorySize", "`much`", "8Gi");
}

#[test]
fn quantities_are_kubernetes() {
    for (text, same) in [
        ("1", "1000m"),
        ("8Gi", "8589934592"),
        ("1e3", "1k"),
        ("1.5", "1500m"),
        (".5", "500m"),
        ("1E", "1e18"),
        ("1000n", "1u"),
    ] {
        assert_eq!(Quantity::parse(text).unwrap(), Quantity::parse(same).unwrap(), "{text} {same}");
    }
    for text in ["", "Gi", "1 Gi", "1GB", "1gi", "--1", "1.2.3", "1e", "0x1", ".", "1e99", "9223372036854775808"] {
        assert_eq!(Quantity::parse(text), None, "{text}");
    }
    assert!(Quantity::parse("7.9Gi") < Quantity::parse("8Gi"));
    assert_eq!(Quantity::parse("2000m").unwrap().whole(), Some(2));
    assert_eq!(Quantity::parse("2500m").unwrap().whole(), None);
}

#[test]
fn gpus_are_a_multiple_of_what_the_model_is_split_into() {
    let split = |gpus: &'static str, args: Value| {
        move |m: &mut Value| {
            main(m)["resources"]["limits"]["nvidia.com/gpu"] = json!(gpus);
            main(m)["args"] = args;
        }
    };
    let path = format!("{MAIN}.args");
    check(split("4", json!(["--tensor-parallel-size", "3"])), &path, "needs 3 GPUs", "multiple");
    check(split("1", json!(["-tp=2"])), &path, "-tp 2 needs 2 GPUs", "multiple");
    check(split("4", json!(["-tp", "2", "-pp", "4"])), &path, "needs 8 GPUs", "multiple");
    check(split("4", json!(["-tp", "none"])), &path, "`-tp none`", "whole number");
    for (gpus, args) in
        [("8", json!(["-tp", "4"])), ("4", json!(["-tp", "8", "-tp", "4"])), ("1", json!(["-tp", "$(TP)"]))]
    {
        assert_eq!(findings(split(gpus, args.clone())), [], "{args}");
    }
    // In a shell line too.
    let line = |m: &mut Value| {
        main(m)["command"] = json!(["/bin/sh", "-c"]);
        main(m)["args"] = json!(["cd /w && exec python3 -m dynamo.vllm --model m --tensor-parallel-size 2"]);
    };
    check(line, &path, "needs 2 GPUs", "multiple");
}

#[test]
fn counts_types_and_what_only_others_do() {
    let path = |field: &str| format!("spec.components[1].{field}");
    check(|m| worker(m)["replicas"] = json!(-1), &path("replicas"), "-1", "0 to 1000");
    check(|m| worker(m)["type"] = json!("wroker"), &path("type"), "`wroker`", "frontend, worker");
    check(|m| worker(m)["minAvailable"] = json!(1), &path("minAvailable"), "Grove", "remove");
    check(
        |m| worker(m)["multinode"] = json!({"nodeCount": 2}),
        &path("multinode"),
        "LeaderWorkerSet",
        "remove multinode",
    );
    check(|m| worker(m)["eppConfig"] = json!({"config": {}}), &path("eppConfig"), "type epp only", "remove it");
    check(
        |m| {
            worker(m)["type"] = json!("epp");
            worker(m)["replicas"] = json!(2);
        },
        &path("replicas"),
        "exactly one",
        "1",
    );
    check(
        |m| {
            m["spec"]["components"][0]["type"] = json!("epp");
            worker(m)["type"] = json!("epp");
        },
        &path("type"),
        "an epp already",
        "one component",
    );
    check(
        |m| {
            main(m)["command"] = json!(["python3", "-m", "dynamo.sglang"]);
            worker(m)["compilationCache"] = json!({"pvcName": "c"});
            m["spec"]["backendFramework"] = json!("sglang");
        },
        &path("compilationCache.mountPath"),
        "vllm only",
        "say where",
    );
    check(
        |m| main(m)["command"] = json!(["python3", "-m", "dynamo.sglang"]),
        &path("podTemplate"),
        "starts sglang, the graph's workers run vllm",
        "one engine",
    );
    let failover = json!({"failover": {"mode": "IntraPod"}});
    check(move |m| worker(m)["experimental"] = failover, &path("experimental.failover"), "same mode", "add it");
    let service = json!({"gpuMemoryService": {}});
    let path = "spec.components[0].experimental.gpuMemoryService";
    check(move |m| m["spec"]["components"][0]["experimental"] = service, path, "at least one GPU", "remove it");
}

#[test]
fn a_restart_names_every_component_once_and_in_parallel_none() {
    let order = |strategy: Value| move |m: &mut Value| m["spec"]["restart"] = json!({"id": "1", "strategy": strategy});
    let path = "spec.restart.strategy.order";
    check(order(json!({"order": ["worker"]})), path, "leaves out Frontend", "each of Frontend, worker");
    check(order(json!({"order": ["worker", "Frontend", "x"]})), &format!("{path}[2]"), "`x`", "once");
    check(order(json!({"order": ["worker", "Frontend", "worker"]})), &format!("{path}[2]"), "already", "once");
    check(order(json!({"type": "Parallel", "order": ["worker", "Frontend"]})), path, "Parallel", "remove");
    check(order(json!({"type": "Slow"})), "spec.restart.strategy.type", "`Slow`", "Sequential");
    check(|m| m["spec"]["restart"] = json!({"id": ""}), "spec.restart.id", "empty", "text");
    assert_eq!(findings(order(json!({"order": ["worker", "Frontend"]}))), []);
}

#[test]
fn annotations_that_the_operator_reads() {
    for (key, value, remedy) in [
        ("nvidia.com/vllm-distributed-executor-backend", "dask", "mp or ray"),
        ("nvidia.com/dynamo-discovery-backend", "consul", "kubernetes or etcd"),
        ("nvidia.com/dynamo-kube-discovery-mode", "node", "pod or container"),
        ("nvidia.com/deployment-rolling-update-max-surge", "some", "25%"),
    ] {
        check(
            |m| m["metadata"]["annotations"] = json!({key: value}),
            &format!("metadata.annotations[{key}]"),
            value,
            remedy,
        );
    }
    let none = json!({"nvidia.com/deployment-rolling-update-max-surge": "0",
                      "nvidia.com/deployment-rolling-update-max-unavailable": "0%"});
    let path = "spec.annotations[nvidia.com/deployment-rolling-update-max-surge]";
    check(|m| m["spec"]["annotations"] = none, path, "no way to go on", "raise");
}

#[test]
fn fields_of_v1alpha1_and_paths_as_its_user_wrote_them() {
    let check = |change: &dyn Fn(&mut Value), path: &str, problem: &str, remedy: &str| {
        let mut manifest = manifest("agg", "v1alpha1");
        change(&mut manifest["spec"]);
        one(&read(&manifest).err().unwrap_or_default(), path, problem, remedy);
    };
    let service = |field: &str| format!("spec.services.worker{field}");
    check(&|s| s["services"]["worker"]["replica"] = json!(1), &service(".replica"), "not known", "correct");
    check(&|s| s["services"]["worker"]["replicas"] = json!(-1), &service(".replicas"), "-1", "0 to");
    check(&|s| s["services"] = json!({}), "spec.services", "no component", "add");
    check(
        &|s| s["services"]["worker"]["resources"]["limits"]["gpu"] = json!("two"),
        &service(".resources.limits[nvidia.com/gpu]"),
        "`two` is no quantity",
        "number",
    );
    check(
        &|s| s["services"]["worker"]["extraPodSpec"]["mainContainer"]["args"] = json!(["-tp", "2"]),
        &service(".extraPodSpec.mainContainer.args"),
        "needs 2 GPUs",
        "multiple",
    );
    check(
        &|s| s["services"]["Frontend"]["ingress"] = json!({"enabled": true}),
        "spec.services.Frontend.ingress.host",
        "needs a host",
        "name",
    );
    check(
        &|s| s["services"]["worker"]["sharedMemory"] = json!({}),
        &service(".sharedMemory.size"),
        "needs a size",
        "8Gi",
    );
    check(
        &|s| s["services"]["worker"]["volumeMounts"] = json!([{"name": "m", "mountPoint": "/m"}]),
        &service(".volumeMounts[0].name"),
        "no entry of spec.pvcs is named `m`",
        "add one",
    );
    check(
        &|s| {
            s["pvcs"] = json!([{"name": "m"}]);
            s["services"]["worker"]["volumeMounts"] = json!([{"name": "m"}]);
        },
        &service(".volumeMounts[0].mountPoint"),
        "no place",
        "give one",
    );
    check(
        &|s| s["pvcs"] = json!([{"name": "m", "create": true, "size": "1Gi", "storageClass": "gp3"}]),
        "spec.pvcs[0].volumeAccessMode",
        "no access mode",
        "ReadWriteMany",
    );
    check(
        &|s| s["services"]["WORKER"] = s["services"]["worker"].clone(),
        "spec.services.worker",
        "`worker` is there already",
        "name of its own",
    );
}

#[test]
fn a_kept_annotation_that_was_spoilt_by_hand_is_refused() {
    check(
        |m| m["metadata"]["annotations"] = json!({"busbar.dev/conversion-remainder": "{"}),
        "metadata.annotations[busbar.dev/conversion-remainder]",
        "changed by hand",
        "remove it",
    );
}

#[test]
fn every_violation_is_told_at_once() {
    let found = findings(|m| {
        m["metadata"]["name"] = json!("Bad");
        worker(m)["replicas"] = json!(-1);
        main(m)["resources"]["limits"]["cpu"] = json!("x");
        main(m)["oops"] = json!(1);
    });
    let paths: Vec<_> = found.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            &format!("{MAIN}.oops"),
            "metadata.name",
            "spec.components[1].replicas",
            &format!("{MAIN}.resources.limits[cpu]")
        ]
    );
}

#[test]
fn what_the_operator_cannot_give_is_told_too() {
    let mut manifest = manifest("agg", "v1alpha1");
    manifest["spec"]["services"]["Frontend"] = json!({"componentType": "frontend"});
    manifest["metadata"]["annotations"] = json!({"nvidia.com/dynamo-discovery-backend": "etcd"});
    let graph = read(&manifest).unwrap();
    let paths: Vec<_> = check_settings(&graph, &Settings::default()).into_iter().map(|f| f.path).collect();
    assert_eq!(paths, ["spec.components[0].podTemplate", "metadata.annotations[nvidia.com/dynamo-discovery-backend]"]);
    let settings = Settings {
        frontend_image: Some("x:1".to_owned()),
        etcd_endpoints: vec!["http://e:2379".to_owned()],
        ..Settings::default()
    };
    assert_eq!(check_settings(&graph, &settings), []);
}

#[test]
fn components_of_a_good_graph_are_good_and_a_bad_one_is_found_alone() {
    let graph = read(&manifest("agg", "v1beta1")).unwrap();
    let mut all = components(&graph, &Settings::default());
    for component in &all {
        assert_eq!(check_component(component), []);
    }
    all[0].spec.component.replicas = Some(-1);
    one(&check_component(&all[0]), "spec.replicas", "-1", "0 to");
}

#[test]
fn every_example_of_ours_is_a_graph_that_a_cluster_runs() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if value["kind"] == "DynamoGraphDeployment" {
            read(&value).unwrap_or_else(|found| panic!("{}: {found:#?}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 3, "examples are missing");
}
