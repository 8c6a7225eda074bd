//! Continuous batching, step by step: admit what fits, compute prompts in chunks, decode one token a sequence, and
//! when blocks run out preempt the youngest, which starts over from prompt + its tokens so far.
//!
//! The clock is outside: [`Batch::step`] says what a step contained, and a timing model says how long that takes.

use crate::pool::{Pool, SequenceId};
use crate::timing::StepShape;
use std::collections::VecDeque;

/// Limits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sequences that run at once; at least 1.
    pub max_num_seqs: usize,
    /// Tokens computed a step, prompt and decode together; at least 1.
    pub max_num_batched_tokens: usize,
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
        let mut budget = self.limits.max_num_batched_tokens;
        // Sequences that run go first, oldest first, so that a long prompt that enters stalls none of them.
        let mut at = 0;
        while at < self.running.len() && budget > 0 {
            self.advance(at, &mut budget, &mut step, next);
            at += 1;
        }
        while self.running.len() < self.limits.max_num_seqs && budget > 0 && self.admit(&mut step) {
            self.advance(self.running.len() - 1, &mut budget, &mut step, next);
        }
        self.make_slots(&mut step);
        step
    }

    /// Starts the first that waits, if its blocks fit.
    fn admit(&mut self, step: &mut Step) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        let Ok(cached) = self.pool.start(first.id, first.tokens.clone(), first.seed) else { return false };
        if let Some(Waiting { id, seed, is_back, .. }) = self.waiting.pop_front() {
            if !is_back {
                step.started.push((id, cached));
            }
            self.running.push(Running { id, seed });
        }
        true
    }

    /// Computes what the budget allows of one running sequence, and its next token when all is computed.
    fn advance(&mut self, at: usize, budget: &mut usize, step: &mut Step, next: &mut dyn FnMut(SequenceId) -> u32) {
        let id = self.running[at].id;
        let uncomputed = self.pool.uncomputed(id);
        let count = uncomputed.min(*budget);
        *budget -= count;
        self.pool.compute(id, count);
        if uncomputed == 1 {
            step.shape.decode_sequences += 1;
            step.shape.decode_context_tokens += self.pool.tokens(id).len();
        } else {
            step.shape.prefill_tokens += count;
            step.shape.prefill_sequences += 1;
        }
        if count == uncomputed {
            step.emitted.push((id, next(id)));
        }
    }

    /// Gives every emitted token its place; takes blocks from the youngest where there are none.
    fn make_slots(&mut self, step: &mut Step) {
        for (at, &(id, token)) in step.emitted.iter().enumerate() {
            while self.running.iter().any(|running| running.id == id) {
                if self.pool.append(id, token).is_ok() {
                    break;
                }
                self.preempt_youngest(&step.emitted[at..], &mut step.preempted);
            }
        }
    }

    /// Sends the youngest back to the queue with all its tokens, the one of this step included. Tokens are emitted in
    /// the order of age, so the youngest's is among `unplaced` if it has one.
    fn preempt_youngest(&mut self, unplaced: &[(SequenceId, u32)], gone: &mut Vec<SequenceId>) {
        let Some(youngest) = self.running.pop() else { return };
        let mut tokens = self.pool.tokens(youngest.id).to_vec();
        tokens.extend(unplaced.iter().filter(|(id, _)| *id == youngest.id).map(|&(_, token)| token));
        self.pool.end(youngest.id);
        gone.push(youngest.id);
        self.waiting.push_front(Waiting { id: youngest.id, tokens, seed: youngest.seed, is_back: true });
    }

    /// All tokens of a sequence, wherever it is.
    pub fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        if self.running.iter().any(|running| running.id == id) {
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

    /// Prompt tokens accepted and not yet computed. A decoding sequence's newest token does not count.
    pub fn uncomputed_prompt_tokens(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.tokens.len()).sum();
        let running = self.running.iter().map(|running| self.pool.uncomputed(running.id));
        waiting + running.filter(|&tokens| tokens > 1).sum::<usize>()
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
