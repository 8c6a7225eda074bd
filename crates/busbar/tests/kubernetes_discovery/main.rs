//! Discovery by a real API server: our processes among themselves and with stock `ai-dynamo`, deletions by hand, pods that
//! end, an API server that is killed, and what is said when there is no way in.
//!
//! Wants STATE/env of tests-env/kubernetes/cluster.sh, BUSBAR_TEST_MODEL_DIR and BUSBAR_TEST_DYNAMO_PYTHON.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../machine/mod.rs"]
mod machine;
mod namespace;
mod stage;

use machine::{ended, get, kill, post, until};
use namespace::{Cluster, OwnCluster};
use serde_json::json;
use stage::{Stage, chat};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn our_processes_find_each_other_with_the_rights_of_a_graph_and_withdraw_before_they_end() {
    let mut stage = Stage::new();
    let pid = stage.our_worker("worker-a");
    stage.our_worker("worker-b");
    let url = stage.our_frontend("frontend");
    let (a, b) = (stage.instance_in("worker-a"), stage.instance_in("worker-b"));
    stage.serves(&url, &[a, b]);
    stage.answers(&url);
    stage.hears_of_caches(&url);
    let object = stage.namespace.object("worker-a").unwrap();
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Pod"), &json!("worker-a")), "{object}");
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "dynamo-worker", "{object}");
    kill(pid, "-TERM");
    stage.serves(&url, &[b]);
    until("the object of the worker that left is gone", || stage.namespace.object("worker-a").is_none().then_some(()));
    stage.answers(&url);
}

#[test]
fn an_object_that_is_deleted_by_hand_comes_back() {
    let mut stage = Stage::new();
    stage.our_worker("worker");
    let url = stage.our_frontend("frontend");
    let instance = stage.instance_in("worker");
    stage.serves(&url, &[instance]);
    let uid = stage.namespace.object("worker").unwrap()["metadata"]["uid"].clone();
    stage.namespace.kubectl(&["delete", "dynamoworkermetadatas", "worker"]).unwrap();
    let again = until("the object is back", || stage.namespace.object("worker"));
    assert_ne!(again["metadata"]["uid"], uid);
    stage.serves(&url, &[instance]);
    stage.answers(&url);
}

#[test]
fn a_pod_that_ends_takes_no_new_work_while_its_process_still_runs() {
    let mut stage = Stage::new();
    stage.our_worker("worker-a");
    stage.our_worker("worker-b");
    let url = stage.our_frontend("frontend");
    let (a, b) = (stage.instance_in("worker-a"), stage.instance_in("worker-b"));
    stage.serves(&url, &[a, b]);
    stage.namespace.kubectl(&["delete", "pod", "worker-a", "--wait=false"]).unwrap();
    stage.serves(&url, &[b]);
    assert!(stage.namespace.object("worker-a").is_some(), "nobody has told the process to stop");
    stage.answers(&url);
}

#[test]
fn in_container_mode_an_instance_is_a_container() {
    let mut stage = Stage::new();
    stage.env = [("DYN_KUBE_DISCOVERY_MODE", "container"), ("CONTAINER_NAME", "engine-0")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    stage.our_worker("worker");
    let url = stage.our_frontend("frontend");
    let instance = stage.instance_in("worker-engine-0");
    stage.serves(&url, &[instance]);
    stage.answers(&url);
    stage.namespace.kubectl(&["delete", "pod", "worker", "--wait=false"]).unwrap();
    stage.serves(&url, &[]);
}

#[test]
fn a_stock_mocker_serves_behind_our_frontend() {
    let mut stage = Stage::new();
    let pid = stage.stock_mocker("mocker-0");
    let url = stage.our_frontend("frontend");
    // Its hash of this name.
    stage.serves(&url, &[0x12_5b4e_0b24_710a]);
    stage.answers(&url);
    stage.hears_of_caches(&url);
    kill(pid, "-TERM");
    stage.serves(&url, &[]);
}

#[test]
fn our_worker_serves_behind_the_stock_frontend() {
    let mut stage = Stage::new();
    let pid = stage.our_worker("worker");
    let url = stage.stock_frontend("frontend");
    let instance = stage.instance_in("worker");
    stage.serves(&url, &[instance]);
    stage.answers(&url);
    stage.hears_of_caches(&url);
    kill(pid, "-TERM");
    stage.serves(&url, &[]);
}

/// The gauge of the store at the frontend.
fn connected(url: &str) -> bool {
    let metrics = get(&format!("{url}/metrics")).1;
    metrics.lines().any(|line| line.starts_with("busbar_discovery_connected") && line.ends_with(" 1"))
}

#[test]
fn an_api_server_that_is_killed_costs_no_request_and_is_followed_again() {
    let own = OwnCluster::up();
    let cluster = Cluster::at(&own.kubeconfig());
    says_which_definition_is_absent(&cluster);
    let mut stage = Stage::on(cluster);
    stage.our_worker("worker-a");
    stage.our_worker("worker-b");
    let url = stage.our_frontend("frontend");
    let instances = [stage.instance_in("worker-a"), stage.instance_in("worker-b")];
    stage.serves(&url, &instances);
    until("the store is followed", || connected(&url).then_some(()));
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..2)
        .map(|asker| {
            let (url, over) = (url.clone(), over.clone());
            std::thread::spawn(move || {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let (status, answer) =
                        post(&format!("{url}/v1/chat/completions"), &chat(&format!("{asker} {asked}")));
                    assert_eq!(status, 200, "request {asked}: {answer}");
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    own.kill_api_server();
    until("the outage is noticed", || (!connected(&url)).then_some(()));
    for _ in 0..10 {
        stage.answers(&url);
    }
    stage.serves(&url, &instances);
    own.start_api_server();
    until("the store is followed again", || connected(&url).then_some(()));
    stage.our_worker("worker-c");
    let third = stage.instance_in("worker-c");
    stage.serves(&url, &[instances[0], instances[1], third]);
    over.store(true, Ordering::Relaxed);
    let asked: Vec<u32> = asking.into_iter().map(|asker| asker.join().expect("no request failed")).collect();
    assert!(asked.iter().all(|asked| *asked > 5), "{asked:?}");
}

fn says_which_definition_is_absent(cluster: &Cluster) {
    let machine = machine::Machine::new();
    let namespace = namespace::Namespace::new(cluster.clone());
    let kubeconfig = namespace.kubeconfig_of("graph", machine.home());
    let mut command = machine.command("timeout");
    command.args([ENDS_SECONDS_MAX, env!("CARGO_BIN_EXE_busbar"), "frontend", "--http-port", "0"]);
    command.args(["--discovery-backend", "kubernetes"]);
    command
        .env("KUBECONFIG", kubeconfig)
        .env("POD_NAME", "p")
        .env("POD_UID", "u")
        .env("POD_NAMESPACE", &namespace.name);
    let output = ended(&command.output().unwrap());
    assert_eq!(output.code, Some(2), "{}", output.err);
    for word in ["dynamoworkermetadatas.nvidia.com", "busbar crds --apply"] {
        assert!(output.err.contains(word), "{word}: {}", output.err);
    }
}

/// Seconds after which a frontend that should have ended is ended: it has started.
const ENDS_SECONDS_MAX: &str = "60";

/// Runs a frontend that must not start; gives what it said.
fn refused(stage: &Stage, change: impl FnOnce(&mut std::process::Command)) -> String {
    let mut command = stage.machine.command("timeout");
    command.args([ENDS_SECONDS_MAX, env!("CARGO_BIN_EXE_busbar"), "frontend", "--http-port", "0"]);
    stage.dress(&mut command, "frontend", "uid");
    change(&mut command);
    let output = ended(&command.output().unwrap());
    assert_eq!(output.code, Some(2), "{}", output.err);
    output.err
}

#[test]
fn what_keeps_a_pod_from_joining_is_said_with_its_remedy() {
    let stage = Stage::new();
    let check = |said: &str, words: &[&str]| {
        for word in words {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
    };
    let said = refused(&stage, |command| {
        command.env_remove("POD_NAME").env_remove("POD_UID");
    });
    check(&said, &["POD_NAME is not set", "POD_UID is not set", "fieldRef"]);
    let said = refused(&stage, |command| {
        command.env("DYN_KUBE_DISCOVERY_MODE", "container");
    });
    check(&said, &["CONTAINER_NAME is not set"]);
    stage.namespace.kubectl(&["create", "serviceaccount", "nobody"]).unwrap();
    let nobody = stage.namespace.kubeconfig_of("nobody", stage.machine.home());
    let said = refused(&stage, |command| {
        command.env("KUBECONFIG", nobody);
    });
    check(&said, &["list and watch", &stage.namespace.name, "forbidden", "bind a Role"]);
    let said = refused(&stage, |command| {
        command.env("KUBECONFIG", "/nowhere/kubeconfig");
    });
    check(&said, &["/nowhere/kubeconfig", "KUBECONFIG"]);
}
