//! What the engine's thread and its callers share: the way in, and the load.

use super::advance::Advance;
use super::pool::{Pool, Running};
use super::request::Job;
use super::sequence::Sequence;
use crate::engine::{EngineError, EngineLoad};
use parking_lot::Mutex;
use protocol::output::EngineOutput;
use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use tokio::sync::mpsc::Sender;

/// A checked request on its way to the thread.
pub(super) struct Arrival {
    pub(super) job: Job,
    pub(super) sender: Sender<EngineOutput>,
}

impl Arrival {
    fn prompt_tokens(&self) -> u64 {
        self.job.prompt.len() as u64
    }
}

/// State behind one lock, never held for longer than a few additions.
pub(super) struct Shared {
    max_waiting: u32,
    /// How far the thread has come.
    pub(super) advance: Advance,
    state: Mutex<State>,
}

struct State {
    /// Gone once the engine stops; the thread ends when it sees that.
    entrance: Option<SyncSender<Arrival>>,
    /// Requests in the channel and their prompt tokens: `load` does not know them yet.
    on_their_way: u32,
    tokens_on_their_way: u64,
    load: EngineLoad,
}

impl Shared {
    /// An engine that accepts through `entrance`, whose capacity is `max_waiting`.
    pub(super) fn new(entrance: SyncSender<Arrival>, max_waiting: u32) -> Self {
        let load = EngineLoad::default();
        let state = State { entrance: Some(entrance), on_their_way: 0, tokens_on_their_way: 0, load };
        Self { max_waiting, advance: Advance::new(), state: Mutex::new(state) }
    }

    /// Sends a request to the thread.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when as many wait as may, [`EngineError::Unavailable`] once the engine stops.
    pub(super) fn submit(&self, arrival: Arrival) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        let tokens = arrival.prompt_tokens();
        let waiting = state.load.waiting + state.on_their_way;
        let Some(entrance) = &state.entrance else {
            return Err(EngineError::Unavailable("it is stopping".into()));
        };
        if waiting >= self.max_waiting {
            return Err(EngineError::Overloaded { waiting });
        }
        entrance.try_send(arrival).map_err(|_| EngineError::Unavailable("its thread has ended".into()))?;
        state.on_their_way += 1;
        state.tokens_on_their_way += tokens;
        state.load.prompt_tokens_total += tokens;
        Ok(())
    }

    /// Notes that the thread has taken a request out of the channel.
    pub(super) fn note_received(&self, arrival: &Arrival) {
        let mut state = self.state.lock();
        let tokens = arrival.prompt_tokens();
        state.on_their_way -= 1;
        state.tokens_on_their_way -= tokens;
        state.load.waiting += 1;
        state.load.active_prefill_tokens += tokens;
    }

    /// Changes counters.
    pub(super) fn count(&self, change: impl FnOnce(&mut EngineLoad)) {
        change(&mut self.state.lock().load);
    }

    /// Replaces what is counted anew after every step.
    pub(super) fn publish(&self, pool: &Pool<'_>, running: &[Running], waiting: &VecDeque<Sequence>) {
        let (kv_used_blocks, active_decode_blocks) = pool.used_blocks(running);
        let left = |running: &Running| running.sequence.prompt_tokens().saturating_sub(running.residence.computed);
        let prefill: u64 = running.iter().map(|running| u64::from(left(running))).sum::<u64>()
            + waiting.iter().map(|sequence| u64::from(sequence.prompt_tokens())).sum::<u64>();
        let mut state = self.state.lock();
        let load = &mut state.load;
        load.running = u32::try_from(running.len()).unwrap_or(u32::MAX);
        load.waiting = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        load.kv_used_blocks = kv_used_blocks;
        load.active_decode_blocks = active_decode_blocks;
        load.active_prefill_tokens = prefill;
    }

    /// The load at this moment.
    pub(super) fn load(&self) -> EngineLoad {
        let state = self.state.lock();
        EngineLoad {
            waiting: state.load.waiting + state.on_their_way,
            active_prefill_tokens: state.load.active_prefill_tokens + state.tokens_on_their_way,
            ..state.load
        }
    }

    /// Closes the way in, which ends the thread.
    pub(super) fn close(&self) {
        self.state.lock().entrance = None;
    }

    /// Whether the way in is closed.
    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().entrance.is_none()
    }
}
