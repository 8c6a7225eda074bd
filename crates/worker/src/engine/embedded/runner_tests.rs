//! The engine's thread run by hand, step by step, on a real model (`BUSBAR_TEST_GGUF`): what happens in which step.

use super::Runner;
use crate::engine::embedded::config::{EmbeddedConfig, Limits};
use crate::engine::embedded::device::Device;
use crate::engine::embedded::guided::Guides;
use crate::engine::embedded::load_model::{load_model, vocabulary};
use crate::engine::embedded::request::{Job, Vocabulary};
use crate::engine::embedded::shared::{Arrival, Shared};
use crate::engine::{EngineError, EngineLoad};
use llama_cpp_2::model::LlamaModel;
use protocol::kv::{BlockHash, KvChange, block_hashes, tokens_hashes};
use protocol::output::{EngineOutput, FinishReason};
use protocol::request::{PreprocessedRequest, SamplingOptions, StopConditions};
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tokio::sync::mpsc;

/// An engine whose thread is the test's.
struct Bench<'m> {
    runner: Runner<'m>,
    limits: Limits,
    vocabulary: Vocabulary,
    guides: Guides,
    model: Arc<LlamaModel>,
    shared: Arc<Shared>,
    kv_changes: mpsc::Receiver<KvChange>,
    /// What a router knows from the events.
    known: HashSet<BlockHash>,
}

fn with_bench(change: impl FnOnce(&mut EmbeddedConfig), test: impl FnOnce(Bench<'_>)) {
    let Some(path) = std::env::var_os("BUSBAR_TEST_GGUF").map(PathBuf::from) else {
        println!("not run: BUSBAR_TEST_GGUF names no model");
        return;
    };
    let model = Arc::new(load_model(&path, 0).expect("the model that BUSBAR_TEST_GGUF names loads"));
    // One thread: the tests run side by side, and ggml's threads would wait for each other.
    let mut config = EmbeddedConfig { threads: NonZeroU32::new(1), ..EmbeddedConfig::of(&path) };
    change(&mut config);
    let limits = Limits::of(&config).unwrap();
    let limits = limits.with_model(model.n_ctx_train(), limits.pool_tokens);
    test(Bench::new(&model, limits, &path));
}

impl<'m> Bench<'m> {
    fn new(model: &'m Arc<LlamaModel>, limits: Limits, path: &std::path::Path) -> Self {
        let (entrance, arrivals) = sync_channel(limits.max_waiting as usize);
        let (kv_sender, kv_changes) = mpsc::channel(100_000);
        let shared = Arc::new(Shared::new(entrance, limits.max_waiting));
        let device = Device::new(model, path, &limits, limits.max_num_seqs).unwrap();
        let runner = Runner::new(device, limits, limits.max_num_seqs, arrivals, shared.clone(), kv_sender);
        let (vocabulary, guides) = (vocabulary(model), Guides::new(model.clone()));
        Self { runner, limits, vocabulary, guides, model: model.clone(), shared, kv_changes, known: HashSet::new() }
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        let tokens = self.model.vocab().tokenize(text.as_bytes(), false, true);
        tokens.into_iter().map(|token| token.0.cast_unsigned()).collect()
    }

    fn submit(&self, prompt: &[u32], max_tokens: u32) -> Result<mpsc::Receiver<EngineOutput>, EngineError> {
        let request = PreprocessedRequest {
            token_ids: prompt.to_vec(),
            stop_conditions: StopConditions {
                max_tokens: Some(max_tokens),
                ignore_eos: Some(true),
                ..StopConditions::default()
            },
            sampling_options: SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() },
            ..PreprocessedRequest::default()
        };
        let job = Job::of(request, &self.limits, &self.vocabulary, &self.guides, 1)?;
        let (sender, receiver) = mpsc::channel(4096);
        self.shared.submit(Arrival { job, sender })?;
        Ok(receiver)
    }

    /// One turn of the thread's loop. Only with work to do: an idle thread waits.
    fn turn(&mut self) {
        self.runner.receive();
        self.runner.step();
    }

    /// Turns until `receiver` has its last output; gives its tokens, its cached tokens and why it ended.
    fn finish(&mut self, receiver: &mut mpsc::Receiver<EngineOutput>) -> (Vec<u32>, u32, FinishReason) {
        let mut tokens = Vec::new();
        let mut cached = None;
        for _ in 0..10_000 {
            while let Ok(output) = receiver.try_recv() {
                tokens.extend(&output.token_ids);
                let details = output.completion_usage.and_then(|usage| usage.prompt_tokens_details);
                cached = cached.or(details.and_then(|details| details.cached_tokens));
                if let Some(reason) = output.finish_reason {
                    return (tokens, cached.expect("the first output tells"), reason);
                }
            }
            self.turn();
        }
        panic!("no end after 10,000 steps");
    }

    fn apply_events(&mut self) {
        while let Ok(change) = self.kv_changes.try_recv() {
            match change {
                KvChange::Stored(stored) => {
                    let mut parent = stored.parent_hash;
                    for block in stored.blocks {
                        assert!(parent.is_none_or(|hash| self.known.contains(&hash)), "a parent is stored first");
                        assert!(self.known.insert(block.block_hash), "a block is stored once");
                        parent = Some(block.block_hash);
                    }
                }
                KvChange::Removed(removed) => {
                    for hash in removed.block_hashes {
                        assert!(self.known.remove(&hash), "a block is removed once, after it was stored");
                    }
                }
                KvChange::Cleared => self.known.clear(),
            }
        }
    }

    /// The cached tokens that a router that saw only the events expects for `prompt`.
    fn predicted(&self, prompt: &[u32]) -> u32 {
        let usable = &prompt[..prompt.len() - 1];
        let block = self.limits.block_size;
        let names = block_hashes(&tokens_hashes(usable, block as usize));
        names.iter().take_while(|name| self.known.contains(name)).count() as u32 * block
    }

    fn load(&self) -> EngineLoad {
        self.shared.load()
    }
}

/// A prompt of `length` tokens that no other seed's starts with.
fn prompt(seed: u32, length: u32) -> Vec<u32> {
    (0..length).map(|i| 1000 + (seed * 7919 + i * 31 + i * i * 7) % 40_000).collect()
}

/// A small fixed generator: the test is the same on every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_thousand_random_requests_leave_events_cache_and_cached_tokens_in_agreement() {
    let small = |config: &mut EmbeddedConfig| {
        (config.kv_pool_tokens, config.block_size, config.max_num_seqs) = (Some(256), Some(2), Some(4));
    };
    with_bench(small, |mut bench| {
        let mut state = 0x5eed;
        let (mut hits, mut removed) = (0, 0);
        for number in 0..1000 {
            // A few roots, each with a few continuations: prompts share starts of every length.
            let (root, fork, length) = (random(&mut state) % 6, random(&mut state) % 6, random(&mut state) % 12 + 2);
            let mut tokens = prompt(root as u32, length as u32 / 2 + 2);
            tokens.extend(prompt(100 + fork as u32, length as u32));
            let expected = bench.predicted(&tokens);
            let known_before = bench.known.len();
            let mut receiver = bench.submit(&tokens, (random(&mut state) % 3 + 1) as u32).unwrap();
            let (_, cached, reason) = bench.finish(&mut receiver);
            assert_eq!(reason, FinishReason::Length);
            assert_eq!(cached, expected, "request {number}");
            bench.apply_events();
            let held: HashSet<BlockHash> = bench.runner.pool.block_hashes();
            assert_eq!(held, bench.known, "after request {number}");
            hits += u32::from(cached > 0);
            removed += u32::from(bench.known.len() <= known_before);
        }
        assert!(hits > 300 && removed > 100, "{hits} hits, {removed} requests with eviction: the test tests something");
        let load = bench.load();
        assert_eq!((load.running, load.waiting, load.active_decode_blocks, load.active_prefill_tokens), (0, 0, 0, 0));
        assert_eq!(load.kv_used_blocks as usize, bench.known.len());
        assert_eq!(load.preemptions_total, 0, "one after the other, nobody is in the way");
    });
}

#[test]
fn random_requests_at_once_keep_events_and_cache_in_agreement_through_preemption() {
    let small = |config: &mut EmbeddedConfig| {
        (config.kv_pool_tokens, config.block_size, config.max_num_seqs) = (Some(256), Some(4), Some(6));
        config.context_length = Some(200);
    };
    with_bench(small, |mut bench| {
        let mut state = 0xfeed;
        let mut receivers = Vec::new();
        for _ in 0..40 {
            let tokens = prompt((random(&mut state) % 5) as u32, (random(&mut state) % 30 + 2) as u32);
            let receiver = bench.submit(&tokens, (random(&mut state) % 80 + 1) as u32).unwrap();
            // Some readers leave early.
            if !random(&mut state).is_multiple_of(8) {
                receivers.push(receiver);
            }
        }
        for mut receiver in receivers {
            let (_, _, reason) = bench.finish(&mut receiver);
            assert_eq!(reason, FinishReason::Length);
            bench.apply_events();
            assert_eq!(bench.runner.pool.block_hashes(), bench.known);
        }
        let load = bench.load();
        assert!(load.preemptions_total > 0, "the pool was too small for all");
        assert_eq!((load.running, load.waiting, load.active_decode_blocks), (0, 0, 0));
    });
}

#[test]
fn preemption_neither_loses_nor_repeats_a_token() {
    let small = |config: &mut EmbeddedConfig| {
        (config.kv_pool_tokens, config.block_size, config.max_num_seqs) = (Some(256), Some(4), Some(3));
    };
    with_bench(small, |mut bench| {
        // Texts that go on in one way only, so that rounding, which depends on the batch, changes no token.
        let texts =
            ["1, 2, 3, 4, 5, 6, 7, 8, 9, 10,", "a b c a b c a b c a b c a b c", "red blue red blue red blue red blue"];
        let prompts = texts.map(|text| bench.tokens(text));
        let mut receivers: Vec<_> = prompts.iter().map(|prompt| bench.submit(prompt, 100).unwrap()).collect();
        let answers: Vec<_> = receivers.iter_mut().map(|receiver| bench.finish(receiver).0).collect();
        assert!(bench.load().preemptions_total > 0);
        for (prompt, answer) in prompts.iter().zip(answers) {
            let mut alone = bench.submit(prompt, 100).unwrap();
            assert_eq!(bench.finish(&mut alone).0, answer);
        }
    });
}

#[test]
fn a_reader_that_leaves_frees_its_sequence_within_one_step() {
    with_bench(
        |_| (),
        |mut bench| {
            let mut stays = bench.submit(&prompt(1, 40), 50).unwrap();
            let leaves = bench.submit(&prompt(2, 40), 50).unwrap();
            bench.turn();
            bench.turn();
            assert_eq!(bench.load().running, 2);
            let blocks = bench.load().active_decode_blocks;
            drop(leaves);
            bench.turn();
            let load = bench.load();
            assert_eq!((load.running, load.cancelled_total), (1, 1));
            assert!(load.active_decode_blocks < blocks);
            assert_eq!(bench.finish(&mut stays).0.len(), 50);
        },
    );
}

#[test]
fn a_long_prompt_takes_no_more_than_its_chunk_of_a_step_and_every_stream_moves_each_step() {
    with_bench(
        |config| config.prefill_chunk = Some(32),
        |mut bench| {
            let mut streams: Vec<_> = (0..4).map(|seed| bench.submit(&prompt(seed, 20), 200).unwrap()).collect();
            bench.turn();
            bench.turn();
            streams.iter_mut().for_each(|stream| while stream.try_recv().is_ok() {});
            let mut long = bench.submit(&prompt(9, 500), 1).unwrap();
            let mut steps = 0;
            let mut left = 500;
            while long.try_recv().is_err() {
                bench.turn();
                steps += 1;
                for stream in &mut streams {
                    assert_eq!(stream.try_recv().expect("a token in every step").token_ids.len(), 1);
                }
                let now = bench.load().active_prefill_tokens;
                assert!(left - now <= 32, "{left} tokens were left, now {now}");
                left = now;
            }
            assert_eq!(steps, 16, "500 tokens in chunks of 32");
        },
    );
}

#[test]
fn equal_prompts_at_once_are_computed_once() {
    with_bench(
        |_| (),
        |mut bench| {
            let mut streams: Vec<_> = (0..4).map(|_| bench.submit(&prompt(3, 200), 2).unwrap()).collect();
            let cached: Vec<u32> = streams.iter_mut().map(|stream| bench.finish(stream).1).collect();
            assert_eq!(cached[0], 0);
            // The step that computes the first prompt has room for the start of the second.
            assert!(cached[1] > 100 && cached[2] == 192 && cached[3] == 192, "{cached:?}");
        },
    );
}

#[test]
fn a_started_block_that_gives_way_to_a_cached_one_leaves_no_cell_behind() {
    let tight = |config: &mut EmbeddedConfig| {
        (config.kv_pool_tokens, config.max_num_batched_tokens, config.max_num_seqs) = (Some(256), Some(120), Some(2));
    };
    with_bench(tight, |mut bench| {
        // The first step computes the first prompt and 20 tokens of the second, which then finds 96 tokens cached.
        // Sharing 96 and owning 4 + 76 each, both together need 256 cells: one too many would preempt.
        let prompts = [7, 8].map(|last| [&prompt(3, 98)[..], &[last, last]].concat());
        let mut streams = prompts.map(|prompt| bench.submit(&prompt, 77).unwrap());
        let cached = streams.each_mut().map(|stream| bench.finish(stream).1);
        assert_eq!(cached, [0, 80]);
        assert_eq!(bench.load().preemptions_total, 0);
    });
}

#[test]
fn as_many_wait_as_may_and_the_next_is_refused() {
    let narrow = |config: &mut EmbeddedConfig| (config.max_num_seqs, config.max_waiting) = (Some(1), Some(2));
    with_bench(narrow, |mut bench| {
        let mut first = bench.submit(&prompt(1, 8), 20).unwrap();
        bench.turn();
        let _second = bench.submit(&prompt(2, 8), 1).unwrap();
        let third = bench.submit(&prompt(3, 8), 1).unwrap();
        assert_eq!(bench.submit(&prompt(4, 8), 1).unwrap_err(), EngineError::Overloaded { waiting: 2 });
        assert_eq!((bench.load().running, bench.load().waiting), (1, 2));
        drop(third);
        bench.turn();
        bench.submit(&prompt(5, 8), 1).expect("who left has freed a place");
        bench.finish(&mut first);
    });
}

#[test]
fn a_reset_ends_the_running_sequences_and_the_engine_goes_on_with_an_empty_cache() {
    with_bench(
        |_| (),
        |mut bench| {
            let mut lost = bench.submit(&prompt(1, 40), 50).unwrap();
            bench.turn();
            bench.runner.reset("the engine failed in a step and was reset");
            bench.runner.tell();
            let mut reason = None;
            while let Ok(output) = lost.try_recv() {
                reason = output.finish_reason;
            }
            assert_eq!(reason, Some(FinishReason::Error("the engine failed in a step and was reset".into())));
            bench.apply_events();
            assert!(bench.known.is_empty(), "routers are told that all is gone");
            let mut next = bench.submit(&prompt(1, 40), 5).unwrap();
            let (tokens, cached, reason) = bench.finish(&mut next);
            assert_eq!((tokens.len(), cached, reason), (5, 0, FinishReason::Length));
        },
    );
}
