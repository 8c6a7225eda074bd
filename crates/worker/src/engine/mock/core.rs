//! The mock engine's state, and the beginning and the end of a step of it; no task, no clock.

use super::super::{EngineError, EngineLoad};
use super::rules::{End, StopRules, check};
use protocol::kv::KvChange;
use protocol::output::{CompletionUsage, EngineOutput, FinishReason, TopLogprob};
use protocol::request::PreprocessedRequest;
use protocol::space::Space;
use sim::batch::{Batch, NewSequence, Queue, Step};
use sim::pool::SequenceId;
use sim::tokens::{Context, MockModel};
use std::collections::BTreeMap;
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// A sequence as its caller sees it.
struct Stream {
    context: Context,
    rules: StopRules,
    /// Alternatives a token, when asked for.
    logprobs: Option<u32>,
    prompt_tokens: u32,
    cached_tokens: u32,
    emitted: u32,
    cum_log_probs: f64,
    sender: Sender<EngineOutput>,
    /// What the reader has no place for yet, merged.
    pending: Option<EngineOutput>,
}

/// The last output of a sequence whose reader is behind.
pub(super) struct Late {
    pub(super) sender: Sender<EngineOutput>,
    pub(super) output: EngineOutput,
}

/// What a step that is over gave.
pub(super) struct Ended {
    pub(super) changes: Vec<KvChange>,
    pub(super) late: Vec<Late>,
}

/// The engine's state.
pub(super) struct Core {
    model: MockModel,
    batch: Batch,
    /// In the order of their ids: who is cancelled together is freed in one order in every run.
    streams: BTreeMap<SequenceId, Stream>,
    context_length: u32,
    sequences_max: usize,
    next_id: u64,
    late: usize,
    /// Counters; the moment's values are computed when asked for.
    totals: EngineLoad,
}

impl Core {
    pub(super) fn new(model: MockModel, batch: Batch, context_length: u32, sequences_max: usize) -> Self {
        let (streams, totals) = (BTreeMap::new(), EngineLoad::default());
        Self { model, batch, streams, context_length, sequences_max, next_id: 0, late: 0, totals }
    }

    /// Most tokens of a sequence: the context, or the pool if it is smaller.
    pub(super) fn context_length(&self) -> u32 {
        self.context_length
    }

    pub(super) fn add(
        &mut self,
        request: PreprocessedRequest,
        sender: Sender<EngineOutput>,
    ) -> Result<(), EngineError> {
        check(&request, self.context_length)?;
        if self.streams.len() + self.late >= self.sequences_max {
            return Err(EngineError::Overloaded { waiting: count(self.batch.waiting()) });
        }
        let prompt_tokens = count(request.token_ids.len());
        let mut context = Context::new(&self.model, request.sampling_options.seed);
        context.extend(&request.token_ids);
        let stream = Stream {
            context,
            rules: StopRules::of(&request, self.context_length - prompt_tokens),
            logprobs: request.output_options.logprobs,
            prompt_tokens,
            cached_tokens: 0,
            emitted: 0,
            cum_log_probs: 0.0,
            sender,
            pending: None,
        };
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let seed = Space::of(request.routing.as_ref()).seed();
        self.streams.insert(id, stream);
        self.batch.add(NewSequence { id, prompt: request.token_ids, seed });
        self.totals.prompt_tokens_total += u64::from(prompt_tokens);
        Ok(())
    }

    /// Ends sequences whose readers are gone and decides what the next step computes; nothing, when nothing is left
    /// to do until a sequence comes. What it gave is handed out by [`Core::end`], when the step's time is over.
    pub(super) fn begin(&mut self) -> Option<Step> {
        self.cancel_unread();
        if self.batch.is_idle() {
            return None;
        }
        let Self { batch, streams, model, .. } = self;
        Some(batch.step(&mut |id| {
            let stream = &streams[&id];
            stream.context.next(model, stream.rules.eos_at(stream.emitted + 1))
        }))
    }

    /// Hands out the tokens of a step.
    pub(super) fn end(&mut self, step: &Step) -> Ended {
        for &(id, cached) in &step.started {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.cached_tokens = count(cached);
                self.totals.prefix_query_tokens_total += u64::from(stream.prompt_tokens);
                self.totals.prefix_hit_tokens_total += cached as u64;
            }
        }
        let mut late = Vec::new();
        for &(id, token) in &step.emitted {
            late.extend(self.emit(id, token));
        }
        self.totals.preemptions_total += step.preempted.len() as u64;
        self.late += late.len();
        Ended { changes: self.batch.pool_mut().take_changes(), late }
    }

    /// What waits now.
    pub(super) fn queue(&self) -> Queue {
        self.batch.queue()
    }

    fn cancel_unread(&mut self) {
        let gone = self.streams.iter().filter(|(_, stream)| stream.sender.is_closed()).map(|(&id, _)| id);
        for id in gone.collect::<Vec<SequenceId>>() {
            self.streams.remove(&id);
            self.batch.end(id);
            self.totals.cancelled_total += 1;
        }
    }

    /// Gives a sequence its new token; returns its last output if the reader has no place for it.
    fn emit(&mut self, id: SequenceId, token: u32) -> Option<Late> {
        let stream = self.streams.get_mut(&id)?;
        stream.emitted += 1;
        self.totals.generation_tokens_total += 1;
        let mut output = stream.output_of(&self.model, token);
        stream.context.push(token);
        let end = stream.rules.end_at(stream.emitted, token);
        if let Some(end) = end {
            output.finish_reason = Some(reason(end));
            output.completion_usage = Some(stream.usage());
            output.stop_reason = if let End::Stop(token) = end { Some(token.into()) } else { None };
        } else if stream.emitted == 1 {
            output.completion_usage = Some(stream.usage());
        }
        stream.hand_out(output);
        end?;
        self.batch.end(id);
        let stream = self.streams.remove(&id)?;
        stream.pending.map(|output| Late { sender: stream.sender, output })
    }

    pub(super) fn late_delivered(&mut self, count: usize) {
        self.late -= count;
    }

    /// Ends everything, with a word to whoever reads.
    pub(super) fn cancel_all(&mut self) {
        for (id, mut stream) in std::mem::take(&mut self.streams) {
            self.batch.end(id);
            self.totals.cancelled_total += 1;
            let usage = stream.usage();
            stream.hand_out(EngineOutput::finished(FinishReason::Cancelled, usage));
        }
    }

    pub(super) fn load(&self) -> EngineLoad {
        let pool = self.batch.pool();
        EngineLoad {
            running: count(self.batch.running()),
            waiting: count(self.batch.waiting()),
            kv_used_blocks: pool.used_blocks() as u64,
            active_decode_blocks: pool.active_blocks() as u64,
            active_prefill_tokens: self.batch.uncomputed_prompt_tokens() as u64,
            ..self.totals
        }
    }
}

impl Stream {
    fn usage(&self) -> CompletionUsage {
        CompletionUsage::new(self.prompt_tokens, self.emitted, self.cached_tokens)
    }

    /// The output of one token, with log-probabilities if asked for.
    fn output_of(&mut self, model: &MockModel, token: u32) -> EngineOutput {
        let mut output = EngineOutput::of_tokens(vec![token]);
        let Some(asked) = self.logprobs else { return output };
        let likeliest = self.context.likeliest(model, token, asked.max(1) as usize);
        let logprob = likeliest[0].1;
        self.cum_log_probs += logprob;
        output.cum_log_probs = Some(self.cum_log_probs);
        output.log_probs = Some(vec![logprob]);
        let ranked = (1..).zip(likeliest).take(asked as usize);
        let alternatives =
            ranked.map(|(rank, (token_id, logprob))| TopLogprob { rank, token_id, token: None, logprob, bytes: None });
        output.top_logprobs = Some(vec![alternatives.collect()]);
        output
    }

    /// Sends an output, after what is pending; what finds no place stays pending, merged into one.
    fn hand_out(&mut self, output: EngineOutput) {
        let output = match self.pending.take() {
            Some(before) => merged(before, output),
            None => output,
        };
        // A closed channel is noticed at the next step.
        if let Err(TrySendError::Full(output)) = self.sender.try_send(output) {
            self.pending = Some(output);
        }
    }
}

fn merged(mut first: EngineOutput, then: EngineOutput) -> EngineOutput {
    first.token_ids.extend(then.token_ids);
    first.cum_log_probs = then.cum_log_probs.or(first.cum_log_probs);
    first.log_probs = joined(first.log_probs, then.log_probs);
    first.top_logprobs = joined(first.top_logprobs, then.top_logprobs);
    first.finish_reason = then.finish_reason;
    first.stop_reason = then.stop_reason;
    first.completion_usage = then.completion_usage.or(first.completion_usage);
    first
}

fn joined<T>(first: Option<Vec<T>>, then: Option<Vec<T>>) -> Option<Vec<T>> {
    match (first, then) {
        (Some(mut first), Some(then)) => {
            first.extend(then);
            Some(first)
        }
        (first, then) => first.or(then),
    }
}

fn reason(end: End) -> FinishReason {
    match end {
        End::Eos => FinishReason::Eos,
        End::Stop(_) => FinishReason::Stop,
        End::Length => FinishReason::Length,
    }
}

/// Counts of tokens and sequences are far below 2³²: contexts and queues are bounded.
fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
