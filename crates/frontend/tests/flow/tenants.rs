//! Scenario 62, its cache: what one holder of a key has cached is out of reach of every other.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask};
use serde_json::{Value, json};
use std::path::PathBuf;

fn keys_file(folder: &tempfile::TempDir, keys: &[(&str, &str)]) -> PathBuf {
    use sha2::{Digest, Sha256};
    let path = folder.path().join("keys");
    let line = |(name, key): &(&str, &str)| {
        let hash: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} sha256:{hash}\n")
    };
    std::fs::write(&path, keys.iter().map(line).collect::<String>()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_salt_of_a_cache_comes_from_the_key_and_the_clients_own_only_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = keys_file(&folder, &[("alice", "sk-a"), ("alice", "sk-a2"), ("bob", "sk-b")]);
    let stage = Stage::with(|config| config.http.api_keys_file = Some(path)).await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let salt = async |key: &str, nvext: Value| -> String {
        let request = stage.http.post(stage.url("/v1/chat/completions")).bearer_auth(key);
        let answer = request.json(&ask("the same prompt", &json!({ "nvext": nvext }))).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let request = worker.requests().pop().unwrap();
        let salt = request.routing.unwrap().cache_salt.unwrap();
        // Engines behind Dynamo's wire read it there.
        let raw = &request.extra_args.unwrap()["nvext"]["cache_salt"];
        assert_eq!(raw, salt.as_str(), "the raw extension says the same");
        salt
    };
    let alice = salt("sk-a", json!({})).await;
    assert_eq!(salt("sk-a2", json!({})).await, alice, "keys of one name share");
    let bob = salt("sk-b", json!({})).await;
    let posing = salt("sk-b", json!({ "cache_salt": alice })).await;
    let hers = salt("sk-a", json!({ "cache_salt": "project" })).await;
    let his = salt("sk-b", json!({ "cache_salt": "project" })).await;
    let all = std::collections::BTreeSet::from([&alice, &bob, &posing, &hers, &his]);
    assert_eq!(all.len(), 5, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_the_salt_is_the_clients() {
    let stage = Stage::new().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    stage.chat(&ask("x", &json!({}))).await;
    stage.chat(&ask("x", &json!({ "nvext": { "cache_salt": "s" } }))).await;
    let salts: Vec<Option<String>> =
        worker.requests().into_iter().map(|request| request.routing.and_then(|routing| routing.cache_salt)).collect();
    assert_eq!(salts, [None, Some("s".into())]);
}
