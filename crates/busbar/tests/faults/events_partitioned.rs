//! Scenario 17: workers and frontend are cut off from each other on the event plane alone, and silently.

use crate::crowd::{Crowd, chats};
use crate::proxy::Way;
use crate::stage::{PACED, Stage};

#[test]
fn a_frontend_without_events_serves_on_and_knows_every_cache_again_when_they_come() {
    let mut stage = Stage::new();
    let workers = stage.linked_workers(2, PACED, &[]);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let links = || workers.iter().flat_map(|(_, links)| &links.events);
    links().for_each(|link| link.set(Way::Hold, Way::Hold));
    let crowd = Crowd::start(&[&frontend], &chats(32));
    crowd.all_have(&stage, 5);
    let known: f64 = frontend.index_blocks().values().sum();
    crowd.finish_whole(&stage);
    assert_eq!(known, 0.0, "an event came through a held link");

    links().for_each(|link| link.heal());
    let fresh = stage.frontend(&[]);
    stage.serves(&fresh, 2);
    stage.until("the router to know what a new one is told", || {
        let (known, told) = (frontend.index_blocks(), fresh.index_blocks());
        (known == told && known.len() == 2 && known.values().all(|blocks| *blocks > 0.0)).then_some(())
    });
    Crowd::start(&[&frontend], &chats(32)).finish_whole(&stage);
}
