//! A rolling restart of all workers while clients ask: each is told to leave, drains, and another one comes.

use crate::crowd::{Crowd, chats};
use crate::machine::kill;
use crate::stage::{PACED, Stage, alive};

#[test]
fn a_rolling_restart_of_all_workers_fails_no_request() {
    rolled(&[]);
}

#[test]
fn streams_that_outlast_the_drain_of_their_worker_go_on_elsewhere() {
    rolled(&["--drain-timeout-secs", "0"]);
}

fn rolled(more: &[&str]) {
    let mut stage = Stage::new();
    let flags = [PACED, more].concat();
    let old = stage.workers(3, &flags);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 3);
    let crowd = Crowd::keep(&[&frontend], &chats(32), 16);
    crowd.all_have(&stage, 5);
    for worker in &old {
        let busy = worker.running();
        kill(worker.pid, "-TERM");
        stage.until("a worker to drain and end", || (!alive(worker.pid)).then_some(()));
        eprintln!("{} had {busy} streams when it was told to leave", worker.name);
        stage.worker(&flags);
        stage.serves(&frontend, 3);
    }
    let answers = crowd.finish_whole(&stage);
    let moved = answers.iter().filter(|answer| answer.workers.len() > 1).count();
    assert_eq!(moved > 0, !more.is_empty(), "{moved} streams moved");
}
