//! Scenario 9: a worker runs out of memory. Its allocations fail from one moment on, and it aborts by its own hand.

use crate::crowd::{Crowd, chat, chats};
use crate::machine::until;
use crate::stage::{PACED, Stage};
use std::process::Command;

#[test]
fn a_worker_that_runs_out_of_memory_costs_no_request_and_is_told_apart_from_a_kill() {
    let mut stage = Stage::new();
    let workers = stage.workers(2, PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let crowd = Crowd::start(&[&frontend], &chats(24));
    crowd.all_have(&stage, 5);
    let starved = crowd.busiest(&workers).clone();
    let limited = Command::new("prlimit").args(["--pid", &starved.pid.to_string(), "--data=1"]).status().unwrap();
    assert!(limited.success());
    // What is free in its heap lasts a while; long prompts, different from each other, do not fit there.
    let long = |at: usize| chat(&format!("{at} {}", format!("{at:04} a word and another ").repeat(300)), 20);
    let more = Crowd::start(&[&frontend], &(0..24).map(long).collect::<Vec<_>>());
    until("the worker to have ended", || (!crate::stage::alive(starved.pid)).then_some(()));
    crowd.finish_whole(&stage);
    more.finish_whole(&stage);
    let log = std::fs::read_to_string(stage.log(&starved.name)).unwrap();
    assert!(log.contains("memory allocation of"), "the log names the cause:\n{log}");
}
