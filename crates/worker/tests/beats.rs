//! What a worker says while a request has to wait, how fast a cancel reaches the engine, and which requests it does not
//! take up in the middle. In paused time: no promise here depends on how busy the machine is.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod scripted;

use protocol::discovery::{EndpointRecord, Record};
use protocol::output::EngineOutput;
use protocol::request::GuidedDecoding;
use runtime::request_plane::{ErrorClass, ResponseStream};
use scripted::{CAP, Stage, request};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

fn endpoint(stage: &Stage) -> EndpointRecord {
    let of = |record: &Record| if let Record::Endpoint(endpoint) = record { Some(endpoint.clone()) } else { None };
    stage.worker.records().iter().find_map(of).unwrap()
}

async fn send(stage: &Stage, max_tokens: u32) -> ResponseStream {
    stage.client.send(&endpoint(stage), "5a1e0001", &request(50, max_tokens)).await.unwrap()
}

/// The next item within `limit`: `Some(true)` with tokens, `Some(false)` a beat.
async fn item(stream: &mut ResponseStream, limit: Duration) -> Option<bool> {
    let item = tokio::time::timeout(limit, stream.next::<EngineOutput>()).await.ok()?;
    Some(item.expect("no end").expect("no error").data.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_gets_a_beat_each_second_while_the_engine_goes_forward_and_none_once_it_hangs() {
    let stage = Stage::new(0).await;
    let mut stream = send(&stage, 2).await;
    assert_eq!(stream.beat_every(), Some(Duration::from_secs(1)));
    // Ten minutes of somebody else's prompts.
    for second in 0..600 {
        stage.engine.progress.fetch_add(1, Ordering::SeqCst);
        assert_eq!(item(&mut stream, Duration::from_millis(1_100)).await, Some(false), "second {second}");
    }
    let hangs_since = Instant::now();
    let mut last = hangs_since;
    while item(&mut stream, Duration::from_secs(60)).await == Some(false) {
        last = Instant::now();
    }
    let after = last - hangs_since;
    assert!(after <= Duration::from_secs(5), "beats for {after:?} after the engine stood still");
    // It goes on after all: its token comes, and the stream is as it should be.
    stage.engine.steps.add_permits(2);
    assert_eq!(item(&mut stream, CAP).await, Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_flows_gets_no_beats() {
    let stage = Stage::new(0).await;
    let mut stream = send(&stage, 50).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        stage.engine.steps.add_permits(1);
        assert_eq!(item(&mut stream, CAP).await, Some(true));
    }
    assert!(stream.next::<EngineOutput>().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cancel_frees_the_engine_within_a_tenth_of_a_second() {
    let stage = Stage::new(1).await;
    for tokens_first in [true, false] {
        let mut stream = send(&stage, 1_000).await;
        if tokens_first {
            assert_eq!(item(&mut stream, CAP).await, Some(true));
        }
        stage.engine.wait_running(1).await;
        let left_at = Instant::now();
        drop(stream);
        stage.engine.wait_running(0).await;
        assert!(left_at.elapsed() < Duration::from_millis(100), "{:?}", left_at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_advance_a_grammar_refuses_the_rest_of_a_constrained_answer() {
    let stage = Stage::new(10).await;
    let mut rest = request(50, 4);
    rest.set_resumed_tokens(2);
    let plain = stage.client.send(&endpoint(&stage), "plain", &rest).await;
    assert!(plain.is_ok(), "without a constraint it is a prompt like any other");
    rest.sampling_options.guided_decoding = Some(GuidedDecoding { regex: Some("a+".into()), ..Default::default() });
    let error = stage.client.send(&endpoint(&stage), "guided", &rest).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::InvalidRequest);
    assert!(error.public.unwrap().contains("extra_args.busbar.resumed_tokens: 2 tokens"));
}
