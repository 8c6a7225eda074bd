//! Scenario 18: KV events are lost on their way. Afterwards the router knows of every cache what is in it.

use crate::crowd::{Crowd, chats};
use crate::proxy::Cut;
use crate::stage::{PACED, Stage};

#[test]
fn after_lost_kv_events_the_router_knows_every_cache_again_as_it_is() {
    let mut stage = Stage::new();
    let workers = stage.linked_workers(2, PACED, &[]);
    let frontend = stage.frontend(&[]);
    stage.serves(&frontend, 2);
    let crowd = Crowd::keep(&[&frontend], &chats(48), 16);
    for round in 1..4 {
        crowd.all_have(&stage, 3 * round);
        for (_, links) in &workers {
            links.events.iter().for_each(|link| {
                link.close(true);
                link.cut(Cut::Reset);
            });
        }
        // Events are published meanwhile that nobody hears.
        let stored = frontend.metric("dynamo_frontend_output_tokens_total");
        stage.until("more tokens", || {
            (frontend.metric("dynamo_frontend_output_tokens_total") > stored + 300.0).then_some(())
        });
        for (_, links) in &workers {
            links.events.iter().for_each(|link| link.heal());
        }
    }
    crowd.finish_whole(&stage);
    let fresh = stage.frontend(&[]);
    stage.serves(&fresh, 2);
    stage.until("the router to know what a new one is told", || {
        let (known, told) = (frontend.index_blocks(), fresh.index_blocks());
        (known == told && known.len() == 2 && known.values().all(|blocks| *blocks > 0.0)).then_some(())
    });
}
