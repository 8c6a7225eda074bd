//! Scenario 20: one of two frontends is killed.

use crate::crowd::{Crowd, chat, chats};
use crate::stage::{PACED, Stage, Worker, kill_9};
use serde_json::Value;
use std::time::Instant;

fn sum(workers: &[Worker], series: &str) -> f64 {
    workers.iter().map(|worker| worker.metric(series)).sum()
}

#[test]
fn the_clients_of_a_killed_frontend_see_it_its_engines_stop_and_the_other_one_notices_nothing() {
    let mut stage = Stage::new();
    let workers = stage.workers(2, PACED);
    let (killed, other) = (stage.frontend(&[]), stage.frontend(&[]));
    stage.serves(&killed, 2);
    stage.serves(&other, 2);
    // Long ones at the frontend that dies: they do not end by themselves, and their prompts weigh more in the cache
    // than what the other frontend has running.
    let prompt = |at: usize| format!("Question {at}: {}", "how deep is the water under the bridge? ".repeat(40));
    let lost: Vec<Value> = (0..12).map(|at| chat(&prompt(at), 4_000)).collect();
    let its = Crowd::unchecked(&[&killed], &lost);
    let others = Crowd::start(&[&other], &chats(12));
    its.all_have(&stage, 5);
    others.all_have(&stage, 5);

    kill_9(killed.pid);
    let at = Instant::now();
    for (_, answer) in its.finish() {
        assert!(answer.broken.is_some(), "a silent end: {answer:?}");
        assert!(!answer.done && answer.finish.is_none(), "an end that looks like a whole answer: {answer:?}");
    }
    eprintln!("the clients saw a closed connection after {:?}", at.elapsed());
    stage.until("the engines to have stopped all that it asked for", || {
        (sum(&workers, "busbar_engine_cancelled_total") >= 12.0).then_some(())
    });
    eprintln!("its engines had stopped after {:?}", at.elapsed());

    // The same questions again, at the frontend that is left: at once, and from the cache.
    let retry: Vec<Value> = (0..12).map(|at| chat(&prompt(at), 12)).collect();
    for answer in Crowd::start(&[&other], &retry).finish_whole(&stage) {
        let cached = answer.usage.unwrap()["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        assert!(cached > 1_000, "of a prompt of over 1,500 tokens {cached} were found cached\n{}", stage.logs());
    }
    for answer in others.finish_whole(&stage) {
        assert_eq!(answer.workers.len(), 1, "a stream of the other frontend moved");
    }
    assert_eq!(sum(&workers, "busbar_engine_cancelled_total"), 12.0, "and nothing else was stopped");
}
