//! Bookings of other routers, told by events, so that several routers do not all choose the worker that each of them
//! alone believes to be idle.
//!
//! A booking is known by its router and its request: a client that asks again elsewhere under the same id has two. What
//! is told twice counts once, and only the router that booked may free. A router that is gone, or of which an event was
//! missed, is forgotten as a whole ([`Loads::forget_router`]): too little load for the seconds that its requests last is
//! better than load that never ends.
//!
//! Source: Dynamo 1.6.1 on the wire, §5.3, `active_sequences_events`.

use super::{BookingId, Live, Loads, Told};
use hashbrown::HashMap;
use protocol::events::{ActiveSequenceChange, ActiveSequenceEvent};
use std::time::Duration;

/// Bookings that other routers may bring: their number is not ours to limit, their memory here is. What comes beyond
/// is not counted as load.
pub const REMOTE_BOOKINGS_MAX: usize = 65_536;
/// Blocks of all these bookings together: 8 bytes each here and about 24 in the ranks' counts, so some 32 MB at most;
/// 1,000 requests of 16k tokens in blocks of 16.
pub const REMOTE_BLOCKS_MAX: usize = 1 << 20;
/// Age at which such a booking ends by itself, because its end was not told: the longest life of a request by default.
pub const REMOTE_AGE_MAX: Duration = Duration::from_secs(600);
/// How often ages are looked at: all bookings are walked, so not at each event.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Longest request id taken over; stock's are UUIDs of 36 bytes.
const REQUEST_ID_BYTES_MAX: usize = 256;
/// Most prompt tokens to compute that one event may claim: more than any context, and no sum of them overflows.
const TOLD_TOKENS_MAX: u64 = 1 << 32;
/// The partial block at the end of a prompt, which events do not tell, or the first of its answer.
const UNTOLD_BLOCKS: u64 = 1;

/// Who told what.
#[derive(Debug, Default)]
pub(super) struct RemoteBookings {
    /// By router, then request. A router without bookings is not in it.
    routers: HashMap<u64, HashMap<String, BookingId>>,
    count: usize,
    blocks: usize,
    expire_at: Duration,
}

impl RemoteBookings {
    fn find(&self, router_id: u64, request_id: &str) -> Option<BookingId> {
        self.routers.get(&router_id)?.get(request_id).copied()
    }

    fn has_room(&self, request_id: &str, blocks: usize) -> bool {
        self.count < REMOTE_BOOKINGS_MAX
            && self.blocks + blocks <= REMOTE_BLOCKS_MAX
            && request_id.len() <= REQUEST_ID_BYTES_MAX
    }

    fn insert(&mut self, router_id: u64, request_id: &str, id: BookingId, blocks: usize) {
        self.routers.entry(router_id).or_default().insert(request_id.to_owned(), id);
        self.count += 1;
        self.blocks += blocks;
    }

    /// Forgets who told a booking that ends.
    pub(super) fn remove(&mut self, router_id: u64, request_id: &str, blocks: usize) {
        let Some(router) = self.routers.get_mut(&router_id) else { return };
        if router.remove(request_id).is_some() {
            self.count -= 1;
            self.blocks -= blocks;
        }
        if router.is_empty() {
            self.routers.remove(&router_id);
        }
    }
}

impl Loads {
    /// Applies what another router or a worker says at `now`; `own_router_id` marks our own echo. True if it changed a
    /// booking.
    pub fn apply(&mut self, event: &ActiveSequenceEvent, own_router_id: u64, now: Duration) -> bool {
        if event.router_id == own_router_id {
            return false;
        }
        self.expire_if_due(now);
        match &event.data {
            ActiveSequenceChange::AddRequest { .. } => self.add_told(event, now),
            // A worker speaks of requests, whoever booked them.
            ActiveSequenceChange::MarkPrefillCompleted if event.router_id == event.worker.worker_id.0 => {
                self.prefill_completed_at(event)
            }
            ActiveSequenceChange::MarkPrefillCompleted => {
                let known = self.remote.find(event.router_id, &event.request_id);
                known.inspect(|&id| self.mark_prefill_completed(id)).is_some()
            }
            ActiveSequenceChange::Free => {
                let known = self.remote.find(event.router_id, &event.request_id);
                known.is_some_and(|id| self.free(id))
            }
        }
    }

    /// Ends every booking of a router that is gone, or whose ends may have been missed; returns how many.
    pub fn forget_router(&mut self, router_id: u64) -> usize {
        let Some(bookings) = self.remote.routers.get(&router_id) else { return 0 };
        let ids: Vec<BookingId> = bookings.values().copied().collect();
        ids.iter().filter(|&&id| self.free(id)).count()
    }

    /// Bookings of other routers.
    pub fn remote_len(&self) -> usize {
        self.remote.count
    }

    fn add_told(&mut self, event: &ActiveSequenceEvent, now: Duration) -> bool {
        let ActiveSequenceChange::AddRequest { token_sequence, track_prefill_tokens, prefill_load_hint, .. } =
            &event.data
        else {
            return false;
        };
        if let Some(known) = self.remote.find(event.router_id, &event.request_id) {
            if self.live.get(&known).is_some_and(|live| live.worker == event.worker) {
                return false;
            }
            // It goes on at another worker, and the end at the first one was missed.
            self.free(known);
        }
        let blocks = token_sequence.clone().unwrap_or_default();
        if !self.remote.has_room(&event.request_id, blocks.len()) {
            return false;
        }
        let hinted = prefill_load_hint.as_ref().map_or(0, |hint| hint.initial_effective_prefill_tokens);
        let hinted = hinted.min(TOLD_TOKENS_MAX);
        let count = blocks.len();
        let id = self.add(Live {
            request_id: event.request_id.clone(),
            worker: event.worker,
            prompt_tokens: count as u64 * u64::from(self.block_size),
            blocks,
            private_blocks: UNTOLD_BLOCKS,
            prefill_tokens: if *track_prefill_tokens { hinted } else { 0 },
            told: Some(Told { router_id: event.router_id, at: now }),
        });
        self.remote.insert(event.router_id, &event.request_id, id, count);
        true
    }

    fn prefill_completed_at(&mut self, event: &ActiveSequenceEvent) -> bool {
        let told = self.remote.routers.values().filter_map(|bookings| bookings.get(&event.request_id));
        let ids: Vec<BookingId> = self.own.get(&event.request_id).into_iter().chain(told).copied().collect();
        let mut changed = false;
        for id in ids {
            if self.live.get(&id).is_some_and(|live| live.worker == event.worker) {
                self.mark_prefill_completed(id);
                changed = true;
            }
        }
        changed
    }

    /// Ends what other routers told longer than [`REMOTE_AGE_MAX`] ago.
    pub(super) fn expire_if_due(&mut self, now: Duration) {
        if now < self.remote.expire_at {
            return;
        }
        self.remote.expire_at = now + EXPIRE_EVERY;
        if self.remote.count == 0 {
            return;
        }
        let is_old = |live: &Live| live.told.is_some_and(|told| now.saturating_sub(told.at) > REMOTE_AGE_MAX);
        let old: Vec<BookingId> = self.live.iter().filter(|(_, live)| is_old(live)).map(|(&id, _)| id).collect();
        for id in old {
            self.free(id);
        }
    }
}
