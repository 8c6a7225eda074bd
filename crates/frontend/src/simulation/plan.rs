//! What a seed means. Pure: the same number, the same plan.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use runtime::world::Weather;
use std::time::Duration;
use worker::engine::mock::{MockConfig, Timing};

/// Requests and faults begin within this time; streams run on.
const SPAN_MS: u64 = 8_000;

/// Faults under which no request may fail, as long as one worker is never touched: the migration limit. Each fault can
/// cost a request one attempt.
const FAULTS_WITHOUT_ERRORS_MAX: usize = crate::config::MIGRATION_LIMIT as usize;

/// Everything that happens.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) weather: Weather,
    pub(super) frontends: usize,
    /// By worker: how long one step of its engine takes.
    pub(super) step_times: Vec<Duration>,
    pub(super) engine: MockConfig,
    pub(super) requests: Vec<Request>,
    /// In the order of their times.
    pub(super) faults: Vec<(Duration, Fault)>,
    pub(super) events: EventLosses,
    /// No request may fail: worker 0 is never touched, and the others not too often.
    pub(super) no_error_allowed: bool,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) at: Duration,
    pub(super) frontend: usize,
    pub(super) is_chat: bool,
    pub(super) prompt: String,
    pub(super) max_tokens: u32,
    pub(super) is_streamed: bool,
    pub(super) n: u32,
    pub(super) seed: Option<i64>,
    /// When the client leaves, counted from its beginning.
    pub(super) leaves_after: Option<Duration>,
    /// The worker that it names.
    pub(super) pinned: Option<u64>,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9; the records expire after a while.
    Kill { worker: usize, expires_in: Duration },
    /// SIGTERM.
    Leave { worker: usize },
    /// A new process in the place of one that was killed or left, at its port or at another.
    Start { worker: usize, same_port: bool },
    /// SIGSTOP, and SIGCONT after a while.
    Freeze { worker: usize, lasts: Duration },
    /// Every connection between the two breaks.
    Cut { frontend: usize, worker: usize },
    /// Nothing arrives in one direction for a while.
    Hold { frontend: usize, worker: usize, towards_worker: bool, lasts: Duration },
    /// The worker's records are gone for a while, though it is well.
    Expire { frontend: usize, worker: usize, lasts: Duration },
}

/// How KV events suffer on their way; one message in so many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventLosses {
    pub(super) lost_one_in: Option<u32>,
    pub(super) twice_one_in: Option<u32>,
}

impl EventLosses {
    pub(super) fn any(self) -> bool {
        self.lost_one_in.is_some() || self.twice_one_in.is_some()
    }
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let workers = rng.random_range(1..=5);
        let frontends = rng.random_range(1..=2);
        let one_in = |rng: &mut SmallRng| rng.random_bool(0.4).then(|| rng.random_range(2..=8));
        let calm = rng.random_bool(0.6);
        let faults = faults(rng, frontends, workers, calm);
        Self {
            seed,
            weather: weather(rng),
            frontends,
            step_times: step_times(rng, workers),
            engine: engine(rng),
            requests: requests(rng, frontends),
            events: EventLosses { lost_one_in: one_in(rng), twice_one_in: one_in(rng) },
            no_error_allowed: calm,
            faults,
        }
    }
}

fn weather(rng: &mut SmallRng) -> Weather {
    let delay_ms_max = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..=20) };
    let piece_bytes_max = if rng.random_bool(0.7) { usize::MAX } else { rng.random_range(16..=512) };
    Weather { delay_ms_max, piece_bytes_max }
}

/// Steps of 1 to 20 ms; in one deployment of four, one worker is ten times slower than it would be.
fn step_times(rng: &mut SmallRng, workers: usize) -> Vec<Duration> {
    let mut times: Vec<u64> = (0..workers).map(|_| rng.random_range(1..=20)).collect();
    if rng.random_bool(0.25) {
        let slow = rng.random_range(0..workers);
        times[slow] *= 10;
    }
    times.into_iter().map(Duration::from_millis).collect()
}

/// Small pools, so that blocks are evicted and sequences preempted. All workers have the same: they serve one model.
fn engine(rng: &mut SmallRng) -> MockConfig {
    MockConfig {
        block_size: 8,
        total_kv_blocks: rng.random_range(48..=256),
        max_num_seqs: rng.random_range(2..=16),
        max_num_batched_tokens: rng.random_range(32..=512),
        context_length: 256,
        seed: rng.random(),
        // Printable characters: a token is a byte of the text.
        tokens: vec![32..=126],
        timing: Timing::Instant,
        ..MockConfig::default()
    }
}

fn requests(rng: &mut SmallRng, frontends: usize) -> Vec<Request> {
    let prefixes: Vec<String> = (0..rng.random_range(1..=4)).map(|_| letters(rng, 24..=80)).collect();
    let count = rng.random_range(10..=60);
    let mut requests: Vec<Request> = (0..count)
        .map(|_| {
            let prefix = &prefixes[rng.random_range(0..prefixes.len())];
            Request {
                at: within_span(rng),
                frontend: rng.random_range(0..frontends),
                is_chat: rng.random_bool(0.5),
                prompt: format!("{prefix}{}", letters(rng, 1..=40)),
                max_tokens: rng.random_range(1..=48),
                is_streamed: rng.random_bool(0.7),
                n: if rng.random_bool(0.08) { 2 } else { 1 },
                seed: rng.random_bool(0.2).then(|| rng.random_range(0..100)),
                leaves_after: rng.random_bool(0.15).then(|| Duration::from_millis(rng.random_range(0..600))),
                pinned: None,
            }
        })
        .collect();
    requests.sort_by_key(|request| request.at);
    requests
}

/// In a calm plan worker 0 is left alone and the rest has few faults; in the others anything goes.
fn faults(rng: &mut SmallRng, frontends: usize, workers: usize, calm: bool) -> Vec<(Duration, Fault)> {
    let first = usize::from(calm);
    if first >= workers {
        return Vec::new();
    }
    let count = rng.random_range(0..=if calm { FAULTS_WITHOUT_ERRORS_MAX } else { 8 });
    let mut faults = Vec::new();
    for _ in 0..count {
        let (at, worker) = (within_span(rng), rng.random_range(first..workers));
        let frontend = rng.random_range(0..frontends);
        let seconds = |rng: &mut SmallRng, most: u64| Duration::from_millis(rng.random_range(50..=most * 1_000));
        let fault = match rng.random_range(0..7) {
            0 | 1 => Fault::Kill { worker, expires_in: seconds(rng, 10) },
            2 => Fault::Leave { worker },
            3 => Fault::Freeze { worker, lasts: seconds(rng, 20) },
            4 => Fault::Cut { frontend, worker },
            5 => Fault::Hold { frontend, worker, towards_worker: rng.random_bool(0.5), lasts: seconds(rng, 10) },
            _ => Fault::Expire { frontend, worker, lasts: seconds(rng, 10) },
        };
        faults.push((at, fault));
        if matches!(fault, Fault::Kill { .. } | Fault::Leave { .. }) && rng.random_bool(0.7) {
            let same_port = rng.random_bool(0.5);
            faults.push((at + seconds(rng, 3), Fault::Start { worker, same_port }));
        }
    }
    faults.sort_by_key(|&(at, _)| at);
    faults
}

fn within_span(rng: &mut SmallRng) -> Duration {
    Duration::from_millis(rng.random_range(0..SPAN_MS))
}

fn letters(rng: &mut SmallRng, length: std::ops::RangeInclusive<usize>) -> String {
    (0..rng.random_range(length)).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}
