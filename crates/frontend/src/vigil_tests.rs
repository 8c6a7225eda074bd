//! The watch over one stream, in paused time.

use super::Vigil;
use crate::health::Fault;
use crate::lifeline::Lifeline;
use crate::patience::Patience;
use futures::FutureExt;
use runtime::request_plane::ErrorClass;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn vigil(beat_every: Option<Duration>) -> (Vigil, Arc<Lifeline>) {
    let line = Arc::new(Lifeline::new());
    let token_timeout = Duration::from_secs(3_600);
    let patience = Patience { beat_every, prefill: Some(SECOND), started: false, token_timeout };
    (Vigil::new(patience, line.clone(), line.cut()), line)
}

/// Lets `span` pass; fails if the stream is given up meanwhile.
async fn stands(vigil: &mut Vigil, span: Duration) {
    if let Ok(given_up) = tokio::time::timeout(span, vigil.broken()).await {
        panic!("given up: {given_up:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_beat_each_second_stands_for_an_hour_and_is_given_up_six_seconds_after_the_last() {
    let (mut vigil, _line) = vigil(Some(SECOND));
    for _ in 0..3_500 {
        stands(&mut vigil, SECOND).await;
        vigil.hear(false);
    }
    let silent_since = Instant::now();
    let given_up = vigil.broken().await;
    assert_eq!((given_up.fault, given_up.error.class), (Fault::Stalled, ErrorClass::ResponseTimeout));
    assert!(given_up.error.is_retryable());
    let after = silent_since.elapsed();
    assert!((5 * SECOND..7 * SECOND).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_worker_that_hangs_are_given_up_in_that_moment() {
    let (mut vigil, line) = vigil(None);
    vigil.hear(true);
    stands(&mut vigil, 29 * SECOND).await;
    line.cut_streams();
    let at = Instant::now();
    assert_eq!(vigil.broken().await.fault, Fault::Hung);
    assert_eq!(at.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_frontend_that_was_held_up_itself_reads_its_sockets_before_it_blames_anybody() {
    let (mut vigil, _line) = vigil(Some(SECOND));
    for _ in 0..100 {
        // Nothing of this process ran; beats lie in the socket, and the timer is the first to be looked at.
        tokio::time::advance(20 * SECOND).await;
        assert!(vigil.broken().now_or_never().is_none());
        stands(&mut vigil, SECOND / 2).await;
        vigil.hear(false);
    }
}

#[tokio::test(start_paused = true)]
async fn a_strangers_stream_waits_while_others_of_the_same_worker_bring_tokens() {
    let (mut vigil, line) = vigil(None);
    for _ in 0..100 {
        stands(&mut vigil, 20 * SECOND).await;
        line.hear(Instant::now(), true);
    }
    let silent_since = Instant::now();
    assert_eq!(vigil.broken().await.fault, Fault::Stalled);
    let after = silent_since.elapsed();
    assert!((30 * SECOND..32 * SECOND).contains(&after), "{after:?}");
}
