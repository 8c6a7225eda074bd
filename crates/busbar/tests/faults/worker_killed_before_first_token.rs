//! Scenario 1: a worker dies while it computes prompts; nobody has seen a token of it.

use crate::crowd::{Crowd, chats};
use crate::stage::{Stage, kill_9};

/// A prompt takes more than a second, a token 6 ms.
const SLOW_PREFILL: &[&str] = &["--speedup-ratio", "0.015", "--decode-speedup-ratio", "66"];

#[test]
fn a_worker_killed_before_its_first_token_costs_its_requests_only_time() {
    let mut stage = Stage::new();
    let workers = stage.workers(2, SLOW_PREFILL);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let crowd = Crowd::start(&[&frontend], &chats(32));
    stage.until("both engines to have taken prompts", || {
        let taken = |series| workers.iter().all(|worker| worker.metric(series) > 4.0);
        taken("busbar_engine_prompt_tokens_total").then_some(())
    });
    let silent = crowd.seen().iter().filter(|seen| seen.deltas == 0).count();
    kill_9(workers[0].pid);
    crowd.finish_whole(&stage);
    assert!(silent > 0 && frontend.migrations("new_request") > 0.0, "no request was without a token when it happened");
}
