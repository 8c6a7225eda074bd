//! Scenario 7: one worker of four makes its tokens ten times as slowly as the others, and answers everything else.

use crate::crowd::{Crowd, chat, chats};
use crate::stage::{PACED, Stage, states};
use serde_json::Value;

const TEN_TIMES_SLOWER: &[&str] = &["--speedup-ratio", "0.025"];

#[test]
fn a_worker_ten_times_slower_than_the_rest_gets_nothing_for_a_while_and_fails_nothing() {
    let mut stage = Stage::new();
    stage.workers(3, PACED);
    let slow = stage.worker(TEN_TIMES_SLOWER);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 4);
    // Short answers: those that the slow worker has begun are finished there.
    let short: Vec<Value> = (0..32).map(|at| chat(&format!("Question {at}: and what then?"), 30)).collect();
    let crowd = Crowd::keep(&[&frontend], &short, 16);
    stage.until("the slow worker to be told from the others", || {
        (states(&frontend)?.get(&slow.instance)? == "too slow").then_some(())
    });
    let more = Crowd::start(&[&frontend], &chats(24));
    let from_slow = |answers: &[crate::machine::Streamed]| {
        answers.iter().filter(|answer| answer.workers.contains(&slow.instance)).count()
    };
    assert_eq!(from_slow(&more.finish_whole(&stage)), 0, "it was given requests");
    let answers = crowd.finish_whole(&stage);
    eprintln!("{} of {} answers came from the slow one before it was known", from_slow(&answers), answers.len());
}
