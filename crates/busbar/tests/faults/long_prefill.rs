//! Scenario 6: a prompt takes longer than any hang may, and rightly so.

use crate::crowd::{Crowd, chat};
use crate::stage::{Stage, in_routing, states};
use std::collections::BTreeSet;

/// 7,000 prompt tokens take 9 s, a token 6 ms.
const LONG_PREFILL: &[&str] = &["--speedup-ratio", "0.016", "--decode-speedup-ratio", "60"];

#[test]
fn a_long_prefill_is_no_hang() {
    let mut stage = Stage::new();
    stage.workers(2, LONG_PREFILL);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    // What takes its time is known from what came before, so the workers have answered something.
    Crowd::start(&[&frontend], &[chat("short", 4), chat("and short", 4)]).finish_whole(&stage);
    let long = |at: usize| chat(&format!("{at} {}", format!("{at} words without an end ").repeat(290)), 20);
    let crowd = Crowd::start(&[&frontend], &[long(1), long(2)]);
    let mut seen = BTreeSet::new();
    stage.until("the first tokens of long prompts", || {
        seen.extend(states(&frontend)?.into_values());
        crowd.seen().iter().all(|seen| seen.deltas > 0).then_some(())
    });
    let answers = crowd.finish_whole(&stage);
    assert!(answers.iter().all(|answer| answer.workers.len() == 1), "a long prefill was taken for a hang");
    assert!(seen.iter().all(|state| in_routing(state)), "a worker was set aside over a long prefill: {seen:?}");
    assert_eq!(frontend.migrations("new_request"), 0.0);
}
