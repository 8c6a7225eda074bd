//! Scenario 21: all frontends are restarted, one after the other, while clients ask.

use crate::crowd::{Crowd, chats};
use crate::machine::kill;
use crate::stage::{PACED, Stage, alive};

/// Answers that run at SIGTERM may end, however busy the machine of the test is.
const PATIENT: &[&str] = &["--graceful-shutdown-secs", "60"];

#[test]
fn a_rolling_restart_of_all_frontends_fails_no_request() {
    let mut stage = Stage::new();
    stage.workers(2, PACED);
    let frontends = [stage.frontend(PATIENT), stage.frontend(PATIENT)];
    frontends.iter().for_each(|frontend| stage.serves(frontend, 2));
    let crowd = Crowd::keep(&[&frontends[0], &frontends[1]], &chats(24), 12);
    crowd.all_have(&stage, 5);
    for old in &frontends {
        kill(old.pid, "-TERM");
        stage.until("a frontend to drain and end", || (!alive(old.pid)).then_some(()));
        let new = stage.frontend_at(old.port, PATIENT);
        stage.serves(&new, 2);
        stage.until("the new frontend to answer", || {
            (new.metric("dynamo_frontend_output_tokens_total") > 0.0).then_some(())
        });
    }
    let answers = crowd.finish_whole(&stage);
    assert!(answers.len() >= 12);
}
