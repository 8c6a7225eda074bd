//! The yardstick: llama.cpp driven by the plainest loop that keeps it busy. No scheduler, no prefix cache, no channels,
//! no sampling but the argmax. What an engine on the same library can hope for.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Tokens of the KV pool, as many as the engine's default, so that both attend over pools of one size.
const POOL_TOKENS: u32 = 8192;

/// A context and its one batch.
pub(crate) struct BareLoop<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
}

impl<'m> BareLoop<'m> {
    /// A loop for up to 16 sequences on `threads` threads.
    pub(crate) fn new(backend: &LlamaBackend, model: &'m LlamaModel, threads: i32) -> Self {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(POOL_TOKENS))
            .with_n_batch(512)
            .with_n_ubatch(512)
            .with_n_seq_max(17)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(true);
        let context = model.new_context(backend, params).expect("the context fits in memory");
        Self { context, batch: LlamaBatch::new(512, 1) }
    }

    fn add(&mut self, token: u32, position: usize, sequence: usize, logits: bool) {
        let (position, sequence) = (i32::try_from(position), i32::try_from(sequence));
        let (position, sequence) = (position.expect("a short text"), sequence.expect("few sequences"));
        self.batch.add(LlamaToken(token.cast_signed()), position, &[sequence], logits).expect("the batch holds a step");
    }

    fn decode(&mut self) {
        self.context.decode(&mut self.batch).expect("the pool has room");
    }

    fn best(&self, row: usize) -> u32 {
        let row = i32::try_from(row).expect("few rows");
        let logits = self.context.get_logits_ith(row);
        let mut best = 0;
        for (token, &logit) in logits.iter().enumerate() {
            if logit > logits[best] {
                best = token;
            }
        }
        u32::try_from(best).expect("the vocabulary is small")
    }

    fn prefill(&mut self, prompt: &[u32], sequence: usize) -> u32 {
        self.batch.clear();
        for (position, &token) in prompt.iter().enumerate() {
            self.add(token, position, sequence, position + 1 == prompt.len());
        }
        self.decode();
        self.best(prompt.len() - 1)
    }

    /// Time of a prompt of at most 512 tokens to its first token.
    pub(crate) fn time_to_first_token(&mut self, prompt: &[u32]) -> Duration {
        self.context.clear_kv_cache();
        let start = Instant::now();
        self.prefill(prompt, 0);
        start.elapsed()
    }

    /// Time of `steps` tokens for each prompt, all in step, after they are prefilled.
    pub(crate) fn time_of_decode(&mut self, prompts: &[Vec<u32>], steps: usize) -> Duration {
        self.context.clear_kv_cache();
        let mut next: Vec<u32> =
            prompts.iter().enumerate().map(|(sequence, prompt)| self.prefill(prompt, sequence)).collect();
        let start = Instant::now();
        for step in 0..steps {
            self.batch.clear();
            for (sequence, prompt) in prompts.iter().enumerate() {
                self.add(next[sequence], prompt.len() + step, sequence, true);
            }
            self.decode();
            for (sequence, token) in next.iter_mut().enumerate() {
                *token = self.best(sequence);
            }
        }
        start.elapsed()
    }
}
