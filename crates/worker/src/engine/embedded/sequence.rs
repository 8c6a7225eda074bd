//! One sequence: its tokens, how far they are computed, and what it tells its reader.

use super::device::SeqId;
use super::guided::Guide;
use super::logprobs::logprobs;
use super::namespace::Namespace;
use super::outlet::Outlet;
use super::prefix::BlockId;
use super::request::Job;
use super::sampling::{Sampler, Scratch};
use super::stop::StopRule;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason};

/// A request from admission to its last output. Survives preemption: then only `place` is lost.
pub(super) struct Sequence {
    /// Place in the order of arrival.
    pub(super) arrived: u64,
    /// Prompt and answer so far.
    pub(super) tokens: Vec<u32>,
    prompt_tokens: u32,
    max_new_tokens: u32,
    /// Prompt tokens that came from the cache, once the first admission is over.
    pub(super) cached_tokens: u32,
    /// Whether it was admitted before.
    pub(super) was_admitted: bool,
    pub(super) namespace: Namespace,
    sampler: Sampler,
    guide: Option<Guide>,
    stop: StopRule,
    top_logprobs: Option<u32>,
    cum_logprob: f64,
    pub(super) outlet: Outlet,
}

/// Where a running sequence stands in the KV memory.
pub(super) struct Residence {
    /// Its id.
    pub(super) seq: SeqId,
    /// Tokens whose cells are there.
    pub(super) computed: u32,
    /// The last block that it shares with the cache, which it pins.
    pub(super) tip: Option<BlockId>,
    /// Its blocks that the cache has; all of `computed` but the last part of a block, unless `private`.
    pub(super) shared_blocks: u32,
    /// Its further blocks cannot be cached.
    pub(super) private: bool,
    /// What it takes from the cache counts as cached prompt; not so when it is computed again after preemption.
    pub(super) counts_hits: bool,
}

impl Residence {
    /// Nothing computed yet.
    pub(super) fn new(seq: SeqId, cacheable: bool, counts_hits: bool) -> Self {
        Self { seq, computed: 0, tip: None, shared_blocks: 0, private: !cacheable, counts_hits }
    }

    /// Cells that no cached block accounts for.
    pub(super) fn own_cells(&self, block_size: u32) -> u32 {
        self.computed - self.shared_blocks * block_size
    }
}

impl Sequence {
    /// The sequence of a checked request.
    pub(super) fn new(arrived: u64, job: Job, outlet: Outlet) -> Self {
        Self {
            arrived,
            prompt_tokens: u32::try_from(job.prompt.len()).expect("the prompt fits the context"),
            tokens: job.prompt,
            max_new_tokens: job.max_new_tokens,
            cached_tokens: 0,
            was_admitted: false,
            namespace: job.namespace,
            sampler: job.sampler,
            guide: job.guide,
            stop: job.stop,
            top_logprobs: job.top_logprobs,
            cum_logprob: 0.0,
            outlet,
        }
    }

    /// Tokens of prompt and answer.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("a sequence fits the context")
    }

    /// Tokens of the prompt.
    pub(super) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Tokens made.
    pub(super) fn made(&self) -> u32 {
        self.len() - self.prompt_tokens
    }

    fn usage(&self) -> CompletionUsage {
        CompletionUsage::new(self.prompt_tokens, self.made(), self.cached_tokens)
    }

    /// Ends the sequence without a token.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        let output = EngineOutput::finished(reason, self.usage());
        self.outlet.push(output);
    }

    /// Chooses the next token from the logits of the last one and tells the reader. True when the sequence is over.
    pub(super) fn advance(&mut self, logits: &[f32], scratch: &mut Scratch) -> bool {
        let allowed = match self.guide.as_mut().map(Guide::allowed).transpose() {
            Ok(allowed) => allowed,
            Err(reason) => return self.fail(&reason),
        };
        let banned = self.stop.banned(self.made());
        let Some(token) = self.sampler.choose(logits, banned, allowed.as_ref(), scratch) else {
            return self.fail("no token may come next: `min_tokens` forbids the end that the constraint demands");
        };
        self.sampler.accept(token);
        self.tokens.push(token);
        let mut output = EngineOutput::of_tokens(vec![token]);
        if let Some(top) = self.top_logprobs {
            let (chosen, alternatives) = logprobs(logits, token, top as usize);
            self.cum_logprob += chosen;
            output.cum_log_probs = Some(self.cum_logprob);
            output.log_probs = Some(vec![chosen]);
            output.top_logprobs = Some(vec![alternatives]);
        }
        let ending = match self.ending(token) {
            Ok(ending) => ending,
            Err(reason) => Some(FinishReason::Error(format!("the constraint failed: {reason}"))),
        };
        if ending == Some(FinishReason::Stop) && self.stop.ends_with(token).is_some() {
            output.stop_reason = Some(token.into());
        }
        if ending.is_some() || self.made() == 1 {
            output.completion_usage = Some(self.usage());
        }
        let is_over = ending.is_some();
        output.finish_reason = ending;
        self.outlet.push(output);
        is_over
    }

    /// Why the sequence is over after `token`, if it is.
    fn ending(&mut self, token: u32) -> Result<Option<FinishReason>, String> {
        let by_token = self.stop.ends_with(token);
        let complete = match &mut self.guide {
            // An end token is no part of the constrained text.
            Some(guide) if by_token.is_none() => guide.accept(token)?,
            _ => false,
        };
        let by_length = self.made() >= self.max_new_tokens;
        Ok(by_token.or(complete.then_some(FinishReason::Stop)).or(by_length.then_some(FinishReason::Length)))
    }

    fn fail(&mut self, reason: &str) -> bool {
        self.finish(FinishReason::Error(format!("the constraint cannot go on: {reason}")));
        true
    }
}
