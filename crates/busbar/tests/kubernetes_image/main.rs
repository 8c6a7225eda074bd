//! The image on a real node: pushed to a real registry, pulled by a kubelet, run as a restricted pod whose root is
//! read-only, started by the command lines of Dynamo's manifests.
//!
//! Needs the test cluster (`tests-env/kubernetes/cluster.sh up FOLDER; . FOLDER/env`) and fails without it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panic and says what it measured")]

#[path = "../machine/mod.rs"]
mod machine;
mod pods;

use machine::{CAP, Machine};
use pods::{Cluster, eventually, http};
use serde_json::{Value, json};
use std::time::Instant;

/// Starts of which the median is told.
const STARTS: usize = 5;

fn push(machine: &Machine, reference: &str) -> Value {
    let ended = machine.run(&["image", "push", reference, "--plain-http", "-o", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    serde_json::from_str(ended.out.trim()).unwrap()
}

fn sent_bytes(pushed: &Value) -> u64 {
    pushed["sent_bytes"].as_u64().unwrap()
}

#[test]
fn a_second_push_sends_nothing_and_another_name_sends_only_what_its_repository_lacks() {
    let (machine, cluster) = (Machine::new(), Cluster::connect("push"));
    let reference = cluster.image("image-push/busbar", "1");
    let first = push(&machine, &reference);
    let again = push(&machine, &reference);
    assert_eq!(sent_bytes(&again), 0);
    assert_eq!(first["digest"], again["digest"]);
    // The registry says the same of it, and has it whole.
    let manifest = http(&format!("http://{}/v2/image-push/busbar/manifests/1", cluster.registry)).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layers: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].clone()).collect();
    let packed: Vec<_> = first["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].clone()).collect();
    assert_eq!(layers, packed);
    // Another tag of the same repository: the layers are there.
    assert_eq!(sent_bytes(&push(&machine, &cluster.image("image-push/busbar", "2"))), 0);
    eprintln!("image: {} bytes to pull", first["bytes"]);
}

#[test]
fn our_layers_lie_on_a_base_whose_own_layers_stay_and_whose_shell_is_not_replaced() {
    let (machine, cluster) = (Machine::new(), Cluster::connect("base"));
    let base = cluster.image("image-base/base", "1");
    let base_layers = push(&machine, &base)["layers"].clone();
    let on_it = cluster.image("image-base/onto", "1");
    let output = machine
        .busbar()
        .args(["image", "push", &on_it, "--base", &base, "--plain-http", "-o", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = http(&format!("http://{}/v2/image-base/onto/manifests/1", cluster.registry)).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    for (at, layer) in base_layers.as_array().unwrap().iter().enumerate() {
        assert_eq!(layers[at]["digest"], layer["digest"], "the base's layers come first");
    }
    // The base here is our own image, so its shell is ours; what counts is that PATH finds our python3 first.
    cluster.run(&pods::pod("onto", &on_it, &["python3", "-m", "dynamo.frontend"], &[]));
    let address = cluster.address("onto");
    eventually("the frontend on a base is live", &cluster, || http(&format!("http://{address}:8000/live")).is_ok());
}

#[test]
fn manifests_command_lines_serve_in_a_restricted_pod_with_a_read_only_root() {
    let (machine, cluster) = (Machine::new(), Cluster::connect("pods"));
    let image = cluster.image("image-pods/busbar", "1");
    push(&machine, &image);
    // A frontend and a mock worker in one pod, which find each other by files; commands as in Dynamo's samples.
    let worker = "python3 -m dynamo.mocker --model-name mock-model --speedup-ratio 0";
    let shared = json!([{"name": "DYN_FILE_KV", "value": "/tmp/discovery"}]);
    let mut pod = pods::pod("graph", &image, &["python3", "-m", "dynamo.frontend"], &[]);
    let mut second = pods::container("worker", &image, &["/bin/sh", "-c", worker]);
    second["env"] = shared.clone();
    second["env"].as_array_mut().unwrap().push(json!({"name": "DYN_SYSTEM_PORT", "value": "9090"}));
    second["readinessProbe"] = json!({"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1});
    second["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": 9090}, "periodSeconds": 5});
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    containers[0]["env"] = shared;
    containers[0]["readinessProbe"] = json!({"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1});
    containers[0]["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": 8000}, "periodSeconds": 5});
    containers.push(second);
    cluster.run(&pod);
    cluster.ready("graph");
    let base = format!("http://{}:8000", cluster.address("graph"));
    eventually("the model is listed", &cluster, || {
        http(&format!("{base}/v1/models")).is_ok_and(|models| models.contains("mock-model"))
    });
    let body = json!({"model": "mock-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8});
    let answer = pods::post(&format!("{base}/v1/chat/completions"), &body).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 8, "{answer}");
    let log = cluster.kubectl(&["logs", "graph", "-c", "main"]);
    assert!(log.contains("served without keys to whoever reaches the pod"), "{log}");
    let log = cluster.kubectl(&["logs", "graph", "-c", "worker"]);
    assert!(log.contains("cannot be written") || log.contains("HOME is not set"), "{log}");
    // As PID 1 both end when they are told to, well before they would be killed.
    let before = Instant::now();
    cluster.kubectl(&["delete", "pod", "graph", "--grace-period=90", "--wait"]);
    assert!(before.elapsed().as_secs() < 80, "ended only by the kill: {:?}", before.elapsed());
}

#[test]
fn a_worker_of_the_embedded_engine_reads_its_model_from_a_volume_that_it_cannot_write() {
    let (machine, cluster) = (Machine::new(), Cluster::connect("model"));
    let image = cluster.image("image-model/busbar", "1");
    push(&machine, &image);
    let volume = cluster.model_volume(&machine);
    let line = "python3 -m dynamo.vllm --model smollm2 --max-model-len 512";
    let mut pod = pods::pod("embedded", &image, &["python3", "-m", "dynamo.frontend"], &[&volume]);
    let mut worker = pods::container("worker", &image, &["/bin/sh", "-c", line]);
    let shared = json!({"name": "DYN_FILE_KV", "value": "/tmp/discovery"});
    // By its system port, which the operator gives every worker, the frontend reads the tokenizer: it has no volume.
    let port = json!({"name": "DYN_SYSTEM_PORT", "value": "9090"});
    worker["env"] = json!([shared, port, {"name": "BUSBAR_MODEL_CACHE", "value": "/models"}]);
    worker["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "models", "mountPath": "/models", "readOnly": true}));
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    containers[0]["env"] = json!([shared]);
    containers.push(worker);
    cluster.run(&pod);
    let base = format!("http://{}:8000", cluster.address("embedded"));
    eventually("the real model is listed", &cluster, || {
        http(&format!("{base}/v1/models")).is_ok_and(|models| models.contains("SmolLM2"))
    });
    let question = "What is the capital of France? Answer in one word.";
    let body = json!({"model": "SmolLM2-135M-Instruct", "temperature": 0, "max_tokens": 16,
                      "messages": [{"role": "user", "content": question}]});
    let answer = pods::post(&format!("{base}/v1/chat/completions"), &body).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(text.contains("Paris"), "{answer}");
}

#[test]
fn the_start_of_a_pod_is_measured() {
    let (machine, cluster) = (Machine::new(), Cluster::connect("starts"));
    let image = cluster.image("image-starts/busbar", "1");
    push(&machine, &image);
    let mut seconds = Vec::new();
    for number in 0..STARTS {
        let name = format!("start-{number}");
        let before = Instant::now();
        cluster.run(&pods::pod(&name, &image, &["python3", "-m", "dynamo.frontend"], &[]));
        let address = cluster.address(&name);
        eventually("the frontend is live", &cluster, || http(&format!("http://{address}:8000/live")).is_ok());
        seconds.push(before.elapsed().as_secs_f64());
        cluster.kubectl(&["delete", "pod", &name, "--grace-period=5", "--wait=false"]);
    }
    seconds.sort_by(f64::total_cmp);
    eprintln!("pod start, apply to /live, image there: median {:.2} s of {seconds:.2?}", seconds[STARTS / 2]);
    assert!(seconds[STARTS - 1] < CAP.as_secs_f64());
}
