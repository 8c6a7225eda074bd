//! A real vLLM on CPU behind `busbar`: `make test-vllm`. What needs no vLLM stands in `crates/worker/tests/vllm_replay.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it saw"
)]

mod machine;

use machine::{CAP, Machine, get, kill, post, stream};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for a vLLM to be there: it compiles its graphs on two cores that others use too.
const START_CAP: Duration = Duration::from_secs(900);

/// What vLLM needs to run twice on a small machine, and to keep to itself.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("VLLM_CPU_KVCACHE_SPACE", "1"),
    ("VLLM_CPU_NUM_OF_RESERVED_CPU", "0"),
    ("VLLM_NO_USAGE_STATS", "1"),
    ("DO_NOT_TRACK", "1"),
];

/// A part that `make test-vllm` installs. These tests are ignored without it, so its absence is a failure.
fn part(variable: &str) -> String {
    machine::part(variable).unwrap_or_else(|| panic!("{variable} is unset: run `make test-vllm`"))
}

fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/agg_router.yaml")
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

/// Process ids with their parents, names and command lines.
fn processes() -> Vec<(u32, u32, String, String)> {
    let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
        let mut rest = stat.rsplit_once(") ")?.1.split(' ');
        // A zombie is over; only its parent has not looked yet.
        let (state, parent) = (rest.next()?, rest.next()?.parse().ok()?);
        let comm = String::from_utf8_lossy(&read(pid, "comm")).trim().to_owned();
        let line = String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ");
        (state != "Z").then_some((pid, parent, comm, line))
    })
    .collect()
}

/// What lives below a process.
fn below(pid: u32) -> Vec<(u32, String)> {
    let all = processes();
    let mut found: Vec<(u32, String)> = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for (pid, _, comm, line) in all.iter().filter(|(_, of, ..)| *of == parent) {
            found.push((*pid, format!("{comm} {line}")));
            open.push(*pid);
        }
    }
    found
}

fn alive(pids: &[(u32, String)]) -> Vec<String> {
    let all = processes();
    pids.iter()
        .filter(|(pid, _)| all.iter().any(|(other, ..)| other == pid))
        .map(|(pid, what)| format!("{pid} {what}"))
        .collect()
}

fn all_gone(what: &str, pids: &[(u32, String)]) {
    assert!(pids.len() >= 3, "keeper, API server and engine were there: {pids:?}");
    machine::until(what, || alive(pids).is_empty().then_some(()));
}

/// Sum of a counter over its series.
fn counter(url: &str, name: &str) -> f64 {
    let text = get(&format!("{url}/metrics")).1;
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn instances(url: &str) -> usize {
    let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).unwrap_or_default();
    let all = health["instances"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|instance| instance["endpoint"] == "generate").count()
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

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

fn worker_of(answer: &Value) -> u64 {
    answer["nvext"]["worker_id"]["decode_worker_id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// Asks and says what the router predicted, what vLLM says of it, and which worker it was.
fn predicted_and_cached(url: &str, body: &Value) -> (u64, u64, u64) {
    let before = counter(url, "busbar_router_cached_tokens_total");
    let answer = ask(url, body);
    let predicted = counter(url, "busbar_router_cached_tokens_total") - before;
    eprintln!("-- predicted {predicted}, usage {}", answer["usage"]);
    (predicted as u64, cached(&answer), worker_of(&answer))
}

#[test]
#[ignore = "needs a real vLLM (5 GB): `make test-vllm`"]
fn the_guides_example_runs_on_real_vllm_routes_to_the_cache_and_survives_a_hang_and_a_kill() {
    let (vllm, model) = (part("BUSBAR_TEST_VLLM"), part("BUSBAR_TEST_VLLM_MODEL"));
    let machine = Machine::new();
    let name = "SmolLM2-135M-Instruct";
    let environment = [ENVIRONMENT, &[("BUSBAR_VLLM_PROGRAM", vllm.as_str())]].concat();
    let begun = Instant::now();
    let url = machine.up_with(&[example().to_str().unwrap(), "--engine", "vllm", "--model", &model], &environment);
    eprintln!("-- two vLLM workers and a frontend serve: after {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(instances(&url), 2);

    let answer = ask(&url, &chat(name, "What is the capital of France? Answer in one short sentence.", 32));
    eprintln!("-- {}", answer["choices"][0]["message"]["content"]);
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");

    the_same_prefix_goes_to_the_same_worker(&url, name);
    a_prompt_over_the_limit_is_refused_with_numbers(&url, name);
    a_hang_is_noticed(&machine, &url, name);
    a_killed_worker_takes_its_vllm_along(&machine, &url, name);

    let pids: Vec<(u32, String)> = machine.pids("").into_iter().flat_map(|(_, pid)| below(pid)).collect();
    let running = chat(name, "Count from one to a hundred in words.", 40);
    let answered = std::thread::scope(|scope| {
        let answer = scope.spawn(|| ask(&url, &running));
        machine::until("the request to run", || {
            (counter(&url, "dynamo_frontend_inflight_requests") > 0.0).then_some(())
        });
        assert_eq!(machine.run(&["down"]).code, Some(0));
        answer.join().unwrap()
    });
    assert_eq!(answered["usage"]["completion_tokens"], 40, "what ran at SIGTERM was finished: {answered}");
    all_gone("everything to end with `busbar down`", &pids);
}

fn the_same_prefix_goes_to_the_same_worker(url: &str, name: &str) {
    let long = "Busbar keeps the prompt that it has seen at the worker that has seen it. ".repeat(30);
    let known = counter(url, "busbar_router_index_blocks");
    let (predicted, cached, first) = predicted_and_cached(url, &chat(name, &format!("{long} One?"), 4));
    assert!(predicted < 64 && cached < 64, "a new prompt: {predicted} {cached}");
    // The events travel on their own.
    machine::until("the router to know the prompt", || {
        (counter(url, "busbar_router_index_blocks") > known).then_some(())
    });
    for question in ["Two?", "Three?", "Four?"] {
        let (predicted, cached, worker) = predicted_and_cached(url, &chat(name, &format!("{long} {question}"), 4));
        assert_eq!(worker, first, "a prompt with a cached prefix went to the other worker");
        assert!(cached > 300, "{cached}");
        assert_eq!(predicted, cached, "the router's prediction is what vLLM found in its cache");
    }
}

fn a_prompt_over_the_limit_is_refused_with_numbers(url: &str, name: &str) {
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat(name, &"word ".repeat(9000), 4));
    assert_eq!(status, 400, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    eprintln!("-- {message}");
    assert!(message.contains("8192"), "{message}");
}

fn streamed(name: &str, max_tokens: u32) -> Value {
    json!({"model": name, "max_tokens": max_tokens, "temperature": 0, "stream": true, "ignore_eos": true,
           "messages": [{"role": "user", "content": "Count from one to fifty in words."}],
           "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]}})
}

/// SIGSTOP of an engine: its API server goes on saying that it is healthy.
fn a_hang_is_noticed(machine: &Machine, url: &str, name: &str) {
    let (mut before, mut stopped_at, mut engine) = (String::new(), None, None);
    let got = stream(url, &streamed(name, 200), |so_far| {
        if so_far.deltas >= 15 && stopped_at.is_none() {
            before.clone_from(&so_far.text);
            let worker = machine.process_of(so_far.workers[0]).1;
            let all = below(worker);
            let core = all.iter().find(|(_, what)| what.contains("EngineCor")).unwrap_or_else(|| panic!("{all:?}"));
            kill(core.0, "-STOP");
            (stopped_at, engine) = (Some(Instant::now()), Some(all));
        }
    });
    eprintln!("-- the stream ended {:.1} s after SIGSTOP of its engine", stopped_at.unwrap().elapsed().as_secs_f64());
    assert!(got.done && got.errors.is_empty(), "{:?}", got.errors);
    assert_eq!(got.workers.len(), 2, "the stream moved");
    assert!(got.text.starts_with(&before) && got.text.len() > before.len(), "{}", got.text);
    assert_eq!(got.usage.unwrap()["completion_tokens"], 200, "a token was lost or doubled");
    all_gone("the hung vLLM to be gone", &engine.unwrap());
    patiently("the hung worker to be back with a new vLLM", || (instances(url) == 2).then_some(()));
}

fn a_killed_worker_takes_its_vllm_along(machine: &Machine, url: &str, name: &str) {
    let mut engine = None;
    let got = stream(url, &streamed(name, 100), |so_far| {
        if so_far.deltas >= 15 && engine.is_none() {
            let worker = machine.process_of(so_far.workers[0]).1;
            engine = Some(below(worker));
            kill(worker, "-9");
        }
    });
    assert!(got.done && got.errors.is_empty() && got.workers.len() == 2, "{:?} {:?}", got.errors, got.workers);
    assert_eq!(got.usage.unwrap()["completion_tokens"], 100, "a token was lost or doubled");
    all_gone("the vLLM of a worker killed with -9 to be gone", &engine.unwrap());
    patiently("the killed worker to be back", || (instances(url) == 2).then_some(()));
}

/// A `busbar` process with a discovery folder of this machine.
fn process(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.busbar();
    command.args(arguments).env("DYN_FILE_KV", machine.home().join("discovery"));
    for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST"] {
        command.env(host, "127.0.0.1");
    }
    command.envs(ENVIRONMENT.iter().copied());
    command
}

#[test]
#[ignore = "needs a real vLLM (5 GB): `make test-vllm`"]
fn a_vllm_that_runs_already_is_attached_to_with_what_its_cache_holds() {
    let (vllm, model) = (part("BUSBAR_TEST_VLLM"), part("BUSBAR_TEST_VLLM_MODEL"));
    let mut machine = Machine::new();
    let ports: Vec<u16> = (0..4).map(|_| machine::free_port()).collect();
    let events = json!({"enable_kv_cache_events": true, "publisher": "zmq", "topic": "kv@tiny",
        "endpoint": format!("tcp://*:{}", ports[1]), "replay_endpoint": format!("tcp://*:{}", ports[2])});
    let at = format!("http://127.0.0.1:{}", ports[0]);
    // A stranger's vLLM: no generate API, and names and limits of its own.
    let mut server = machine.command(&vllm);
    server.args(["serve", &model, "--served-model-name", "theirs", "--host", "127.0.0.1", "--enforce-eager"]);
    server.args(["--port", &ports[0].to_string(), "--block-size", "32", "--max-model-len", "1024"]);
    server.args(["--enable-prompt-tokens-details", "--kv-events-config", &events.to_string()]);
    server.envs(ENVIRONMENT.iter().copied());
    machine.spawn(server);
    patiently("a stock `vllm serve`", || (get(&format!("{at}/health")).0 == 200).then_some(()));
    let long = "What was asked before anybody attached is in the cache all the same. ".repeat(20);
    let first = ask(&at, &json!({"model": "theirs", "messages": [{"role": "user", "content": long}], "max_tokens": 2}));
    let blocks = first["usage"]["prompt_tokens"].as_u64().unwrap() / 32;

    let wrong = machine::ended(
        &process(
            &machine,
            &["worker", "--engine", "vllm", "--attach", &at, "--model", &part("BUSBAR_TEST_OTHER_MODEL")],
        )
        .output()
        .unwrap(),
    );
    eprintln!(
        "{}",
        wrong
            .err
            .lines()
            .filter(|line| line.contains("cause") || line.contains("remedy"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert!(wrong.code == Some(2) && wrong.err.contains("serves `theirs`"), "{}", wrong.err);

    let worker = process(&machine, &["worker", "--engine", "vllm", "--attach", &at]);
    machine.spawn(worker);
    let url = format!("http://127.0.0.1:{}", ports[3]);
    let port = ports[3].to_string();
    let frontend =
        process(&machine, &["frontend", "--http-host", "127.0.0.1", "--http-port", &port, "--router-mode", "kv"]);
    machine.spawn(frontend);
    let models = || get(&format!("{url}/v1/models")).1;
    machine::until("the attached vLLM's model to be listed", || models().contains("\"theirs\"").then_some(()));
    machine::until("the router to know what was cached before", || {
        (counter(&url, "busbar_router_index_blocks") >= blocks as f64).then_some(())
    });
    let (predicted, cached, _) = predicted_and_cached(&url, &chat("theirs", &long, 4));
    assert_eq!((predicted, cached), (blocks * 32, blocks * 32), "what it held before we came is known");

    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat("theirs", &"word ".repeat(2000), 4));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("1024"), "{status} {answer}");
    let mut sampled = chat("theirs", "Say a word.", 3);
    sampled["logprobs"] = json!(true);
    sampled["top_logprobs"] = json!(2);
    let answer = ask(&url, &sampled);
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert!(content.len() == 3 && content[0]["top_logprobs"].as_array().unwrap().len() >= 2, "{answer}");
}

/// Runs a worker that cannot start; gives what it said and how long that took.
fn fails(machine: &Machine, arguments: &[&str], parts: &[&str]) {
    let begun = Instant::now();
    let ended =
        machine::ended(&process(machine, &[&["worker", "--engine", "vllm"], arguments].concat()).output().unwrap());
    let said: Vec<&str> = ended.err.lines().skip_while(|line| !line.starts_with("error:")).collect();
    eprintln!("-- after {:.1} s:\n{}", begun.elapsed().as_secs_f64(), said.join("\n"));
    assert_ne!(ended.code, Some(0));
    for part in parts {
        assert!(said.join("\n").contains(part), "no `{part}` in {}", ended.err);
    }
    assert!(begun.elapsed() < CAP, "{:?}", begun.elapsed());
}

#[test]
#[ignore = "needs a real vLLM (5 GB): `make test-vllm`"]
fn a_vllm_that_is_not_there_or_dies_at_its_start_is_a_clear_error() {
    let (vllm, model) = (part("BUSBAR_TEST_VLLM"), part("BUSBAR_TEST_VLLM_MODEL"));
    let machine = Machine::new();
    let nobody = format!("http://127.0.0.1:{}", machine::free_port());
    fails(&machine, &["--attach", &nobody, "--model", &model], &["refused", "remedy"]);
    fails(&machine, &["--vllm-program", "/nowhere/vllm", "--model", &model], &["/nowhere/vllm", "pip install vllm"]);
    let own = ["--vllm-program", vllm.as_str(), "--model", model.as_str()];
    fails(&machine, &[&own[..], &["--no-such-flag"]].concat(), &["--no-such-flag"]);
    fails(&machine, &[&own[..], &["--max-model-len", "9999999"]].concat(), &["max_model_len", "9999999"]);
    fails(&machine, &[&own[..], &["--is-prefill-worker"]].concat(), &["disaggregated"]);
}
