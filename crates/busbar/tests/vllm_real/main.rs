//! A real vLLM on CPU behind `busbar`: `make test-vllm`. What needs no vLLM stands in `crates/worker/tests/vllm_replay.rs`.
//!
//! One file a life of vLLM: a server takes a minute to start, so that what can be seen of one is seen in one test.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it saw"
)]

mod attach;
mod errors;
mod example;
#[path = "../machine/mod.rs"]
mod machine;
mod processes;

use machine::{get, post};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest wait for a vLLM to be there: it imports and loads for a minute on two idle cores.
const START_CAP: Duration = Duration::from_secs(900);

/// What keeps vLLM to itself.
const QUIET: [(&str, &str); 2] = [("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1")];

/// The `vllm` command and its model, where `make test-vllm` has installed them.
fn real_vllm() -> Option<(String, String)> {
    let part = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    let found = part("BUSBAR_TEST_VLLM").zip(part("BUSBAR_TEST_VLLM_MODEL"));
    if found.is_none() {
        eprintln!("NOT RUN: BUSBAR_TEST_VLLM or BUSBAR_TEST_VLLM_MODEL is unset; `make test-vllm` sets them");
    }
    found
}

/// Waits for what may take as long as a start.
fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            eprintln!("-- {what}: after {:.1} s", begun.elapsed().as_secs_f64());
            return found;
        }
        assert!(begun.elapsed() < START_CAP, "waited {START_CAP:?} for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sum of a counter over its series.
fn counter(url: &str, name: &str) -> f64 {
    let text = get(&format!("{url}/metrics")).1;
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The instances that serve, by the frontend's word.
fn instances(url: &str) -> BTreeSet<u64> {
    let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).unwrap_or_default();
    let all = health["instances"].as_array().cloned().unwrap_or_default();
    let serving = all.iter().filter(|instance| instance["endpoint"] == "generate");
    serving.map(|instance| instance["instance_id"].as_u64().unwrap_or_else(|| panic!("{instance}"))).collect()
}

fn chat(model: &str, text: &str, max_tokens: u32) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 0,
           "nvext": {"extra_fields": ["worker_id"]}})
}

fn ask(url: &str, body: &Value) -> Value {
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Asks; gives what the router predicted to be cached, what vLLM says that was, and the worker.
fn predicted_and_cached(url: &str, body: &Value) -> (u64, u64, u64) {
    let before = counter(url, "busbar_router_cached_tokens_total");
    let answer = ask(url, body);
    let predicted = counter(url, "busbar_router_cached_tokens_total") - before;
    eprintln!("-- predicted {predicted}, usage {}", answer["usage"]);
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    let worker = answer["nvext"]["worker_id"]["decode_worker_id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    (predicted as u64, cached, worker)
}
