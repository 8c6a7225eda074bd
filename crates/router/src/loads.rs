//! Bookings: the load that requests put on each worker rank from the moment they are placed.
//!
//! **Invariant:** the load of a rank is the sum of its live bookings, and freeing one takes away exactly what it
//! brought. A booking is made before its request is sent, so the next choice sees it.

use crate::prompt::Prompt;
use hashbrown::HashMap;
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent};
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::BlockHash;
use std::time::Duration;

/// Bookings that other routers may bring: their number is not ours to limit, their memory here is. At a few hundred
/// bytes each this is some tens of MB; what comes beyond is not counted as load.
pub const REMOTE_BOOKINGS_MAX: usize = 65_536;

/// A booking's handle. The caller frees it on drop; freeing twice does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BookingId(u64);

/// What a request brings to a rank.
#[derive(Clone, Copy, Debug)]
pub struct Booking<'a> {
    /// The request's id, by which workers and other routers speak of it.
    pub request_id: &'a str,
    /// Where it goes.
    pub worker: WorkerRank,
    /// Its prompt.
    pub prompt: &'a Prompt,
    /// Prompt tokens to compute: those that are not cached there.
    pub prefill_tokens: u64,
}

/// The load of one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankLoad {
    /// Prompt tokens booked and not yet computed.
    pub active_prefill_tokens: u64,
    /// Different blocks of running requests; one that two requests share counts once.
    pub active_decode_blocks: u64,
    /// Running requests.
    pub active_requests: u64,
}

#[derive(Debug)]
struct Live {
    request_id: String,
    worker: WorkerRank,
    blocks: Vec<BlockHash>,
    /// Blocks that no other request can share: the prompt's last, partial one and those of the answer.
    private_blocks: u64,
    prompt_tokens: u64,
    prefill_tokens: u64,
    booked_at: Duration,
    is_remote: bool,
}

#[derive(Debug, Default)]
struct RankBookings {
    load: RankLoad,
    /// Requests per shared block.
    blocks: HashMap<BlockHash, u32>,
}

/// All bookings.
#[derive(Debug, Default)]
pub struct Loads {
    block_size: u32,
    next_id: u64,
    live: HashMap<BookingId, Live>,
    by_request: HashMap<String, BookingId>,
    ranks: HashMap<WorkerRank, RankBookings>,
    remote: usize,
}

impl Loads {
    /// No bookings. `block_size` is in tokens.
    pub fn new(block_size: u32) -> Self {
        Self { block_size: block_size.max(1), ..Self::default() }
    }

    /// Books a request at `now`, which only [`Loads::expire`] reads.
    pub fn book(&mut self, booking: Booking<'_>, now: Duration) -> BookingId {
        let prompt = booking.prompt;
        self.add(Live {
            request_id: booking.request_id.to_owned(),
            worker: booking.worker,
            blocks: prompt.block_hashes.clone(),
            private_blocks: (prompt.blocks() - prompt.block_hashes.len()) as u64,
            prompt_tokens: prompt.tokens as u64,
            prefill_tokens: booking.prefill_tokens,
            booked_at: now,
            is_remote: false,
        })
    }

    /// The prompt is computed: its tokens are no load any more.
    pub fn mark_prefill_completed(&mut self, id: BookingId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let done = std::mem::take(&mut live.prefill_tokens);
        if let Some(rank) = self.ranks.get_mut(&live.worker) {
            rank.load.active_prefill_tokens -= done;
        }
    }

    /// The answer has `output_tokens` tokens now; its blocks count as load.
    pub fn grow(&mut self, id: BookingId, output_tokens: u64) {
        let block_size = u64::from(self.block_size);
        let Some(live) = self.live.get_mut(&id) else { return };
        let all = (live.prompt_tokens + output_tokens).div_ceil(block_size);
        let private = all.saturating_sub(live.blocks.len() as u64).max(live.private_blocks);
        let more = private - std::mem::replace(&mut live.private_blocks, private);
        if let Some(rank) = self.ranks.get_mut(&live.worker) {
            rank.load.active_decode_blocks += more;
        }
    }

    /// Ends a booking; false if it had ended already.
    pub fn free(&mut self, id: BookingId) -> bool {
        let Some(live) = self.live.remove(&id) else { return false };
        if self.by_request.get(&live.request_id) == Some(&id) {
            self.by_request.remove(&live.request_id);
        }
        self.remote -= usize::from(live.is_remote);
        let Some(rank) = self.ranks.get_mut(&live.worker) else { return true };
        rank.load.active_requests -= 1;
        rank.load.active_prefill_tokens -= live.prefill_tokens;
        rank.load.active_decode_blocks -= live.private_blocks;
        for block in &live.blocks {
            if let Some(count) = rank.blocks.get_mut(block) {
                *count -= 1;
                if *count == 0 {
                    rank.blocks.remove(block);
                    rank.load.active_decode_blocks -= 1;
                }
            }
        }
        if rank.load.active_requests == 0 {
            self.ranks.remove(&live.worker);
        }
        true
    }

    /// Ends every booking older than `max_age` at `now`; returns them. For those that other routers never freed.
    pub fn expire(&mut self, max_age: Duration, now: Duration) -> Vec<BookingId> {
        let old = |live: &Live| now.saturating_sub(live.booked_at) > max_age;
        let mut ids: Vec<BookingId> = self.live.iter().filter(|(_, live)| old(live)).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        for &id in &ids {
            self.free(id);
        }
        ids
    }

    /// Ends every booking on a worker that is gone; returns how many.
    pub fn remove_worker(&mut self, worker_id: InstanceId) -> usize {
        let ids: Vec<BookingId> =
            self.live.iter().filter(|(_, live)| live.worker.worker_id == worker_id).map(|(&id, _)| id).collect();
        ids.iter().filter(|&&id| self.free(id)).count()
    }

    /// Applies what another router or a worker says; `own_router_id` marks our own echo. True if it changed a booking.
    pub fn apply(&mut self, event: &ActiveSequenceEvent, own_router_id: u64, now: Duration) -> bool {
        if event.router_id == own_router_id {
            return false;
        }
        let known = self.by_request.get(&event.request_id).copied();
        match &event.data {
            ActiveSequenceChange::AddRequest { token_sequence, track_prefill_tokens, prefill_load_hint, .. } => {
                if known.is_some() || self.remote >= REMOTE_BOOKINGS_MAX {
                    return false;
                }
                let hinted = prefill_load_hint.as_ref().map_or(0, |hint| hint.initial_effective_prefill_tokens);
                let blocks = token_sequence.clone().unwrap_or_default();
                self.add(Live {
                    request_id: event.request_id.clone(),
                    worker: event.worker,
                    prompt_tokens: blocks.len() as u64 * u64::from(self.block_size),
                    blocks,
                    private_blocks: 0,
                    prefill_tokens: if *track_prefill_tokens { hinted } else { 0 },
                    booked_at: now,
                    is_remote: true,
                });
                true
            }
            ActiveSequenceChange::MarkPrefillCompleted => {
                let Some(id) = known else { return false };
                self.mark_prefill_completed(id);
                true
            }
            // Only who booked a request may free it: a worker or router that repeats our id must not free ours.
            ActiveSequenceChange::Free => known.is_some_and(|id| self.live[&id].is_remote && self.free(id)),
        }
    }

    /// The load of a rank; all 0 for one without bookings.
    pub fn of(&self, worker: WorkerRank) -> RankLoad {
        self.ranks.get(&worker).map(|rank| rank.load).unwrap_or_default()
    }

    /// Leading blocks of a prompt that running requests of the rank have already.
    pub fn shared_blocks(&self, worker: WorkerRank, prompt: &Prompt) -> usize {
        let Some(rank) = self.ranks.get(&worker) else { return 0 };
        prompt.block_hashes.iter().take_while(|block| rank.blocks.contains_key(*block)).count()
    }

    /// Live bookings, remote ones included.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Nothing is booked.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    fn add(&mut self, live: Live) -> BookingId {
        let id = BookingId(self.next_id);
        self.next_id += 1;
        self.remote += usize::from(live.is_remote);
        let rank = self.ranks.entry(live.worker).or_default();
        rank.load.active_requests += 1;
        rank.load.active_prefill_tokens += live.prefill_tokens;
        rank.load.active_decode_blocks += live.private_blocks;
        for &block in &live.blocks {
            let count = rank.blocks.entry(block).or_insert(0);
            *count += 1;
            rank.load.active_decode_blocks += u64::from(*count == 1);
        }
        self.by_request.insert(live.request_id.clone(), id);
        self.live.insert(id, live);
        id
    }
}
