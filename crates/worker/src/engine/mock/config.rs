//! What a mock engine is, checked once.

use super::WAITING_MAX;
use super::core::Core;
use sim::batch::{Batch, BatchLimits, Victim};
use sim::pool::Pool;
use sim::timing::{Speedup, Timing};
use sim::tokens::{EmptyVocabulary, MockModel, Vocabulary};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// What a mock engine is.
#[derive(Clone, Debug, PartialEq)]
pub struct MockConfig {
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub total_kv_blocks: u32,
    /// Sequences at once.
    pub max_num_seqs: u32,
    /// Tokens a step, prompt and decode together.
    pub max_num_batched_tokens: u32,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// Equal seeds give equal answers, at every worker.
    pub seed: u64,
    /// Tokens that it may say: plain text of the tokenizer in use, no special ones.
    pub tokens: Vec<RangeInclusive<u32>>,
    /// One token in so many is an end of sequence; never if absent.
    pub eos_one_in: Option<NonZeroU32>,
    /// Share blocks between sequences, and tell about them.
    pub prefix_caching: bool,
    /// Compute long prompts over several steps.
    pub chunked_prefill: bool,
    /// Share of the blocks, 0 to below 1, that admission leaves to the sequences that run.
    pub watermark: f64,
    /// Who gives way when blocks run out.
    pub victim: Victim,
    /// How long a step takes.
    pub timing: Timing,
}

impl Default for MockConfig {
    /// Dynamo's mocker's limits, its vLLM block size apart (16 shows caching on short prompts); as fast as possible.
    fn default() -> Self {
        Self {
            block_size: 16,
            total_kv_blocks: 16_384,
            max_num_seqs: 256,
            max_num_batched_tokens: 8_192,
            context_length: 8_192,
            seed: 0,
            tokens: vec![1_000..=4_999],
            eos_one_in: None,
            prefix_caching: true,
            chunked_prefill: true,
            watermark: 0.0,
            victim: Victim::Youngest,
            timing: Timing::Instant,
        }
    }
}

/// A mock engine that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MockError {
    /// A limit is 0.
    #[error("{0} of the mock engine is 0; it must be at least 1")]
    Zero(&'static str),
    /// The watermark is no share.
    #[error("watermark of the mock engine is {0}; it is a share of the KV blocks, from 0 to below 1")]
    Watermark(f64),
    /// A speed-up would stop or reverse time.
    #[error("{name} of the mock engine is {ratio}; it must be above 0")]
    Speedup {
        /// Which.
        name: &'static str,
        /// What it is.
        ratio: f64,
    },
    /// Nothing to say.
    #[error(transparent)]
    Vocabulary(#[from] EmptyVocabulary),
}

impl MockConfig {
    fn check(&self) -> Result<(), MockError> {
        let at_least_one = [
            ("block_size", self.block_size),
            ("total_kv_blocks", self.total_kv_blocks),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("context_length", self.context_length),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|&(_, value)| value == 0) {
            return Err(MockError::Zero(name));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(MockError::Watermark(self.watermark));
        }
        if let Timing::Modelled(_, Speedup { all, decode }) = self.timing {
            for (name, ratio) in [("speedup_ratio", all), ("decode_speedup_ratio", decode)] {
                if !(ratio.is_finite() && ratio > 0.0) {
                    return Err(MockError::Speedup { name, ratio });
                }
            }
        }
        Ok(())
    }

    pub(super) fn core(&self) -> Result<Core, MockError> {
        self.check()?;
        let vocabulary = Vocabulary::new(self.tokens.clone())?;
        let model = MockModel { seed: self.seed, vocabulary, eos_one_in: self.eos_one_in };
        let pool = Pool::new(self.block_size as usize, self.total_kv_blocks as usize);
        let pool = if self.prefix_caching { pool } else { pool.without_prefix_caching() };
        let limits = BatchLimits {
            max_num_seqs: self.max_num_seqs as usize,
            max_num_batched_tokens: self.max_num_batched_tokens as usize,
            chunked_prefill: self.chunked_prefill,
            watermark_blocks: (f64::from(self.total_kv_blocks) * self.watermark) as usize,
            victim: self.victim,
        };
        let room = self.block_size.saturating_mul(self.total_kv_blocks);
        let sequences_max = self.max_num_seqs as usize + WAITING_MAX;
        Ok(Core::new(model, Batch::new(limits, pool), self.context_length.min(room), sequences_max))
    }
}
