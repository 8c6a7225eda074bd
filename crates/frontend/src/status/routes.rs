//! The last placements and why they were made.

use crate::models::ServedModel;
use parking_lot::Mutex;
use router::Placement;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Placements that are remembered: a screenful and some scrolling.
pub(crate) const ROUTES_MAX: usize = 50;

/// One placement, as the page shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Route {
    at_ms: u64,
    model: String,
    request_id: String,
    /// 1, or more after a migration.
    attempt: u32,
    mode: &'static str,
    worker_id: String,
    dp_rank: u32,
    prompt_tokens: usize,
    cached_tokens: u64,
    best_cached_tokens: u64,
    candidates: usize,
    cost: Option<f64>,
    /// The cheapest candidates, the chosen one first.
    why: Vec<Reason>,
}

/// One candidate of a placement.
#[derive(Clone, Debug, Serialize)]
struct Reason {
    worker_id: String,
    dp_rank: u32,
    cost: f64,
    /// The parts of the cost, blocks; see `router::cost::CostParts`.
    prefill_blocks: f64,
    credit_blocks: f64,
    decode_blocks: f64,
    request_blocks: f64,
    copy_blocks: f64,
    cached_blocks: u32,
    active_requests: u64,
    active_blocks: u64,
    waiting_prefill_tokens: u64,
}

impl Route {
    pub(crate) fn new(
        model: &ServedModel,
        request_id: &str,
        attempt: u32,
        prompt_tokens: usize,
        placement: &Placement,
    ) -> Self {
        let reason = |row: &router::select::Explained| Reason {
            worker_id: row.worker.worker_id.to_string(),
            dp_rank: row.worker.dp_rank,
            cost: row.cost.total,
            prefill_blocks: row.cost.prefill_blocks,
            credit_blocks: row.cost.credit_blocks,
            decode_blocks: row.cost.decode_blocks,
            request_blocks: row.cost.request_blocks,
            copy_blocks: row.cost.copy_blocks,
            cached_blocks: row.cached.total(),
            active_requests: row.load.active_requests,
            active_blocks: row.load.active_decode_blocks,
            waiting_prefill_tokens: row.load.active_prefill_tokens,
        };
        Self {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            model: model.name.clone(),
            request_id: request_id.to_owned(),
            attempt,
            mode: placement.mode.name(),
            worker_id: placement.worker.worker_id.to_string(),
            dp_rank: placement.worker.dp_rank,
            prompt_tokens,
            cached_tokens: placement.cached_tokens,
            best_cached_tokens: placement.best_cached_tokens,
            candidates: placement.candidates,
            cost: placement.cost,
            why: placement.why.iter().map(reason).collect(),
        }
    }
}

/// The last [`ROUTES_MAX`] placements.
#[derive(Debug, Default)]
pub(crate) struct RouteBoard {
    routes: Mutex<VecDeque<Route>>,
}

impl RouteBoard {
    pub(crate) fn record(&self, route: Route) {
        let mut routes = self.routes.lock();
        let oldest = if routes.len() >= ROUTES_MAX { routes.pop_front() } else { None };
        routes.push_back(route);
        drop(routes);
        // Freed outside the lock.
        drop(oldest);
    }

    /// Newest first.
    pub(crate) fn latest(&self) -> Vec<Route> {
        self.routes.lock().iter().rev().cloned().collect()
    }
}
