//! The engine's thread: one step after the other over all running sequences.
//!
//! A step: take new requests, drop cancelled ones, admit, plan, make room, compute, keep what is complete in the
//! prefix cache, publish its changes, choose tokens, publish the load, tell the readers.

use super::config::Limits;
use super::device::{Device, Row, StepError};
use super::outlet::Flushed;
use super::outlet::Outlet;
use super::plan;
use super::pool::{Pool, Running};
use super::sampling::Scratch;
use super::sequence::Sequence;
use super::shared::{Arrival, Shared};
use protocol::kv::KvChange;
use protocol::output::FinishReason;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// How often outputs that a slow reader has no room for are offered again while nothing runs.
const SLOW_READER_RETRY: Duration = Duration::from_millis(2);

/// How often a full queue of cache changes is tried again.
const FULL_QUEUE_RETRY: Duration = Duration::from_millis(1);

/// The state of the engine's thread.
pub(super) struct Runner<'m> {
    pool: Pool<'m>,
    limits: Limits,
    arrivals: Receiver<Arrival>,
    shared: Arc<Shared>,
    kv_changes: Sender<KvChange>,
    /// Oldest first; preempted ones return to the front.
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Running>,
    /// Over, with outputs that their readers have no room for.
    leaving: Vec<Outlet>,
    scratch: Scratch,
    arrived: u64,
    is_stopping: bool,
}

impl<'m> Runner<'m> {
    /// A thread's state around a context.
    pub(super) fn new(
        device: Device<'m>,
        limits: Limits,
        holders: u32,
        arrivals: Receiver<Arrival>,
        shared: Arc<Shared>,
        kv_changes: Sender<KvChange>,
    ) -> Self {
        Self {
            pool: Pool::new(device, &limits, holders),
            limits,
            arrivals,
            shared,
            kv_changes,
            waiting: VecDeque::new(),
            running: Vec::new(),
            leaving: Vec::new(),
            scratch: Scratch::default(),
            arrived: 0,
            is_stopping: false,
        }
    }

    /// Runs until every sender of requests is gone.
    pub(super) fn run(mut self) {
        self.shared.advance.enter();
        while !self.is_stopping {
            self.receive();
            // A panic is a bug of ours in one step; it costs the sequences of that step, not the process.
            self.shared.advance.begin();
            if catch_unwind(AssertUnwindSafe(|| self.step())).is_err() {
                self.reset("the engine failed in a step and was reset");
            }
            self.shared.advance.end();
        }
        self.end_all(&FinishReason::Cancelled);
        self.tell();
    }

    /// Takes the requests that have come; waits for one when there is nothing to do.
    fn receive(&mut self) {
        if self.running.is_empty() && self.waiting.is_empty() {
            let arrival = if self.leaving.is_empty() {
                self.arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.arrivals.recv_timeout(SLOW_READER_RETRY)
            };
            match arrival {
                Ok(arrival) => self.enqueue(arrival),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.is_stopping = true,
            }
        }
        loop {
            match self.arrivals.try_recv() {
                Ok(arrival) => self.enqueue(arrival),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.is_stopping = true;
                    break;
                }
            }
        }
    }

    fn enqueue(&mut self, arrival: Arrival) {
        self.shared.note_received(&arrival);
        self.arrived += 1;
        self.waiting.push_back(Sequence::new(self.arrived, arrival.job, Outlet::new(arrival.sender)));
    }

    fn step(&mut self) {
        self.drop_cancelled();
        self.admit();
        if self.running.is_empty() {
            self.publish_load();
            self.tell();
            return;
        }
        let rows = self.fill_batch();
        match self.pool.device.run() {
            Ok(()) => self.take_results(&rows),
            // Our count of cells and llama.cpp's differ, which a model of another memory layout can cause: free some.
            Err(StepError::NoCells) => self.preempt_youngest(),
            Err(StepError::Failed(reason)) => {
                tracing::error!(%reason, "a step of llama.cpp failed");
                self.reset(&format!("llama.cpp failed: {reason}"));
            }
        }
        self.publish_load();
        self.tell();
    }

    fn drop_cancelled(&mut self) {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|sequence| !sequence.outlet.is_closed());
        for at in (0..self.running.len()).rev() {
            if self.running[at].sequence.outlet.is_closed() {
                let gone = self.running.remove(at);
                self.pool.release(&gone.residence);
            }
        }
        let after = self.waiting.len() + self.running.len();
        self.shared.count(|load| load.cancelled_total += (before - after) as u64);
    }

    /// Starts waiting sequences, oldest first, while there is a place and room for their prompts.
    fn admit(&mut self) {
        while self.running.len() < self.limits.max_num_seqs as usize {
            let Some(sequence) = self.waiting.front() else { break };
            // A sequence alone always fits, because the context is no longer than the pool.
            if !self.running.is_empty() && !self.pool.has_room_for(sequence, &self.running) {
                break;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            let residence = self.pool.settle(&mut sequence);
            if !sequence.was_admitted {
                sequence.was_admitted = true;
                let (asked, found) = (u64::from(sequence.prompt_tokens()), u64::from(sequence.cached_tokens));
                self.shared.count(|load| {
                    load.prefix_query_tokens_total += asked;
                    load.prefix_hit_tokens_total += found;
                });
            }
            self.running.push(Running { sequence, residence });
        }
        self.running.sort_by_key(|running| running.sequence.arrived);
    }

    /// Plans a step that the pool has room for, and fills the batch. Gives each sequence's rows and its logits' row.
    fn fill_batch(&mut self) -> Vec<(u32, Option<Row>)> {
        let rows = loop {
            for running in &mut self.running {
                let found = self.pool.catch_up(running);
                self.shared.count(|load| load.prefix_hit_tokens_total += u64::from(found));
            }
            let pending: Vec<u32> = self.running.iter().map(Running::pending).collect();
            let rows = plan::rows(&pending, &self.limits);
            if self.pool.make_room(rows.iter().sum(), &self.running) {
                break rows;
            }
            self.preempt_youngest();
        };
        self.pool.device.begin();
        self.running.iter().zip(rows).map(|(running, rows)| (rows, self.pool.add_rows(running, rows))).collect()
    }

    fn take_results(&mut self, rows: &[(u32, Option<Row>)]) {
        for (running, &(computed, _)) in self.running.iter_mut().zip(rows) {
            self.pool.keep(running, computed);
        }
        // Before the tokens: who has read the last token of an answer finds the blocks of it published.
        self.publish_changes();
        let mut made = 0;
        let mut over = Vec::new();
        for (at, (running, &(_, row))) in self.running.iter_mut().zip(rows).enumerate() {
            let Some(row) = row else { continue };
            let before = running.sequence.made();
            if running.sequence.advance(self.pool.device.logits(row), &mut self.scratch) {
                over.push(at);
            }
            made += u64::from(running.sequence.made() - before);
        }
        self.shared.count(|load| load.generation_tokens_total += made);
        for at in over.into_iter().rev() {
            let Running { sequence, residence } = self.running.remove(at);
            self.pool.release(&residence);
            self.leaving.push(sequence.outlet);
        }
    }

    /// Puts the youngest sequence back to the front of the queue; it will be computed again, from the cache if it can.
    fn preempt_youngest(&mut self) {
        let Some(Running { sequence, residence }) = self.running.pop() else { return };
        self.pool.release(&residence);
        self.waiting.push_front(sequence);
        self.shared.count(|load| load.preemptions_total += 1);
    }

    /// Ends every running sequence with `reason` and forgets the whole cache: its cells may be broken.
    fn reset(&mut self, reason: &str) {
        for mut running in std::mem::take(&mut self.running) {
            running.sequence.finish(FinishReason::Error(reason.to_owned()));
            self.leaving.push(running.sequence.outlet);
        }
        self.pool.reset(&self.limits);
        self.publish_changes();
    }

    fn end_all(&mut self, reason: &FinishReason) {
        let running = std::mem::take(&mut self.running).into_iter().map(|running| running.sequence);
        for mut sequence in running.chain(std::mem::take(&mut self.waiting)) {
            sequence.finish(reason.clone());
            self.leaving.push(sequence.outlet);
        }
    }

    /// Hands the changes on; waits for room, because a lost change would make every router wrong about this worker.
    fn publish_changes(&mut self) {
        for change in self.pool.take_changes() {
            let mut next = Some(change);
            while let Some(change) = next.take() {
                match self.kv_changes.try_send(change) {
                    Ok(()) => {}
                    // Nobody listens, now or ever again.
                    Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => return,
                    Err(tokio::sync::mpsc::error::TrySendError::Full(change)) => {
                        if self.shared.is_stopping() {
                            return;
                        }
                        std::thread::sleep(FULL_QUEUE_RETRY);
                        next = Some(change);
                    }
                }
            }
        }
    }

    fn publish_load(&self) {
        self.shared.publish(&self.pool, &self.running, &self.waiting);
    }

    /// Sends outputs to readers that have room.
    fn tell(&mut self) {
        for running in &mut self.running {
            running.sequence.outlet.flush();
        }
        for sequence in &mut self.waiting {
            sequence.outlet.flush();
        }
        self.leaving.retain_mut(|outlet| outlet.flush() == Flushed::Waiting && !outlet.is_closed());
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
