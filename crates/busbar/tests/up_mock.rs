//! `busbar up` with the mock engine: the whole path over real processes and real TCP, no model needed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Machine, block_on, get, kill, post, stream, until};
use serde_json::{Value, json};

fn chat(text: &str, max_tokens: u32) -> Value {
    json!({"model": "mock", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens,
           "stream": true, "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]}})
}

/// Slow enough that a stream can be broken in its middle: 20 ms a token.
const SLOW: &[(&str, &str)] = &[("BUSBAR_MOCK_SPEEDUP_RATIO", "0.285")];

#[test]
fn a_graph_serves_is_shown_logged_and_stopped() {
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    let (status, answer) = post(
        &format!("{url}/v1/chat/completions"),
        &json!({"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}),
    );
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert_eq!(machine.pids("vllmdecodeworker").len(), 2);
    assert_eq!(machine.status()["runs"][0]["ready"], true);
    let logs = machine.run(&["logs", "vllmdecodeworker-0"]);
    assert!(logs.out.contains("worker serves"), "{}", logs.out);
    let again = machine.run(&["up", "--engine", "mock", "--port", url.rsplit(':').next().unwrap()]);
    assert!(again.out.contains("runs already, unchanged"), "{} {}", again.out, again.err);
    let pids: Vec<u32> = machine.pids("").into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(machine.run(&["down"]).code, Some(0));
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()), "something still runs");
    assert_eq!(machine.run(&["down"]).code, Some(0), "down is safe to run twice");
    assert_eq!(machine.run(&["status"]).code, Some(1));
}

#[test]
fn kill_9_of_a_worker_in_mid_stream_is_invisible_and_the_text_is_byte_identical() {
    let machine = Machine::new();
    let url = machine.up_with(&["--engine", "mock"], SLOW);
    let body = chat("a worker dies while this is answered", 120);
    let undisturbed = stream(&url, &body, |_| {});
    assert_eq!(undisturbed.usage.as_ref().unwrap()["completion_tokens"], 120);

    let mut killed = None;
    let disturbed = stream(&url, &body, |so_far| {
        if so_far.deltas >= 10 && killed.is_none() {
            let (name, pid) = machine.process_of(so_far.workers[0]);
            kill(pid, "-9");
            killed = Some(name);
        }
    });
    assert_eq!(disturbed.workers.len(), 2, "the stream went on at the other worker");
    let name = killed.expect("a worker was killed");
    assert_eq!(disturbed.text, undisturbed.text);
    assert!(disturbed.done && disturbed.errors.is_empty(), "{:?}", disturbed.errors);
    assert_eq!(disturbed.finish, undisturbed.finish);
    let usage = disturbed.usage.unwrap();
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&undisturbed.usage.unwrap()["prompt_tokens"], &json!(120))
    );

    let back = until("the killed worker to be started again", || {
        let status = machine.status();
        let processes = status["runs"][0]["processes"].as_array()?.clone();
        processes.into_iter().find(|p| p["name"] == name.as_str() && p["restarts"] == 1 && p["phase"] == "running")
    });
    assert!(back["last_end"].as_str().unwrap().contains("SIGKILL"), "{back}");
    let metrics = get(&format!("{url}/metrics")).1;
    assert!(
        metrics.lines().any(|l| l.starts_with("dynamo_frontend_model_migration_total") && l.ends_with(" 1")),
        "{metrics}"
    );
}

#[test]
fn a_client_that_goes_away_frees_the_engine() {
    let machine = Machine::new();
    let url = machine.up_with(&["--engine", "mock"], SLOW);
    block_on(async {
        let request = reqwest::Client::new()
            .post(format!("{url}/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(chat("never read to the end", 5000).to_string());
        let mut response = request.send().await.unwrap();
        response.chunk().await.unwrap().expect("the stream began");
    });
    until("the request to be gone", || {
        let metrics = get(&format!("{url}/metrics")).1;
        let inflight = metrics.lines().find(|l| l.starts_with("dynamo_frontend_inflight_requests"))?.to_owned();
        inflight.ends_with(" 0").then_some(())
    });
}

#[test]
fn a_repeated_prompt_is_routed_to_its_cache() {
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    let long = "the same beginning of a long conversation ".repeat(20);
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let ask = || {
        post(
            &format!("{url}/v1/chat/completions"),
            &json!({"model": "mock", "messages": [{"role": "user", "content": long}], "max_tokens": 4}),
        )
        .1
    };
    assert_eq!(cached(&ask()), 0);
    until("the cache to be known to the router", || (cached(&ask()) > 500).then_some(()));
    for _ in 0..5 {
        assert!(cached(&ask()) > 500, "a prompt with a cached prefix went to the other worker");
    }
}

#[test]
fn an_idle_worker_that_dies_is_out_of_routing_before_its_record_expires() {
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    let (_, pid) = machine.pids("vllmdecodeworker").remove(0);
    let states = || -> Option<Vec<String>> {
        let snapshot: Value = serde_json::from_str(&get(&format!("{url}/status/snapshot")).1).ok()?;
        let workers = snapshot["workers"].as_array()?.clone();
        Some(workers.iter().map(|worker| worker["state"].as_str().unwrap_or_default().to_owned()).collect())
    };
    until("two ready workers", || (states()? == ["ready", "ready"]).then_some(()));
    kill(pid, "-9");
    // No request is sent: only the connection that the dead process closed can tell. Its record stays for 10 s.
    until("the dead worker to be shown as lost", || states()?.contains(&"lost".to_owned()).then_some(()));
    until("two ready workers again", || {
        (states()?.iter().filter(|state| *state == "ready").count() == 2).then_some(())
    });
}

#[test]
fn processes_end_when_their_supervisor_is_killed() {
    let machine = Machine::new();
    machine.up(&["--engine", "mock"]);
    let pids = machine.pids("");
    assert_eq!(pids.len(), 3);
    let supervisor = machine.status()["runs"][0]["supervisor"]["pid"].as_u64().unwrap();
    kill(u32::try_from(supervisor).unwrap(), "-9");
    until("every process to end", || {
        pids.iter().all(|(_, pid)| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    });
}
