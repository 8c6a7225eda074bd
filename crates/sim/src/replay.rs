//! A load against one engine in virtual time: no clock runs, a step's time is added, and the next arrival is known.
//!
//! What the mock engine does against the clock happens here at once: the same batch, the same pool, the same timing.

use crate::batch::{Batch, NewSequence, Step};
use crate::pool::SequenceId;
use crate::timing::Timing;
use protocol::space::Space;
use std::collections::HashMap;
use std::time::Duration;

/// A request of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it comes, from the beginning.
    pub at: Duration,
    /// Its prompt; at least one token.
    pub prompt: Vec<u32>,
    /// Tokens of its answer; at least 1.
    pub output_tokens: usize,
}

/// How a request went; all times from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// When it came.
    pub arrived: Duration,
    /// When its first token left.
    pub first_token: Duration,
    /// When its last token left.
    pub ended: Duration,
    /// Longest time between two of its tokens.
    pub gap_max: Duration,
    /// Tokens of its answer.
    pub output_tokens: usize,
    /// Prompt tokens found in the cache when it was first admitted.
    pub cached_tokens: usize,
    /// How often it lost its blocks.
    pub preemptions: usize,
}

impl Served {
    /// Time to the first token.
    pub fn ttft(&self) -> Duration {
        self.first_token - self.arrived
    }

    /// Mean time between two tokens; nothing for a single token.
    pub fn itl(&self) -> Duration {
        let gaps = u32::try_from(self.output_tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        (self.ended - self.first_token).checked_div(gaps).unwrap_or_default()
    }
}

/// How a load went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// One for each arrival, in the same order.
    pub served: Vec<Served>,
    /// Steps of the engine.
    pub steps: u64,
    /// When the last token left.
    pub ended: Duration,
}

impl Replay {
    /// The time to first token that `share` of the requests do not exceed, 0 to 1; nothing of no requests.
    pub fn ttft_at(&self, share: f64) -> Duration {
        at_share(self.served.iter().map(Served::ttft).collect(), share)
    }

    /// The mean time between tokens that `share` of the requests do not exceed, 0 to 1; nothing of no requests.
    pub fn itl_at(&self, share: f64) -> Duration {
        at_share(self.served.iter().map(Served::itl).collect(), share)
    }

    /// Tokens of all answers a second, from the beginning to the last.
    pub fn output_tokens_per_second(&self) -> f64 {
        let tokens: usize = self.served.iter().map(|served| served.output_tokens).sum();
        if self.ended.is_zero() { 0.0 } else { tokens as f64 / self.ended.as_secs_f64() }
    }
}

fn at_share(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    let rank = (share.clamp(0.0, 1.0) * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// A request that the pool has no room for, even alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {request} of the load has {tokens} tokens with its answer; the pool has room for 1 to {room}")]
pub struct DoesNotFit {
    /// Its place among the arrivals, from 0.
    pub request: usize,
    /// Tokens of prompt and answer.
    pub tokens: usize,
    /// Tokens of the whole pool.
    pub room: usize,
}

/// Runs a load to its end on an idle engine.
///
/// `arrivals` is in the order of time; a request that comes during a step waits for its end. The same arguments give
/// the same result. Takes real time for the scheduling alone, a few µs a token.
///
/// # Errors
/// [`DoesNotFit`], before anything runs.
pub fn replay(mut batch: Batch, timing: &Timing, arrivals: &[Arrival]) -> Result<Replay, DoesNotFit> {
    let room = batch.pool().capacity() * batch.pool().block_size();
    for (request, arrival) in arrivals.iter().enumerate() {
        let tokens = arrival.prompt.len() + arrival.output_tokens;
        if tokens > room || arrival.prompt.is_empty() || arrival.output_tokens == 0 {
            return Err(DoesNotFit { request, tokens, room });
        }
    }
    let mut load = Load { arrivals, next: 0, running: HashMap::new(), replay: Replay::default() };
    load.replay.served = vec![Served::default(); arrivals.len()];
    let mut now = Duration::ZERO;
    loop {
        if batch.is_idle() {
            // Nothing to do until the next comes.
            let Some(arrival) = arrivals.get(load.next) else { break };
            now = now.max(arrival.at);
        }
        load.admit_until(now, &mut batch);
        let step = batch.step(&mut |id| load.token(id));
        // Nobody listens to the changes here.
        drop(batch.pool_mut().take_changes());
        now += timing.step(&step.shape);
        load.take(&step, now, &mut batch);
    }
    load.replay.ended = now;
    Ok(load.replay)
}

/// The load as far as it has come.
struct Load<'a> {
    arrivals: &'a [Arrival],
    next: usize,
    /// Tokens left, and when the last one left.
    running: HashMap<SequenceId, (usize, Duration)>,
    replay: Replay,
}

impl Load<'_> {
    fn admit_until(&mut self, now: Duration, batch: &mut Batch) {
        while let Some(arrival) = self.arrivals.get(self.next).filter(|arrival| arrival.at <= now) {
            let id = SequenceId(self.next as u64);
            batch.add(NewSequence { id, prompt: arrival.prompt.clone(), seed: Space::default().seed() });
            self.running.insert(id, (arrival.output_tokens, arrival.at));
            self.replay.served[self.next].arrived = arrival.at;
            self.next += 1;
        }
    }

    /// Answers differ from each other and from prompts in the blocks that they fill, as real ones do.
    fn token(&self, id: SequenceId) -> u32 {
        let left = self.running.get(&id).map_or(0, |&(left, _)| left as u32);
        0x8000_0000 | (id.0 as u32).wrapping_mul(0x9e37_79b1) ^ left
    }

    fn take(&mut self, step: &Step, now: Duration, batch: &mut Batch) {
        self.replay.steps += 1;
        for &(id, cached) in &step.started {
            self.replay.served[id.0 as usize].cached_tokens = cached;
        }
        for id in &step.preempted {
            self.replay.served[id.0 as usize].preemptions += 1;
        }
        for (id, _) in &step.emitted {
            let Some((left, last)) = self.running.get_mut(id) else { continue };
            let served = &mut self.replay.served[id.0 as usize];
            if served.output_tokens == 0 {
                served.first_token = now;
            } else {
                served.gap_max = served.gap_max.max(now - *last);
            }
            (served.output_tokens, served.ended) = (served.output_tokens + 1, now);
            (*left, *last) = (*left - 1, now);
            if *left == 0 {
                self.running.remove(id);
                batch.end(*id);
            }
        }
    }
}

/// A load without a trace: requests at random times, each with the same shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrivals {
    /// Requests in all.
    pub requests: usize,
    /// Requests a second on average; above 0. Times between them are exponential, as of independent clients.
    pub per_second: f64,
    /// Prompt tokens that all requests begin with.
    pub shared_tokens: usize,
    /// Prompt tokens of each request alone, behind these.
    pub own_tokens: usize,
    /// Tokens of an answer.
    pub output_tokens: usize,
    /// Equal seeds give equal loads.
    pub seed: u64,
}

impl Arrivals {
    /// The requests, in the order of time.
    pub fn list(&self) -> Vec<Arrival> {
        let mut at = Duration::ZERO;
        let request = |number: usize| {
            let draw = crate::tokens::mix(self.seed ^ crate::tokens::mix(number as u64));
            // 53 bits make every double between 0 and 1; 1 − u is never 0.
            let uniform = (draw >> 11) as f64 / (1u64 << 53) as f64;
            at += Duration::from_secs_f64(-(1.0 - uniform).ln() / self.per_second);
            let own = (0..self.own_tokens as u64).map(|place| (crate::tokens::mix(draw ^ place) >> 33) as u32);
            let prompt = (0..self.shared_tokens as u32).chain(own).collect();
            Arrival { at, prompt, output_tokens: self.output_tokens }
        };
        (0..self.requests).map(request).collect()
    }
}
