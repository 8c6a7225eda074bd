//! Scenario 2: a worker dies in the middle of its streams.

use crate::crowd::{Crowd, chats};
use crate::stage::{PACED, Stage, kill_9};

#[test]
fn a_worker_killed_in_mid_stream_loses_and_doubles_no_token() {
    let mut stage = Stage::new();
    let workers = stage.workers(3, PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 3);
    let crowd = Crowd::start(&[&frontend], &chats(36));
    crowd.all_have(&stage, 5);
    kill_9(crowd.busiest(&workers).pid);
    let answers = crowd.finish_whole(&stage);
    let moved = answers.iter().filter(|answer| answer.workers.len() > 1).count();
    assert!(moved > 0 && frontend.migrations("ongoing_request") >= moved as f64, "no stream moved");
    stage.serves(&frontend, 2);
}

#[test]
fn two_workers_killed_one_after_the_other_leave_all_to_the_last() {
    let mut stage = Stage::new();
    let mut workers = stage.workers(3, PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 3);
    let crowd = Crowd::start(&[&frontend], &chats(36));
    for deltas in [5, 12] {
        crowd.all_have(&stage, deltas);
        let victim = crowd.busiest(&workers).clone();
        kill_9(victim.pid);
        workers.retain(|worker| worker.instance != victim.instance);
    }
    crowd.finish_whole(&stage);
}
