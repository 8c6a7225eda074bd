//! Bookings: the load that requests put on each worker rank from the moment they are placed.
//!
//! **Invariant:** the load of a rank is the sum of its live bookings, and freeing one takes away exactly what it
//! brought. A booking is made before its request is sent, so the next choice sees it.
//!
//! Our own bookings have a handle and end with it. Those of other routers are told by events, see [`remote`]: they end
//! by an event, with their router, or by age.

mod remote;

use crate::prompt::Prompt;
use hashbrown::HashMap;
use protocol::ids::{InstanceId, WorkerRank};
use protocol::kv::BlockHash;
use remote::RemoteBookings;
pub use remote::{REMOTE_AGE_MAX, REMOTE_BLOCKS_MAX, REMOTE_BOOKINGS_MAX};
use std::time::Duration;

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
    /// The router that told of it and when; absent for our own.
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    router_id: u64,
    at: Duration,
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
    /// Our own, by the id that workers speak of them with.
    own: HashMap<String, BookingId>,
    remote: RemoteBookings,
    ranks: HashMap<WorkerRank, RankBookings>,
}

impl Loads {
    /// No bookings. `block_size` is in tokens.
    pub fn new(block_size: u32) -> Self {
        Self { block_size: block_size.max(1), ..Self::default() }
    }

    /// Books a request at `now`, on the same clock as [`Loads::apply`]; what other routers told too long ago ends.
    pub fn book(&mut self, booking: Booking<'_>, now: Duration) -> BookingId {
        self.expire_if_due(now);
        let prompt = booking.prompt;
        let id = self.add(Live {
            request_id: booking.request_id.to_owned(),
            worker: booking.worker,
            blocks: prompt.block_hashes.clone(),
            private_blocks: (prompt.blocks() - prompt.block_hashes.len()) as u64,
            prompt_tokens: prompt.tokens as u64,
            prefill_tokens: booking.prefill_tokens,
            told: None,
        });
        self.own.insert(booking.request_id.to_owned(), id);
        id
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
        match live.told {
            Some(told) => self.remote.remove(told.router_id, &live.request_id, live.blocks.len()),
            // A second attempt of a request may be booked before the first one ends.
            None if self.own.get(&live.request_id) == Some(&id) => {
                self.own.remove(&live.request_id);
            }
            None => {}
        }
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

    /// Ends every booking on a worker that is gone; returns how many.
    pub fn remove_worker(&mut self, worker_id: InstanceId) -> usize {
        let ids: Vec<BookingId> =
            self.live.iter().filter(|(_, live)| live.worker.worker_id == worker_id).map(|(&id, _)| id).collect();
        ids.iter().filter(|&&id| self.free(id)).count()
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
        let rank = self.ranks.entry(live.worker).or_default();
        rank.load.active_requests += 1;
        rank.load.active_prefill_tokens += live.prefill_tokens;
        rank.load.active_decode_blocks += live.private_blocks;
        for &block in &live.blocks {
            let count = rank.blocks.entry(block).or_insert(0);
            *count += 1;
            rank.load.active_decode_blocks += u64::from(*count == 1);
        }
        self.live.insert(id, live);
        id
    }
}
