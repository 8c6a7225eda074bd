//! Continuous batching, step by step: admit what fits, compute prompts in chunks, decode one token a sequence, and
//! when blocks run out preempt a sequence, which starts over from prompt + its tokens so far.
//!
//! The clock is outside: [`Batch::step`] says what a step contained, and a timing model says how long that takes.

use crate::pool::{Pool, SequenceId};
use crate::spread::Spread;
use crate::timing::StepShape;
use std::collections::VecDeque;

/// Limits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sequences that run at once; at least 1.
    pub max_num_seqs: usize,
    /// Tokens computed a step, prompt and decode together; at least 1.
    pub max_num_batched_tokens: usize,
    /// Whether a prompt may be computed in several steps. Where not, it waits until the rest of a step has room for
    /// all of it, and one that no step has room for is the only prompt of its step.
    pub chunked_prefill: bool,
    /// Blocks that are left when a sequence is admitted while others run, for their next tokens.
    pub watermark_blocks: usize,
    /// Who gives way when blocks run out.
    pub victim: Victim,
}

impl BatchLimits {
    /// Prompts in chunks, no watermark, the youngest gives way.
    pub fn new(max_num_seqs: usize, max_num_batched_tokens: usize) -> Self {
        let (chunked_prefill, watermark_blocks, victim) = (true, 0, Victim::Youngest);
        Self { max_num_seqs, max_num_batched_tokens, chunked_prefill, watermark_blocks, victim }
    }
}

/// Who gives way when blocks run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Victim {
    /// The sequence that was admitted last: least is lost. vLLM's choice, `lifo` in `dynamo.mocker`.
    #[default]
    Youngest,
    /// The sequence that was admitted first, `fifo` in `dynamo.mocker`.
    Oldest,
}

/// A sequence to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Its name; the caller's choice, used once.
    pub id: SequenceId,
    /// Its prompt; at least one token.
    pub prompt: Vec<u32>,
    /// Seed of its cache space: [`protocol::space::Space::seed`].
    pub seed: u64,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What it computed.
    pub shape: StepShape,
    /// Sequences admitted for the first time, with their cached tokens.
    pub started: Vec<(SequenceId, usize)>,
    /// One new token each; [`Batch::step`] asked for it.
    pub emitted: Vec<(SequenceId, u32)>,
    /// Sequences that lost their blocks and wait again.
    pub preempted: Vec<SequenceId>,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Prompts of sequences that never ran, in tokens.
    pub new_lengths: Spread,
    /// Prompt and answer so far of preempted sequences, in tokens.
    pub preempted_lengths: Spread,
}

#[derive(Debug)]
struct Waiting {
    id: SequenceId,
    tokens: Vec<u32>,
    seed: u64,
    /// Ran before: its cached tokens were told already.
    is_back: bool,
}

#[derive(Debug)]
struct Running {
    id: SequenceId,
    seed: u64,
    /// All that it had when it was admitted is computed; it gives a token a step.
    decodes: bool,
}

/// A batch over a pool.
#[derive(Debug)]
pub struct Batch {
    limits: BatchLimits,
    pool: Pool,
    waiting: VecDeque<Waiting>,
    /// Oldest first.
    running: Vec<Running>,
}

impl Batch {
    /// An empty batch.
    pub fn new(limits: BatchLimits, pool: Pool) -> Self {
        assert!(limits.max_num_seqs > 0 && limits.max_num_batched_tokens > 0, "a batch can run something");
        Self { limits, pool, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Puts a sequence at the end of the queue. It fits the pool: the caller has checked its length against the
    /// pool's capacity.
    pub fn add(&mut self, new: NewSequence) {
        assert!(!new.prompt.is_empty(), "a prompt has at least one token");
        self.waiting.push_back(Waiting { id: new.id, tokens: new.prompt, seed: new.seed, is_back: false });
    }

    /// Ends a sequence, wherever it is: finished or cancelled. False if it is not there.
    pub fn end(&mut self, id: SequenceId) -> bool {
        if let Some(at) = self.running.iter().position(|running| running.id == id) {
            self.running.remove(at);
            self.pool.end(id);
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != id);
        self.waiting.len() < before
    }

    /// Runs one step. `next` gives the token that follows all tokens of a sequence; it is asked once for every
    /// sequence whose tokens are all computed. The caller ends those that are finished before the next step.
    pub fn step(&mut self, next: &mut dyn FnMut(SequenceId) -> u32) -> Step {
        let mut step = Step::default();
        step.shape.kv_tokens_max = self.pool.capacity() * self.pool.block_size();
        let mut budget = self.limits.max_num_batched_tokens;
        // Sequences that run go first, oldest first, so that a long prompt that enters stalls none of them.
        let mut at = 0;
        while at < self.running.len() && budget > 0 {
            self.advance(at, &mut budget, &mut step, next);
            at += 1;
        }
        // Their tokens get their places before anybody new takes blocks: who is admitted now would give way at once.
        self.make_slots(0, &mut step);
        let placed = step.emitted.len();
        while self.running.len() < self.limits.max_num_seqs
            && budget > 0
            && step.preempted.is_empty()
            && self.admit(&mut budget, &mut step)
        {
            self.advance(self.running.len() - 1, &mut budget, &mut step, next);
        }
        self.make_slots(placed, &mut step);
        step
    }

    /// Starts the first that waits, if its blocks fit, and the rest of the step has room for as much of its prompt as
    /// must be computed at once.
    fn admit(&mut self, budget: &mut usize, step: &mut Step) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        if !self.limits.chunked_prefill {
            let uncomputed = first.tokens.len() - self.pool.cached_tokens(&first.tokens, first.seed);
            let fits_no_step = uncomputed > self.limits.max_num_batched_tokens && step.shape.prefill_tokens == 0;
            if uncomputed > *budget && !fits_no_step {
                return false;
            }
            *budget = (*budget).max(uncomputed);
        }
        // Alone it may have all: there is nobody to leave blocks for.
        let reserve = if self.running.is_empty() { 0 } else { self.limits.watermark_blocks };
        let started = self.pool.start_leaving(first.id, first.tokens.clone(), first.seed, reserve);
        let Ok(cached) = started else { return false };
        if let Some(Waiting { id, seed, is_back, .. }) = self.waiting.pop_front() {
            if !is_back {
                step.started.push((id, cached));
            }
            self.running.push(Running { id, seed, decodes: false });
        }
        true
    }

    /// Computes what the budget allows of one running sequence, and its next token when all is computed.
    fn advance(&mut self, at: usize, budget: &mut usize, step: &mut Step, next: &mut dyn FnMut(SequenceId) -> u32) {
        let Running { id, ref mut decodes, .. } = self.running[at];
        let uncomputed = self.pool.uncomputed(id);
        let count = uncomputed.min(*budget);
        *budget -= count;
        self.pool.compute(id, count);
        let length = self.pool.tokens(id).len();
        if *decodes {
            step.shape.decode_contexts.add(length);
        } else {
            step.shape.prefill_tokens += count;
            step.shape.prefill_context_tokens += length - uncomputed;
            step.shape.prefill_lengths.add(length);
        }
        if count == uncomputed {
            *decodes = true;
            step.emitted.push((id, next(id)));
        }
    }

    /// Gives every emitted token from `from` on its place; takes blocks from a running sequence where there are none.
    fn make_slots(&mut self, from: usize, step: &mut Step) {
        for (at, &(id, token)) in step.emitted.iter().enumerate().skip(from) {
            while self.pool.contains(id) {
                if self.pool.append(id, token).is_ok() {
                    break;
                }
                self.preempt(&step.emitted[at..], &mut step.preempted);
            }
        }
    }

    /// Sends a sequence back to the queue with all its tokens, the one of this step included: it is among `unplaced`
    /// or has its place already.
    fn preempt(&mut self, unplaced: &[(SequenceId, u32)], gone: &mut Vec<SequenceId>) {
        let victim = match self.limits.victim {
            Victim::Youngest => self.running.pop(),
            Victim::Oldest if self.running.is_empty() => None,
            Victim::Oldest => Some(self.running.remove(0)),
        };
        let Some(victim) = victim else { return };
        let mut tokens = self.pool.tokens(victim.id).to_vec();
        tokens.extend(unplaced.iter().filter(|(id, _)| *id == victim.id).map(|&(_, token)| token));
        self.pool.end(victim.id);
        gone.push(victim.id);
        self.waiting.push_front(Waiting { id: victim.id, tokens, seed: victim.seed, is_back: true });
    }

    /// All tokens of a sequence, wherever it is.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        if self.pool.contains(id) {
            return Some(self.pool.tokens(id));
        }
        self.waiting.iter().find(|waiting| waiting.id == id).map(|waiting| waiting.tokens.as_slice())
    }

    /// Nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences that prefill or decode.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait, preempted ones included.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What waits, by length.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::default();
        for waiting in &self.waiting {
            let lengths = if waiting.is_back { &mut queue.preempted_lengths } else { &mut queue.new_lengths };
            lengths.add(waiting.tokens.len());
        }
        queue
    }

    /// Prompt tokens accepted and not yet computed. A decoding sequence's newest token does not count.
    pub fn uncomputed_prompt_tokens(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.tokens.len()).sum();
        let prefilling = self.running.iter().filter(|running| !running.decodes);
        waiting + prefilling.map(|running| self.pool.uncomputed(running.id)).sum::<usize>()
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The pool, to take its changes or clear it.
    pub fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }
}
