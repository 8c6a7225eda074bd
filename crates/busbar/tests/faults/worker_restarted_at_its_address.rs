//! Scenario 19: a worker dies and comes back at the same address, with another instance and an empty cache.

use crate::crowd::{Crowd, chats};
use crate::machine::free_port;
use crate::stage::{PACED, Stage, in_routing, kill_9, states};

#[test]
fn a_worker_that_is_restarted_at_its_address_is_a_new_one_with_nothing_cached() {
    let mut stage = Stage::new();
    let port = free_port().to_string();
    let flags = [PACED, &["--tcp-port", &port]].concat();
    let first = stage.worker(&flags);
    let other = stage.worker(PACED);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let crowd = Crowd::start(&[&frontend], &chats(24));
    crowd.all_have(&stage, 5);
    let known = |worker: &crate::stage::Worker| frontend.index_blocks().get(&format!("{:x}", worker.instance)).copied();
    assert!(known(&first).is_some_and(|blocks| blocks > 0.0), "its cache was never known");

    kill_9(first.pid);
    let again = stage.worker(&flags);
    assert_ne!(again.instance, first.instance);
    // Its old record lies in discovery for up to 10 s more, and what it names answers again.
    let during = Crowd::start(&[&frontend], &chats(24));
    during.finish_whole(&stage);
    crowd.finish_whole(&stage);

    stage.until("the old instance to be forgotten with its blocks", || {
        let there = states(&frontend)?;
        let gone = !there.contains_key(&first.instance) && known(&first).is_none();
        let rest = [&again, &other].iter().all(|w| there.get(&w.instance).is_some_and(|state| in_routing(state)));
        (gone && rest).then_some(())
    });
    // The new one has only what it computed itself.
    let fresh = stage.frontend(&[]);
    stage.serves(&fresh, 2);
    stage.until("both frontends to know the same of every cache", || {
        (frontend.index_blocks() == fresh.index_blocks()).then_some(())
    });
    Crowd::start(&[&frontend], &chats(24)).finish_whole(&stage);
}
