//! A vLLM that somebody else started, with names and limits of their own and without the generate API.

use crate::machine::{self, Machine, get, post};
use crate::processes::lives;
use crate::{QUIET, ask, chat, counter, patiently, predicted_and_cached, real_vllm};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts `vllm serve` as a stranger does; gives its URL.
fn stock_server(machine: &mut Machine, vllm: &str, model: &str) -> String {
    let [http, events, replay] = [0; 3].map(|_| quiet_port());
    let events = json!({"enable_kv_cache_events": true, "publisher": "zmq", "topic": "kv@tiny",
        "endpoint": format!("tcp://*:{events}"), "replay_endpoint": format!("tcp://*:{replay}")});
    let mut server = machine.command(vllm);
    server.args(["serve", model, "--served-model-name", "theirs", "--host", "127.0.0.1", "--enforce-eager"]);
    server.args(["--port", &http.to_string(), "--block-size", "32", "--max-model-len", "1024"]);
    server.args(["--enable-prompt-tokens-details", "--kv-events-config", &events.to_string()]);
    server.env("VLLM_CPU_KVCACHE_SPACE", "1").envs(QUIET);
    let pid = machine.spawn(server);
    let url = format!("http://127.0.0.1:{http}");
    patiently("a stock `vllm serve`", || {
        assert!(lives(pid), "`vllm serve` ended; what it wrote is above");
        (get(&format!("{url}/health")).0 == 200).then_some(())
    });
    url
}

/// A free port that the system gives to no connection meanwhile: vLLM binds its event sockets after a minute.
fn quiet_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(15_000..30_000)).find(free).unwrap()
}

/// A `busbar` process with a discovery folder of this machine.
pub(crate) fn process(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.busbar();
    command.args(arguments).env("DYN_FILE_KV", machine.home().join("discovery"));
    for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST"] {
        command.env(host, "127.0.0.1");
    }
    command.envs(QUIET);
    command
}

/// Starts one whose log goes to a file; gives the file.
fn logged(machine: &mut Machine, name: &str, arguments: &[&str]) -> PathBuf {
    let log = machine.file(&format!("{name}.txt"), "");
    let mut command = process(machine, arguments);
    command.stderr(std::fs::File::create(&log).unwrap());
    machine.spawn(command);
    log
}

fn says(log: &Path, word: &str) -> Option<String> {
    std::fs::read_to_string(log).unwrap().lines().find(|line| line.contains(word)).map(str::to_owned)
}

#[test]
fn a_vllm_that_runs_already_is_attached_to_with_what_its_cache_holds() {
    let Some((vllm, model)) = real_vllm() else { return };
    let mut machine = Machine::new();
    let at = stock_server(&mut machine, &vllm, &model);
    let long = "What was asked before anybody attached is in the cache all the same. ".repeat(20);
    let first = ask(&at, &json!({"model": "theirs", "messages": [{"role": "user", "content": long}], "max_tokens": 2}));
    let blocks = first["usage"]["prompt_tokens"].as_u64().unwrap() / 32;

    another_model_is_not_taken(&machine, &at);
    let worker = logged(&mut machine, "worker", &["worker", "--engine", "vllm", "--attach", &at]);
    let port = machine::free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let arguments = ["frontend", "--http-host", "127.0.0.1", "--http-port", &port, "--router-mode", "kv"];
    let frontend = logged(&mut machine, "frontend", &arguments);
    let models = || get(&format!("{url}/v1/models")).1;
    machine::until("the attached vLLM's model to be listed", || models().contains("\"theirs\"").then_some(()));
    let taken = machine::until("the worker to have taken it", || says(&worker, "vLLM is taken"));
    assert!(taken.contains("/v1/completions"), "a server without --enable-scale-out: {taken}");
    machine::until("the router to know what was cached before", || {
        (counter(&url, "busbar_router_index_blocks") >= blocks as f64).then_some(())
    });
    let (predicted, cached, _) = predicted_and_cached(&url, &chat("theirs", &long, 4));
    assert_eq!((predicted, cached), (blocks * 32, blocks * 32), "what it held before we came is known");

    let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat("theirs", &"word ".repeat(2000), 4));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("1024"), "{status} {answer}");
    log_probabilities_come_back(&url);
    a_worker_with_another_card_is_left_out_by_name(&mut machine, &url, &at, &frontend);
}

fn another_model_is_not_taken(machine: &Machine, at: &str) {
    let folder = machine.home().join("other-model");
    std::fs::create_dir_all(&folder).unwrap();
    let (_, model) = real_vllm().unwrap();
    for entry in std::fs::read_dir(model).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let arguments = ["worker", "--engine", "vllm", "--attach", at, "--model", folder.to_str().unwrap()];
    let ended = machine::ended(&process(machine, &arguments).output().unwrap());
    let said: Vec<&str> = ended.err.lines().skip_while(|line| !line.starts_with("error:")).collect();
    eprintln!("{}", said.join("\n"));
    assert!(ended.code == Some(2) && ended.err.contains("serves `theirs`"), "{}", ended.err);
}

fn log_probabilities_come_back(url: &str) {
    let mut sampled = chat("theirs", "Say a word.", 3);
    sampled["logprobs"] = json!(true);
    sampled["top_logprobs"] = json!(2);
    let answer = ask(url, &sampled);
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert!(content.len() == 3 && content[0]["top_logprobs"].as_array().unwrap().len() >= 2, "{answer}");
}

/// A second worker before the same server, which would render other prompts.
fn a_worker_with_another_card_is_left_out_by_name(machine: &mut Machine, url: &str, at: &str, frontend: &Path) {
    let template = machine.file("other.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let arguments = ["worker", "--engine", "vllm", "--attach", at, "--custom-jinja-template"];
    logged(machine, "second", &[&arguments[..], &[template.to_str().unwrap()]].concat());
    let left_out = machine::until("the frontend to leave it out", || {
        let snapshot: Value = serde_json::from_str(&get(&format!("{url}/status/snapshot")).1).unwrap_or_default();
        snapshot["left_out"].as_array().filter(|all| !all.is_empty()).cloned()
    });
    eprintln!("-- {left_out:?}");
    let reason = left_out[0]["reason"].as_str().unwrap();
    assert!(reason.contains("differs") && reason.contains("chat_template_file"), "{reason}");
    assert!(says(frontend, "a worker is left out").is_some(), "and the log says so");
    assert_eq!(crate::instances(url).len(), 1, "only the first one serves");
    ask(url, &chat("theirs", "The first one serves on.", 2));
}
