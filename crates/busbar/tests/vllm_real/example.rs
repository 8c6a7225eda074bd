//! `examples/agg_router.yaml`, a frontend and two vLLM workers behind a KV router, on one machine without a GPU.

use crate::machine::{self, Machine, Streamed, get, kill, post, stream};
use crate::processes::{Process, all_gone, below, named};
use crate::{QUIET, ask, chat, counter, instances, patiently, predicted_and_cached, real_vllm};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

const MODEL: &str = "SmolLM2-135M-Instruct";

/// Time for what runs at the end: a busy machine makes a few tokens a second.
const DRAIN_SECS: &str = "60";

/// The example, told not to compile: that takes three minutes a start here, and makes nothing faster on two cores.
fn example(machine: &Machine) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/agg_router.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let eager = text.replace("args: []", "args: [--enforce-eager]");
    assert_ne!(eager, text, "the example's worker has arguments");
    machine.file("agg_router.yaml", &eager)
}

#[test]
fn the_guides_example_runs_on_real_vllm_routes_to_the_cache_and_loses_nothing() {
    let Some((vllm, model)) = real_vllm() else { return };
    let machine = Machine::new();
    let bin = Path::new(&vllm).parent().unwrap().display();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let environment = [&QUIET[..], &[("PATH", path.as_str()), ("DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", DRAIN_SECS)]];
    let graph = example(&machine);
    let begun = Instant::now();
    let arguments = [graph.to_str().unwrap(), "--engine", "vllm", "--model", &model, "--drain-timeout", DRAIN_SECS];
    let url = machine.up_with(&arguments, &environment.concat());
    eprintln!("-- two vLLM workers and a frontend serve: after {:.1} s", begun.elapsed().as_secs_f64());

    the_status_page_shows_two_vllms(&url);
    let answer = ask(&url, &chat(MODEL, "What is the capital of France? Answer in one short sentence.", 32));
    eprintln!("-- {}", answer["choices"][0]["message"]["content"]);
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");
    the_same_prefix_goes_to_the_same_worker(&url);
    a_prompt_over_the_limit_is_refused_with_numbers(&url);

    let undisturbed = undisturbed(&url);
    let faults: [(&str, Fault); 3] = [
        ("kill -9 of the API server of a vLLM", |engine, _| kill(named(engine, "vllm ").pid, "-9")),
        // Its API server goes on saying that it is healthy.
        ("SIGSTOP of the engine of a vLLM", |engine, _| kill(named(engine, "VLLM::EngineCor").pid, "-STOP")),
        ("kill -9 of a worker", |_, worker| kill(worker, "-9")),
    ];
    for (what, fault) in faults {
        an_answer_survives(&machine, &url, &undisturbed, what, fault);
    }
    what_runs_is_finished_before_the_end(&machine, &url);
}

fn the_status_page_shows_two_vllms(url: &str) {
    let snapshot: Value = serde_json::from_str(&get(&format!("{url}/status/snapshot")).1).unwrap();
    let workers = snapshot["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{snapshot}");
    assert!(workers.iter().all(|worker| worker["model"] == MODEL && worker["block_size"] == 128), "{workers:?}");
    assert_eq!(snapshot["left_out"], json!([]));
    assert_eq!(instances(url).len(), 2);
}

fn the_same_prefix_goes_to_the_same_worker(url: &str) {
    let sentences = [
        "Busbar keeps the prompt that it has seen at the worker that has seen it. ",
        "Another conversation has other words, and may have its home at another worker. ",
    ];
    let long = sentences.map(|sentence| sentence.repeat(30));
    let homes = [0, 1].map(|at| {
        let known = counter(url, "busbar_router_index_blocks");
        let (predicted, cached, home) = predicted_and_cached(url, &chat(MODEL, &format!("{} One?", long[at]), 4));
        assert_eq!((predicted, cached), (0, 0), "a new prompt");
        // The events travel on their own.
        machine::until("the router to know the prompt", || {
            (counter(url, "busbar_router_index_blocks") >= known + 3.0).then_some(())
        });
        home
    });
    for question in ["Two?", "Three?", "Four?"] {
        for at in [0, 1] {
            let body = chat(MODEL, &format!("{} {question}", long[at]), 4);
            let (predicted, cached, worker) = predicted_and_cached(url, &body);
            assert_eq!(worker, homes[at], "a prompt with a cached prefix went to the other worker");
            assert!(cached >= 384, "{cached}");
            assert_eq!(predicted, cached, "the router's prediction is what vLLM found in its cache");
        }
    }
}

fn a_prompt_over_the_limit_is_refused_with_numbers(url: &str) {
    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat(MODEL, &"word ".repeat(9000), 4));
    assert_eq!(status, 400, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    eprintln!("-- {message}");
    assert!(message.contains("8192"), "{message}");
}

const STREAMED_TOKENS: u32 = 100;

fn streamed() -> Value {
    json!({"model": MODEL, "max_tokens": STREAMED_TOKENS, "temperature": 0, "stream": true, "ignore_eos": true,
           "messages": [{"role": "user", "content": "Count from one to fifty in words."}],
           "stream_options": {"include_usage": true}, "nvext": {"extra_fields": ["worker_id"]}})
}

/// The answer that nothing happens to.
fn undisturbed(url: &str) -> String {
    let begun = Instant::now();
    let got = stream(url, &streamed(), |_| ());
    let rate = f64::from(STREAMED_TOKENS) / begun.elapsed().as_secs_f64();
    eprintln!("-- one stream: {rate:.1} tokens/s (information)");
    assert_eq!((got.done, got.workers.len()), (true, 1));
    got.text
}

/// What is done to the processes of an engine and to the worker before it.
type Fault = fn(&[Process], u32);

/// Does it to the worker that answers, in the middle of the answer.
fn an_answer_survives(machine: &Machine, url: &str, undisturbed: &str, what: &str, fault: Fault) {
    let before = instances(url);
    let (mut hit, mut seam): (Option<(Instant, Vec<Process>)>, _) = (None, None);
    let watch = |so_far: &Streamed| {
        if so_far.deltas >= 15 && hit.is_none() {
            let worker = machine.process_of(so_far.workers[0]).1;
            let engine = below(worker);
            fault(&engine, worker);
            hit = Some((Instant::now(), engine));
        }
        if so_far.workers.len() == 2 && seam.is_none() {
            seam = Some((Instant::now(), so_far.text.len()));
        }
    };
    let got = stream(url, &streamed(), watch);
    assert!(got.done && got.errors.is_empty(), "{what}: {:?}", got.errors);
    let ((hit_at, engine), (seam_at, seam)) = (hit.unwrap(), seam.expect("the answer moved to the other worker"));
    eprintln!("-- {what}: the answer went on after {:.1} s", (seam_at - hit_at).as_secs_f64());
    assert_eq!(got.usage.unwrap()["completion_tokens"], STREAMED_TOKENS, "{what}: a token was lost or doubled");
    let same = got.text.bytes().zip(undisturbed.bytes()).take_while(|(a, b)| a == b).count();
    assert!(same >= seam, "{what}: the text differs at {same}, before its seam at {seam}: {}", got.text);
    all_gone(&format!("{what}: its processes to be gone"), &engine);
    patiently(&format!("{what}: two workers serve again"), || {
        let now = instances(url);
        (now.len() == 2 && now != before).then_some(())
    });
}

fn what_runs_is_finished_before_the_end(machine: &Machine, url: &str) {
    let workers = machine.pids("");
    let engines: Vec<Process> = workers.into_iter().flat_map(|(_, pid)| below(pid)).collect();
    let running = chat(MODEL, "Count from one to a hundred in words.", 24);
    let answered = std::thread::scope(|scope| {
        let answer = scope.spawn(|| ask(url, &running));
        machine::until("the request to run", || {
            (counter(url, "dynamo_frontend_inflight_requests") > 0.0).then_some(())
        });
        assert_eq!(machine.run(&["down"]).code, Some(0));
        answer.join().unwrap()
    });
    assert_eq!(answered["usage"]["completion_tokens"], 24, "what ran at SIGTERM was finished: {answered}");
    all_gone("everything to end with `busbar down`", &engines);
}
