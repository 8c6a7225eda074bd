//! The mock engine through the trait that workers use.

use super::Timing;
use super::{MockConfig, MockError, start};
use crate::engine::{Engine, EngineError, OUTPUT_QUEUE_LEN, StartedEngine};
use protocol::kv::KvChange;
use protocol::output::{EngineOutput, FinishReason};
use protocol::request::{GuidedDecoding, PreprocessedRequest};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

fn small() -> MockConfig {
    MockConfig { block_size: 4, context_length: 4_096, ..MockConfig::default() }
}

fn request(prompt: &[u32], max_tokens: u32) -> PreprocessedRequest {
    let mut request = PreprocessedRequest { token_ids: prompt.to_vec(), eos_token_ids: vec![2], ..Default::default() };
    request.stop_conditions.max_tokens = Some(max_tokens);
    request
}

/// Everything a sequence said, merged, and the number of outputs.
async fn all(mut receiver: Receiver<EngineOutput>) -> (EngineOutput, Vec<EngineOutput>) {
    let mut outputs = Vec::new();
    while let Some(output) = receiver.recv().await {
        outputs.push(output);
    }
    let mut whole = outputs.last().cloned().expect("a sequence says something");
    whole.token_ids = outputs.iter().flat_map(|output| output.token_ids.clone()).collect();
    (whole, outputs)
}

async fn say(engine: &Arc<dyn Engine>, request: PreprocessedRequest) -> EngineOutput {
    all(engine.generate(request).unwrap()).await.0
}

fn cached(output: &EngineOutput) -> u32 {
    output.completion_usage.unwrap().prompt_tokens_details.unwrap().cached_tokens.unwrap()
}

#[tokio::test]
async fn an_answer_has_its_length_usage_and_end() {
    let StartedEngine { engine, .. } = start(&small()).unwrap();
    let (whole, outputs) = all(engine.generate(request(&[1, 2, 3, 4, 5], 10)).unwrap()).await;
    assert_eq!((whole.token_ids.len(), &whole.finish_reason), (10, &Some(FinishReason::Length)));
    let usage = whole.completion_usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (5, 10, 15));
    assert!(outputs[0].completion_usage.is_some(), "the first output tells the cached tokens");
    assert!(whole.token_ids.iter().all(|token| (1_000..=4_999).contains(token)));
    // The second answer finds the first block, and is the same.
    let again = say(&engine, request(&[1, 2, 3, 4, 5], 10)).await;
    assert_eq!((cached(&whole), cached(&again)), (0, 4));
    assert_eq!(again.token_ids, whole.token_ids);
}

#[tokio::test]
async fn a_stream_that_goes_on_at_another_worker_gives_exactly_the_rest() {
    let config = MockConfig { eos_one_in: NonZeroU32::new(60), seed: 9, ..small() };
    let one = start(&config).unwrap();
    let other = start(&MockConfig { max_num_batched_tokens: 3, ..config }).unwrap();
    for own_seed in [None, Some(1), Some(2)] {
        let seeded = |prompt: &[u32], max_tokens| {
            let mut request = request(prompt, max_tokens);
            request.sampling_options.seed = own_seed;
            request
        };
        let whole = say(&one.engine, seeded(&[7, 8, 9], 80)).await;
        for seam in (1..whole.token_ids.len()).step_by(7) {
            let prompt = [&[7, 8, 9], &whole.token_ids[..seam]].concat();
            let rest = say(&other.engine, seeded(&prompt, 80 - seam as u32)).await;
            assert_eq!(rest.token_ids, whole.token_ids[seam..]);
            assert_eq!(rest.finish_reason, whole.finish_reason);
        }
    }
}

#[tokio::test]
async fn stop_rules_are_honoured() {
    let StartedEngine { engine, .. } = start(&small()).unwrap();
    let plain = say(&engine, request(&[1, 2, 3], 40)).await.token_ids;
    let mut stopped = request(&[1, 2, 3], 40);
    stopped.stop_conditions.stop_token_ids = Some(vec![plain[9]]);
    let output = say(&engine, stopped.clone()).await;
    let first = plain.iter().position(|token| *token == plain[9]).unwrap();
    assert_eq!((output.token_ids.as_slice(), output.finish_reason), (&plain[..=first], Some(FinishReason::Stop)));
    assert_eq!(output.stop_reason, Some(plain[9].into()));
    stopped.stop_conditions.min_tokens = Some(20);
    let output = say(&engine, stopped).await;
    assert!(output.token_ids.len() >= 20 && output.token_ids == plain[..output.token_ids.len()]);

    let ends = start(&MockConfig { eos_one_in: NonZeroU32::new(3), ..small() }).unwrap().engine;
    let output = say(&ends, request(&[1, 2, 3], 200)).await;
    assert_eq!((output.token_ids.last(), output.finish_reason), (Some(&2), Some(FinishReason::Eos)));
    let mut endless = request(&[1, 2, 3], 200);
    endless.stop_conditions.ignore_eos = Some(true);
    let output = say(&ends, endless).await;
    assert_eq!((output.token_ids.len(), output.finish_reason), (200, Some(FinishReason::Length)));
    assert!(!output.token_ids.contains(&2));
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_refused_by_the_name_of_its_field() {
    let StartedEngine { engine, .. } = start(&MockConfig { context_length: 10, ..small() }).unwrap();
    let refused = |change: &dyn Fn(&mut PreprocessedRequest)| {
        let mut request = request(&[1, 2, 3], 4);
        change(&mut request);
        engine.generate(request).expect_err("it cannot be served").to_string()
    };
    assert!(refused(&|request| request.token_ids.clear()).contains("token_ids"));
    assert!(refused(&|request| request.token_ids = vec![1; 10]).contains("10 tokens"));
    assert!(refused(&|request| request.stop_conditions.max_tokens = Some(0)).contains("max_tokens"));
    assert!(refused(&|request| request.stop_conditions.min_tokens = Some(5)).contains("min_tokens"));
    assert!(refused(&|request| request.output_options.logprobs = Some(21)).contains("logprobs"));
    assert!(refused(&|request| request.sampling_options.use_beam_search = Some(true)).contains("use_beam_search"));
    let choice = GuidedDecoding { choice: Some(vec!["a".into()]), ..GuidedDecoding::default() };
    assert!(
        refused(&|request| request.sampling_options.guided_decoding = Some(choice.clone()))
            .contains("guided_decoding.choice")
    );
    assert_eq!(say(&engine, request(&[1, 2, 3], 100)).await.token_ids.len(), 7, "the context ends it");
    assert_eq!(start(&MockConfig { block_size: 0, ..small() }).err(), Some(MockError::Zero("block_size")));
}

#[tokio::test]
async fn log_probabilities_are_there_when_asked_for_and_the_same_every_time() {
    let StartedEngine { engine, .. } = start(&small()).unwrap();
    let asked = || {
        let mut request = request(&[1, 2, 3], 5);
        request.output_options.logprobs = Some(3);
        request
    };
    let (_, one) = all(engine.generate(asked()).unwrap()).await;
    let (_, two) = all(engine.generate(asked()).unwrap()).await;
    for output in &one {
        assert_eq!(output.log_probs.as_ref().unwrap().len(), output.token_ids.len());
        let top = &output.top_logprobs.as_ref().unwrap()[0];
        assert_eq!((top.len(), top[0].token_id), (3, output.token_ids[0]));
    }
    let tokens =
        |outputs: &[EngineOutput]| outputs.iter().map(|output| output.top_logprobs.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&one), tokens(&two));
    assert_eq!(say(&engine, request(&[1, 2, 3], 5)).await.log_probs, None);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reader_frees_its_sequence_within_a_step_and_the_others_go_on() {
    let config = MockConfig { timing: Timing::PerStep(Duration::from_millis(10)), ..small() };
    let StartedEngine { engine, .. } = start(&config).unwrap();
    let mut kept = engine.generate(request(&[1; 8], 1_000)).unwrap();
    let mut dropped = engine.generate(request(&[2; 8], 1_000)).unwrap();
    kept.recv().await.unwrap();
    dropped.recv().await.unwrap();
    assert_eq!(engine.load().running, 2);
    drop(dropped);
    kept.recv().await.unwrap();
    kept.recv().await.unwrap();
    let load = engine.load();
    assert_eq!((load.running, load.cancelled_total), (1, 1));
    assert_eq!(load.active_decode_blocks, 3, "prompt of two blocks and the answer's first");
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_does_not_stall_the_others() {
    let StartedEngine { engine, .. } = start(&small()).unwrap();
    let slow = engine.generate(request(&[1, 2, 3], 1_000)).unwrap();
    let quick = say(&engine, request(&[1, 2, 3], 1_000)).await;
    // The slow one is at its end too, but nobody has read it; its queue is full and the rest is merged.
    let mut settled = engine.load();
    while settled.running > 0 {
        tokio::task::yield_now().await;
        settled = engine.load();
    }
    let (whole, outputs) = all(slow).await;
    assert!(outputs.len() <= OUTPUT_QUEUE_LEN + 1, "{} outputs", outputs.len());
    assert_eq!((whole.token_ids, whole.finish_reason), (quick.token_ids, quick.finish_reason));
}

#[tokio::test]
async fn counters_add_up_and_the_changes_tell_the_pool() {
    let config = MockConfig { total_kv_blocks: 24, max_num_seqs: 8, max_num_batched_tokens: 20, ..small() };
    let StartedEngine { engine, mut kv_changes } = start(&config).unwrap();
    let mut streams = Vec::new();
    for n in 0..60u32 {
        let prompt: Vec<u32> = (0..4 + n % 13).map(|at| if at < 8 { n % 3 } else { n + at }).collect();
        streams.push((prompt.len() as u64, engine.generate(request(&prompt, 5 + n % 17)).unwrap()));
    }
    let (mut prompts, mut tokens, mut hits) = (0, 0, 0);
    for (length, stream) in streams {
        let (whole, _) = all(stream).await;
        (prompts, tokens) = (prompts + length, tokens + whole.token_ids.len() as u64);
        hits += u64::from(cached(&whole));
    }
    let load = engine.load();
    assert_eq!((load.prompt_tokens_total, load.prefix_query_tokens_total), (prompts, prompts));
    assert_eq!((load.generation_tokens_total, load.prefix_hit_tokens_total), (tokens, hits));
    assert_eq!((load.running, load.waiting, load.active_prefill_tokens, load.active_decode_blocks), (0, 0, 0, 0));
    assert!(hits > 0 && load.preemptions_total > 0, "{load:?}");
    engine.stop();
    let mut held = BTreeSet::new();
    while let Some(change) = kv_changes.recv().await {
        match change {
            KvChange::Stored(stored) => stored.blocks.iter().for_each(|block| assert!(held.insert(block.block_hash))),
            KvChange::Removed(removed) => removed.block_hashes.iter().for_each(|hash| assert!(held.remove(hash))),
            KvChange::Cleared => held.clear(),
        }
    }
    assert_eq!(held.len() as u64, load.kv_used_blocks);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_engine_ends_its_streams_and_takes_no_more() {
    let config = MockConfig { timing: Timing::PerStep(Duration::from_millis(10)), ..small() };
    let StartedEngine { engine, mut kv_changes } = start(&config).unwrap();
    let mut stream = engine.generate(request(&[1, 2, 3, 4], 1_000)).unwrap();
    stream.recv().await.unwrap();
    engine.stop();
    let (whole, _) = all(stream).await;
    assert_eq!(whole.finish_reason, Some(FinishReason::Cancelled));
    while kv_changes.recv().await.is_some() {}
    assert!(matches!(engine.generate(request(&[1], 1)), Err(EngineError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn more_sequences_than_may_wait_are_refused_at_once() {
    let config = MockConfig { max_num_seqs: 1, timing: Timing::PerStep(Duration::from_secs(1)), ..small() };
    let StartedEngine { engine, .. } = start(&config).unwrap();
    let streams: Vec<_> = (0..=super::WAITING_MAX).map(|_| engine.generate(request(&[1, 2], 50)).unwrap()).collect();
    assert!(matches!(engine.generate(request(&[1, 2], 5)), Err(EngineError::Overloaded { .. })));
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn a_paced_engine_takes_its_time_a_token() {
    let config = MockConfig { timing: Timing::PerStep(Duration::from_millis(20)), ..small() };
    let StartedEngine { engine, .. } = start(&config).unwrap();
    let begin = tokio::time::Instant::now();
    say(&engine, request(&[1, 2, 3], 50)).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(49 * 20) && took < Duration::from_millis(52 * 20), "{took:?}");
}
