//! Scenario 5: a worker hangs. Its connections stay open, its health page would say 200; it makes no token.

use crate::crowd::{Crowd, chats};
use crate::machine::kill;
use crate::stage::{PACED, Stage, in_routing, states};
use std::time::Instant;

#[test]
fn the_streams_of_a_worker_that_hangs_go_on_elsewhere_and_it_comes_back_when_it_wakes() {
    let mut stage = Stage::new();
    let workers = stage.workers(3, PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 3);
    let crowd = Crowd::start(&[&frontend], &chats(36));
    crowd.all_have(&stage, 5);
    let hung = crowd.busiest(&workers).clone();
    kill(hung.pid, "-STOP");
    let at = Instant::now();
    stage.until("the worker that hangs to be out of routing", || {
        (!in_routing(states(&frontend)?.get(&hung.instance)?)).then_some(())
    });
    eprintln!("out of routing after {:?}", at.elapsed());
    crowd.finish_whole(&stage);
    eprintln!("all answers were whole after {:?}", at.elapsed());

    // New requests do not wait for it.
    let answers = Crowd::start(&[&frontend], &chats(24)).finish_whole(&stage);
    assert!(answers.iter().all(|answer| !answer.workers.contains(&hung.instance)), "the hung worker was asked");

    kill(hung.pid, "-CONT");
    stage.serves(&frontend, 3);
    stage.until("the engine that woke to have dropped what nobody waits for", || (hung.running() == 0.0).then_some(()));
    stage.is_used_again(&frontend, &hung);
}
