//! Scenario 33: a request kills whichever worker takes it. The test stands in for the crash: it kills -9 the worker
//! that has the request, each time.

use crate::crowd::{Crowd, chat, chats};
use crate::stage::{Stage, Worker, kill_9};
use std::time::Instant;

/// The long prompt takes 3 s, a token 23 ms.
const LONG_PREFILL: &[&str] = &["--speedup-ratio", "0.05", "--decode-speedup-ratio", "5"];
/// More prompt tokens than all other requests bring to a worker together.
const ITS_TOKENS: f64 = 6_000.0;
/// The last of the workers that it may cost is alone with it.
const DEATHS_MAX: usize = 3;

#[test]
fn a_request_that_kills_its_workers_is_refused_before_it_has_killed_them_all() {
    let mut stage = Stage::new();
    let mut workers = stage.workers(DEATHS_MAX + 2, LONG_PREFILL);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, workers.len());
    let innocents = Crowd::start(&[&frontend], &chats(15));
    innocents.all_have(&stage, 5);
    let poison = chat(&"kill whoever reads this ".repeat(300), 50);
    let its = Crowd::unchecked(&[&frontend], std::slice::from_ref(&poison));
    let mut deaths = 0;
    stage.until("the request to be over", || {
        let has_it = |worker: &Worker| worker.metric("busbar_engine_prompt_tokens_total") > ITS_TOKENS;
        if let Some(at) = workers.iter().position(has_it) {
            kill_9(workers.remove(at).pid);
            deaths += 1;
        }
        its.seen()[0].over.then_some(())
    });
    eprintln!("refused after {deaths} deaths");
    assert!((2..=DEATHS_MAX).contains(&deaths), "{deaths} workers died");
    let answer = its.finish().remove(0).1;
    assert!(said_poison(&answer), "{answer:?}\n{}", stage.logs());
    innocents.finish_whole(&stage);

    // Sent again it reaches no worker, and the rest of the pool serves.
    let at = Instant::now();
    let again = Crowd::unchecked(&[&frontend], std::slice::from_ref(&poison)).finish().remove(0).1;
    assert!(again.status == 422 && said_poison(&again), "{again:?}");
    eprintln!("sent again it was refused in {:?}", at.elapsed());
    let untouched = |worker: &Worker| worker.metric("busbar_engine_prompt_tokens_total") < ITS_TOKENS;
    assert!(workers.iter().all(untouched), "a worker was given what is refused");
    Crowd::start(&[&frontend], &chats(15)).finish_whole(&stage);
}

/// Whether the client was told, as a refusal or as an error event.
fn said_poison(answer: &crate::machine::Streamed) -> bool {
    let refused = answer.broken.as_ref().is_some_and(|body| body.contains("\"poison\""));
    refused || answer.errors.iter().any(|error| error["code"] == "poison")
}
