//! The choice: candidates in, placement out, with its reasons.
//!
//! Ties go to the candidate with the fewest active requests, then the fewest active blocks; what is still equal is
//! decided by the caller's dice, so that equal workers share the load instead of one drawing the whole herd.

use crate::config::{RouterConfig, RouterMode};
use crate::copies::{Holder, copies};
use crate::cost::{CostContext, CostParts, Costed, cost};
use crate::index::{Overlaps, TierBlocks};
use crate::loads::{Loads, RankLoad};
use crate::prompt::Prompt;
use protocol::events::KvMetrics;
use protocol::ids::{InstanceId, WorkerRank};
use rand::Rng;

/// Candidates that a placement explains: the cheapest ones. More would cost more than the choice itself.
pub const EXPLAINED_MAX: usize = 8;

/// A worker rank that could serve. A worker that is dead or set aside is not in the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerView {
    /// The rank.
    pub worker: WorkerRank,
    /// Its KV blocks, if its card says so.
    pub total_kv_blocks: Option<u64>,
    /// Its tokens a step, if its card says so.
    pub max_num_batched_tokens: Option<u64>,
    /// What it last said of its load.
    pub reported: Option<KvMetrics>,
}

impl WorkerView {
    /// A rank of which nothing else is known.
    pub fn of(worker: WorkerRank) -> Self {
        Self { worker, total_kv_blocks: None, max_num_batched_tokens: None, reported: None }
    }
}

/// The worker that a request names itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The worker.
    pub worker_id: InstanceId,
    /// Its rank; any if absent.
    pub dp_rank: Option<u32>,
}

/// One request, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its prompt.
    pub prompt: &'a Prompt,
    /// Only these workers may serve it.
    pub allowed: Option<&'a [u64]>,
    /// These may not: they failed it already.
    pub excluded: &'a [InstanceId],
    /// This one must.
    pub pinned: Option<Pin>,
}

impl<'a> Request<'a> {
    /// A request that any worker may serve.
    pub fn of(prompt: &'a Prompt) -> Self {
        Self { prompt, allowed: None, excluded: &[], pinned: None }
    }
}

/// What is known of the workers when a request is placed.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Ranks that could serve, in any order.
    pub workers: &'a [WorkerView],
    /// Who has what of this prompt: [`crate::Index::overlap`]; empty in modes that do not look at the cache.
    pub overlaps: &'a Overlaps,
    /// Who is how busy.
    pub loads: &'a Loads,
}

/// Why a candidate costs what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explained {
    /// The candidate.
    pub worker: WorkerRank,
    /// Its load before this request.
    pub load: RankLoad,
    /// What it has of the prompt.
    pub cached: TierBlocks,
    /// Its cost, by parts.
    pub cost: CostParts,
}

/// The chosen worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Where the request goes.
    pub worker: WorkerRank,
    /// The rule that chose.
    pub mode: RouterMode,
    /// What it has of the prompt, at most what can be reused.
    pub cached: TierBlocks,
    /// The same in tokens.
    pub cached_tokens: u64,
    /// Most cached tokens on any candidate: what a choice by cache alone would have reused.
    pub best_cached_tokens: u64,
    /// Prompt tokens to compute: what to book.
    pub prefill_tokens: u64,
    /// Its cost; `None` in modes without one.
    pub cost: Option<f64>,
    /// Candidates in all.
    pub candidates: usize,
    /// The cheapest candidates, the chosen one first; at most [`EXPLAINED_MAX`].
    pub why: Vec<Explained>,
}

/// Nobody can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// There is no worker, or the ones that there are have failed this request already.
    #[error("no worker is there to take the request")]
    NoWorkers,
    /// Workers are there, but not the ones that the request allows or names.
    #[error("none of the workers that the request allows is there")]
    NoneAllowed,
    /// Direct mode, and the request names no worker.
    #[error("the router is in direct mode, but the request names no worker")]
    NotPinned,
    /// Every worker is over its busy threshold; try again later.
    #[error("every worker is over its busy threshold")]
    AllBusy,
}

/// Chooses a worker rank. `turn` is a counter that the caller raises by one a request: round-robin reads it, nothing
/// else. Pure: the same arguments and dice give the same placement.
///
/// # Errors
/// [`SelectError`], when no candidate is left.
pub fn select(
    config: &RouterConfig,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    turn: u64,
    rng: &mut impl Rng,
) -> Result<Placement, SelectError> {
    let candidates = eligible(config, request, snapshot)?;
    let rows = explain(config, request, &candidates, snapshot);
    let chosen = match config.mode {
        RouterMode::RoundRobin => (turn % rows.len() as u64) as usize,
        RouterMode::Random | RouterMode::Direct => below(rng, rows.len()),
        RouterMode::PowerOfTwo => power_of_two(&rows, rng),
        RouterMode::LeastLoaded => first_of(&rows, rng, |row| row.load.active_requests as f64),
        RouterMode::Kv if config.temperature > 0.0 => softmax(&rows, config.temperature, unit(rng)),
        RouterMode::Kv => first_of(&rows, rng, |row| row.cost.total),
    };
    Ok(placement(config, request, rows, chosen))
}

/// Workers that may take the request and are not busy, by rank.
fn eligible<'a>(
    config: &RouterConfig,
    request: &Request<'_>,
    snapshot: &Snapshot<'a>,
) -> Result<Vec<&'a WorkerView>, SelectError> {
    if config.mode == RouterMode::Direct && request.pinned.is_none() {
        return Err(SelectError::NotPinned);
    }
    let alive = |view: &&WorkerView| !request.excluded.contains(&view.worker.worker_id);
    let mut candidates: Vec<&WorkerView> = snapshot.workers.iter().filter(alive).collect();
    if candidates.is_empty() {
        return Err(SelectError::NoWorkers);
    }
    candidates.retain(|view| {
        let id = view.worker.worker_id;
        request.allowed.is_none_or(|allowed| allowed.contains(&id.0))
            && request.pinned.is_none_or(|pin| {
                pin.worker_id == id && pin.dp_rank.is_none_or(|dp_rank| dp_rank == view.worker.dp_rank)
            })
    });
    if candidates.is_empty() {
        return Err(SelectError::NoneAllowed);
    }
    candidates.retain(|view| !is_busy(config, view, snapshot.loads.of(view.worker)));
    if candidates.is_empty() {
        return Err(SelectError::AllBusy);
    }
    candidates.sort_unstable_by_key(|view| view.worker);
    Ok(candidates)
}

/// Whether a worker is over one of its thresholds, by our bookings or by what it says itself, whichever is more.
pub fn is_busy(config: &RouterConfig, view: &WorkerView, load: RankLoad) -> bool {
    let said = |field: fn(&KvMetrics) -> Option<u64>| view.reported.as_ref().and_then(field).unwrap_or(0);
    let decode_blocks = load.active_decode_blocks.max(said(|said| said.active_decode_blocks));
    let prefill_tokens = load.active_prefill_tokens.max(said(|said| said.active_prefill_tokens));
    let over_share = |share: Option<f64>, of: Option<u64>, value: u64| {
        share.zip(of).is_some_and(|(share, of)| value as f64 > share * of as f64)
    };
    over_share(config.active_decode_blocks_threshold, view.total_kv_blocks, decode_blocks)
        || over_share(config.active_prefill_tokens_threshold_frac, view.max_num_batched_tokens, prefill_tokens)
        || config.active_prefill_tokens_threshold.is_some_and(|most| prefill_tokens > most)
}

fn explain(
    config: &RouterConfig,
    request: &Request<'_>,
    candidates: &[&WorkerView],
    snapshot: &Snapshot<'_>,
) -> Vec<Explained> {
    let Snapshot { overlaps, loads, .. } = snapshot;
    let prompt = request.prompt;
    let reusable = u32::try_from(prompt.reusable_blocks()).unwrap_or(u32::MAX);
    let least = candidates.iter().map(|view| loads.of(view.worker).active_prefill_tokens).min();
    let context = CostContext {
        prompt_tokens: prompt.tokens as u64,
        block_size: prompt.block_size,
        least_prefill_tokens: least.unwrap_or(0),
    };
    let known = |view: &&WorkerView| {
        let (worker, load) = (view.worker, loads.of(view.worker));
        let shared = if config.assume_kv_reuse { loads.shared_blocks(worker, prompt) } else { 0 };
        let mut cached = overlaps.of(worker).first(reusable);
        if keeps_together(config) {
            // What a running request computes is cached before this one is looked at; its event comes later.
            cached.device += u32::try_from(shared).unwrap_or(u32::MAX).min(reusable).saturating_sub(cached.total());
        }
        let added_blocks = (prompt.blocks() - shared) as u64;
        (worker, Costed { load, cached, added_blocks, copies: 0.0 })
    };
    let mut known: Vec<(WorkerRank, Costed)> = candidates.iter().map(known).collect();
    if keeps_together(config) {
        let holder = |(_, costed): &(WorkerRank, Costed)| Holder { blocks: costed.cached.total(), load: costed.load };
        let holders: Vec<Holder> = known.iter().map(holder).collect();
        for ((_, costed), copies) in known.iter_mut().zip(copies(&holders)) {
            costed.copies = copies;
        }
    }
    let row = |(worker, costed): (WorkerRank, Costed)| {
        let (load, cached) = (costed.load, costed.cached);
        Explained { worker, load, cached, cost: cost(config, &context, &costed) }
    };
    known.into_iter().map(row).collect()
}

/// Whether the choice looks beyond Dynamo's formula, see [`crate::copies`].
fn keeps_together(config: &RouterConfig) -> bool {
    config.mode == RouterMode::Kv && config.copy_weight > 0.0
}

fn placement(config: &RouterConfig, request: &Request<'_>, mut rows: Vec<Explained>, chosen: usize) -> Placement {
    let block_size = u64::from(request.prompt.block_size);
    let tokens = |cached: TierBlocks| u64::from(cached.total()) * block_size;
    let best_cached_tokens = rows.iter().map(|row| tokens(row.cached)).max().unwrap_or(0);
    let candidates = rows.len();
    let row = rows.swap_remove(chosen);
    if rows.len() >= EXPLAINED_MAX {
        rows.select_nth_unstable_by(EXPLAINED_MAX - 1, |a, b| a.cost.total.total_cmp(&b.cost.total));
        rows.truncate(EXPLAINED_MAX - 1);
    }
    rows.sort_unstable_by(|a, b| a.cost.total.total_cmp(&b.cost.total).then(a.worker.cmp(&b.worker)));
    rows.insert(0, row);
    let cached_tokens = tokens(row.cached);
    Placement {
        worker: row.worker,
        mode: config.mode,
        cached: row.cached,
        cached_tokens,
        best_cached_tokens,
        prefill_tokens: (request.prompt.tokens as u64).saturating_sub(cached_tokens),
        cost: (config.mode == RouterMode::Kv).then_some(row.cost.total),
        candidates,
        why: rows,
    }
}

/// The candidate with the least key; ties as the module says.
fn first_of(rows: &[Explained], rng: &mut impl Rng, key: impl Fn(&Explained) -> f64) -> usize {
    let order = |a: &Explained, b: &Explained| {
        key(a).total_cmp(&key(b)).then_with(|| {
            let busy = |row: &Explained| (row.load.active_requests, row.load.active_decode_blocks);
            busy(a).cmp(&busy(b))
        })
    };
    let (mut best, mut equals) = (0, 1);
    for (at, row) in rows.iter().enumerate().skip(1) {
        match order(row, &rows[best]) {
            std::cmp::Ordering::Less => (best, equals) = (at, 1),
            std::cmp::Ordering::Equal => {
                // The k-th equal one replaces the choice with probability 1/k: each ends up equally likely.
                equals += 1;
                if below(rng, equals) == 0 {
                    best = at;
                }
            }
            std::cmp::Ordering::Greater => {}
        }
    }
    best
}

fn power_of_two(rows: &[Explained], rng: &mut impl Rng) -> usize {
    if rows.len() == 1 {
        return 0;
    }
    let one = below(rng, rows.len());
    // Any but `one`: step over it.
    let other = (one + 1 + below(rng, rows.len() - 1)) % rows.len();
    let busy = |at: usize| (rows[at].load.active_requests, rows[at].load.active_decode_blocks);
    if busy(other) < busy(one) { other } else { one }
}

/// Draws by softmax over the negated costs, which are scaled to their range. `dice` is in 0..1.
fn softmax(rows: &[Explained], temperature: f64, dice: f64) -> usize {
    let costs = || rows.iter().map(|row| row.cost.total);
    let (least, most) = costs().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), cost| (lo.min(cost), hi.max(cost)));
    let range = if most > least { most - least } else { 1.0 };
    let weights: Vec<f64> = costs().map(|cost| (-(cost - least) / range / temperature).exp()).collect();
    let mut left = dice * weights.iter().sum::<f64>();
    for (at, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return at;
        }
    }
    rows.len() - 1
}

/// A number below `bound`, which is over 0. The bias of the multiplication is below 2⁻³² for any number of workers.
fn below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// A number in 0..1.
fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
