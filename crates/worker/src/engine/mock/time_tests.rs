//! The mock engine's time, in tokio's paused clock: exactly what the simulation says, and never a part of the text.

use super::{Cost, MockConfig, MockError, Speedup, Timing, start};
use crate::engine::{Engine, ForwardPass};
use protocol::request::PreprocessedRequest;
use sim::batch::{Batch, BatchLimits};
use sim::pool::Pool;
use sim::replay::{Arrival, replay};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Timers count whole milliseconds, and a step may end up to one early.
const TICK: Duration = Duration::from_millis(2);

fn modelled(all: f64) -> MockConfig {
    let timing = Timing::Modelled(Cost::MockerCurve, Speedup { all, decode: 1.0 });
    MockConfig { timing, ..MockConfig::default() }
}

fn request(prompt: Vec<u32>, max_tokens: u32) -> PreprocessedRequest {
    let mut request = PreprocessedRequest { token_ids: prompt, ..PreprocessedRequest::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}

/// When the first and the last token came, and the tokens.
async fn served(
    engine: Arc<dyn Engine>,
    at: Instant,
    prompt: Vec<u32>,
    max_tokens: u32,
) -> (Duration, Duration, Vec<u32>) {
    tokio::time::sleep_until(at).await;
    let mut stream = engine.generate(request(prompt, max_tokens)).unwrap();
    let (mut first, mut tokens) = (None, Vec::new());
    while let Some(output) = stream.recv().await {
        first.get_or_insert_with(|| at.elapsed());
        tokens.extend(output.token_ids);
    }
    (first.unwrap(), at.elapsed(), tokens)
}

fn load() -> Vec<Arrival> {
    let arrival = |n: u64| Arrival {
        at: Duration::from_millis(n * 37),
        prompt: (0..300 + 100 * n as u32).map(|at| if at < 160 { at } else { at + 10_000 * n as u32 }).collect(),
        output_tokens: 20 + 3 * n as usize,
    };
    (0..12).map(arrival).collect()
}

#[tokio::test(start_paused = true)]
async fn the_engine_takes_the_time_that_the_simulation_says() {
    let config = MockConfig { max_num_batched_tokens: 700, max_num_seqs: 5, ..modelled(1.0) };
    let batch = Batch::new(BatchLimits::new(5, 700), Pool::new(16, 16_384));
    let simulated = replay(batch, &config.timing, &load()).unwrap();
    let engine = start(&config).unwrap().engine;
    let begin = Instant::now();
    let streams = load()
        .into_iter()
        .map(|arrival| served(engine.clone(), begin + arrival.at, arrival.prompt, arrival.output_tokens as u32));
    let real = futures::future::join_all(streams).await;
    for (number, ((first, last, _), expected)) in real.iter().zip(&simulated.served).enumerate() {
        // A step that waits for a timer's tick may let an arrival in one step earlier than the simulation does.
        let slack = TICK + Duration::from_millis(10);
        assert!(first.abs_diff(expected.ttft()) <= slack, "{number}: {first:?}, simulated {:?}", expected.ttft());
        let whole = expected.ended - expected.arrived;
        assert!(last.abs_diff(whole) <= slack * 2, "{number}: {last:?}, simulated {whole:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_token_takes_its_prompt_and_every_other_a_decode_step() {
    //   prompt  speed  first ms  each ms
    for (prompt, speed, first_ms, each_ms) in
        [(512, 1.0, 24.4, 5.86), (2_048, 1.0, 49.4, 6.17), (512, 10.0, 2.44, 0.586)]
    {
        let engine = start(&modelled(speed)).unwrap().engine;
        let (first, last, _) = served(engine, Instant::now(), (0..prompt).collect(), 101).await;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        assert!((milliseconds(first) - first_ms).abs() < 2.0, "{prompt} at {speed}: {first:?}");
        let each = milliseconds(last - first) / 100.0;
        assert!((each - each_ms).abs() < 0.05, "{prompt} at {speed}: {each} ms a token");
    }
}

#[tokio::test(start_paused = true)]
async fn text_never_depends_on_time_limits_or_who_gives_way() {
    let small = MockConfig { block_size: 4, total_kv_blocks: 60, max_num_seqs: 6, seed: 3, ..MockConfig::default() };
    let per_step = Timing::PerStep(Duration::from_millis(3));
    let configs = [
        MockConfig { total_kv_blocks: 10_000, ..small.clone() },
        small.clone(),
        MockConfig { timing: per_step, max_num_batched_tokens: 7, ..small.clone() },
        MockConfig { timing: modelled(1.0).timing, victim: super::Victim::Oldest, ..small.clone() },
        MockConfig { chunked_prefill: false, prefix_caching: false, watermark: 0.2, ..small },
    ];
    let mut texts = Vec::new();
    for config in configs {
        let engine = start(&config).unwrap().engine;
        let begin = Instant::now();
        let streams = (0..12u32).map(|n| served(engine.clone(), begin, (n..n + 20).collect(), 60));
        let tokens: Vec<Vec<u32>> = futures::future::join_all(streams).await.into_iter().map(|s| s.2).collect();
        assert_eq!(config.total_kv_blocks == 60, engine.load().preemptions_total > 0, "{config:?}");
        texts.push(tokens);
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn every_step_is_told_once_with_what_it_computed_and_what_waited() {
    let config = MockConfig { max_num_seqs: 1, max_num_batched_tokens: 100, ..modelled(1.0) };
    let engine = start(&config).unwrap().engine;
    let mut passes = engine.forward_passes().unwrap();
    assert!(engine.forward_passes().is_none(), "one listener");
    let begin = Instant::now();
    let streams = [150, 40].map(|length| served(engine.clone(), begin, (0..length).collect(), 3));
    futures::future::join_all(streams).await;
    let told: Vec<ForwardPass> = std::iter::from_fn(|| passes.try_recv().ok()).collect();
    let figures = |pass: &ForwardPass| {
        let ForwardPass { scheduled: s, queued: q, .. } = pass;
        let read = s.sum_prefill_kv_tokens.unwrap();
        [s.num_prefill_requests, s.sum_prefill_tokens, read, s.num_decode_requests, s.sum_decode_kv_tokens]
            .into_iter()
            .chain([q.num_prefill_requests, q.sum_prefill_tokens])
            .collect::<Vec<u64>>()
    };
    assert_eq!(
        told.iter().map(figures).collect::<Vec<_>>(),
        [
            // prefill: requests, tokens, read; decode: requests, tokens; waiting: requests, tokens
            [1, 100, 0, 0, 0, 1, 40],
            [1, 50, 100, 0, 0, 1, 40],
            [0, 0, 0, 1, 151, 1, 40],
            [0, 0, 0, 1, 152, 1, 40],
            // Two blocks of its 40 tokens are cached: the prompts begin alike.
            [1, 8, 32, 0, 0, 0, 0],
            [0, 0, 0, 1, 41, 0, 0],
            [0, 0, 0, 1, 42, 0, 0],
        ]
    );
    assert!(told[0].wall_time > Duration::from_millis(18) && told[2].wall_time > Duration::from_millis(5), "{told:?}");
}

#[tokio::test]
async fn a_share_or_a_ratio_that_is_none_is_refused_by_name() {
    let refused = |config: MockConfig| start(&config).err();
    assert_eq!(refused(MockConfig { watermark: 1.0, ..modelled(1.0) }), Some(MockError::Watermark(1.0)));
    assert_eq!(refused(modelled(0.0)), Some(MockError::Speedup { name: "speedup_ratio", ratio: 0.0 }));
    let decode = Timing::Modelled(Cost::MockerCurve, Speedup { all: 1.0, decode: -1.0 });
    let named = MockError::Speedup { name: "decode_speedup_ratio", ratio: -1.0 };
    assert_eq!(refused(MockConfig { timing: decode, ..MockConfig::default() }), Some(named));
}
