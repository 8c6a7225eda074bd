//! What a user reads when vLLM is not there, or does not start.

use crate::attach::process;
use crate::machine::{self, Machine};
use crate::{START_CAP, real_vllm};
use std::process::Command;
use std::time::Instant;

/// Runs what cannot start; its error must have these parts.
fn fails(mut command: Command, parts: &[&str]) {
    let begun = Instant::now();
    let ended = machine::ended(&command.output().unwrap());
    let said: Vec<&str> = ended.err.lines().skip_while(|line| !line.starts_with("error:")).collect();
    let said = said.join("\n");
    eprintln!("-- exit code {:?} after {:.1} s:\n{said}", ended.code, begun.elapsed().as_secs_f64());
    assert_ne!(ended.code, Some(0));
    for part in parts {
        assert!(said.contains(part), "no `{part}` in {}", ended.err);
    }
    assert!(begun.elapsed() < START_CAP, "{:?}", begun.elapsed());
}

#[test]
fn a_vllm_that_is_not_there_or_dies_at_its_start_is_a_clear_error() {
    let Some((vllm, model)) = real_vllm() else { return };
    let machine = Machine::new();
    let worker = |arguments: &[&str]| process(&machine, &[&["worker", "--engine", "vllm"], arguments].concat());
    let nobody = format!("http://127.0.0.1:{}", machine::free_port());
    fails(worker(&["--attach", &nobody, "--model", &model]), &["refused", "remedy"]);
    fails(worker(&["--vllm-program", "/nowhere/vllm", "--model", &model]), &["/nowhere/vllm", "pip install vllm"]);
    fails(worker(&["--is-prefill-worker", "--model", &model]), &["disaggregated"]);

    let own = |arguments: &[&str]| worker(&[&["--vllm-program", &vllm, "--model", &model], arguments].concat());
    fails(own(&["--no-such-flag"]), &["--no-such-flag", "remedy"]);
    fails(own(&["--max-model-len", "9999999"]), &["ValidationError", "max_model_len", "9999999", "remedy"]);
}

#[test]
fn the_whole_graph_says_that_vllm_is_not_there() {
    let Some((_, model)) = real_vllm() else { return };
    let machine = Machine::new();
    let up = |more: &[&str]| {
        let port = machine::free_port().to_string();
        let mut command = machine.busbar();
        command.args(["up", "--engine", "vllm", "--model", &model, "--port", &port]).args(more);
        command.env("PATH", "/usr/bin:/bin");
        command
    };
    for more in [&[][..], &["--detach"]] {
        fails(up(more), &["start `vllm`", "pip install vllm", "remedy"]);
    }
}
