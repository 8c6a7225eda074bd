//! Scenario 61, secrets: canaries in every place that the product reads one from are seen nowhere that it writes to.

use crate::machine::{Machine, get, post, until};
use serde_json::{Value, json};

/// Each a text that nothing else contains.
const CANARIES: &[(&str, &str)] = &[
    ("HF_TOKEN", "canary-hf-7d1f"),
    ("HUGGING_FACE_HUB_TOKEN", "canary-hub-22ac"),
    ("NATS_AUTH_USERNAME", "someone"),
    ("NATS_AUTH_PASSWORD", "canary-nats-91be"),
    ("NATS_AUTH_TOKEN", "canary-natstoken-03d4"),
    ("ETCD_AUTH_USERNAME", "someone"),
    ("ETCD_AUTH_PASSWORD", "canary-etcd-5e77"),
    ("OPENAI_API_KEY", "canary-openai-b80c"),
    // The most that is ever logged, but for the tokenizer's steps: megabytes of them.
    ("DYN_LOG", "trace,tokenizers=info"),
];

#[test]
fn no_secret_is_seen_in_logs_metrics_page_status_or_command_lines() {
    let machine = Machine::new();
    let keys = machine.home().join("keys");
    let added = machine.run(&["keys", "add", "alice", "--file", keys.to_str().unwrap(), "-o", "json"]);
    assert_eq!(added.code, Some(0), "{}", added.err);
    let key = serde_json::from_str::<Value>(&added.out).unwrap()["key"].as_str().unwrap().to_owned();
    let url = machine.up_with(&["--engine", "mock", "--api-keys", keys.to_str().unwrap()], CANARIES);

    let body = json!({"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2});
    let chat = format!("{url}/v1/chat/completions");
    assert_eq!(post(&chat, &body).0, 401, "the key is asked for");
    for bearer in [key.as_str(), "canary-wrongkey-6a6a"] {
        let (url, body) = (chat.clone(), body.to_string());
        let status = crate::machine::block_on(async move {
            let request =
                reqwest::Client::new().post(url).header("content-type", "application/json").bearer_auth(bearer);
            request.body(body).send().await.unwrap().status().as_u16()
        });
        assert_eq!(status, if bearer == key { 200 } else { 401 });
    }

    let mut seen = vec![
        ("the status in JSON", machine.run(&["status", "-o", "json"]).out),
        ("the status", machine.run(&["status"]).out),
        ("/metrics", get(&format!("{url}/metrics")).1),
        ("the page", get(&format!("{url}/")).1),
        ("the page's figures", get(&format!("{url}/status/snapshot")).1),
        ("/health", get(&format!("{url}/health")).1),
    ];
    let pids = machine.pids("");
    assert_eq!(pids.len(), 3);
    let supervisor = machine.status()["runs"][0]["supervisor"]["pid"].as_u64().unwrap().to_string();
    for pid in pids.iter().map(|(_, pid)| pid.to_string()).chain([supervisor]) {
        seen.push(("a command line", std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap()));
    }
    until("the requests to be logged", || {
        machine.run(&["logs", "frontend"]).out.contains("a request ended").then_some(())
    });
    for (path, text) in files_below(machine.home()) {
        // The keys file holds hashes; everything else is logs, state and records.
        seen.push(("a file", format!("{path}\n{text}")));
    }
    assert!(seen.len() > 12, "logs and state were found");
    for (place, text) in &seen {
        assert!(!text.contains("canary-"), "a secret is in {place}:\n{}", around(text, "canary-"));
        assert!(!text.contains(&key), "the key is in {place}:\n{}", around(text, &key));
    }
}

fn files_below(folder: &std::path::Path) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                found.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    found
}

fn around<'a>(text: &'a str, needle: &str) -> &'a str {
    let at = text.find(needle).unwrap_or(0);
    let (mut from, mut to) = (at.saturating_sub(200), (at + 200).min(text.len()));
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    while !text.is_char_boundary(to) {
        to += 1;
    }
    &text[from..to]
}
