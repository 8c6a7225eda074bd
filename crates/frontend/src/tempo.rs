//! Which worker is much slower than its peers, and what follows from it. Pure: clock and dice are arguments.
//!
//! A worker whose GPU throttles or retries memory answers every ping and makes tokens, ten times as slowly as the rest:
//! no fault, and each request sent there suffers. So the time that a token takes is compared over the workers of one
//! model. An outlier, by the median absolute deviation, gets its share of requests divided by how much slower it is;
//! one that stays five times slower gets none for a while, unless that would leave too few. It comes back by itself.

use std::time::Duration;
use tokio::time::Instant;

/// After this time a sample counts half.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// Fewer tokens, decayed, say nothing.
const TOKENS_MIN: f64 = 8.0;
/// A token that is faster than this is as fast as any: below are timers, not engines.
const TOKEN_SECONDS_MIN: f64 = 0.002;
/// Deviations beyond which a value is an outlier; the usual limit for the modified z-score.
const DEVIATIONS: f64 = 3.5;
/// Makes a median absolute deviation comparable to a standard deviation.
const MAD_SCALE: f64 = 1.4826;
/// Least deviation, as a share of the median: equal workers have none, and none would make each an outlier.
const DEVIATION_MIN: f64 = 0.1;
/// An outlier is at least so many times slower: other batches and other prompts alone make a factor.
const SLOW_FROM: f64 = 2.0;
/// From here on a worker may get nothing.
const EJECT_FROM: f64 = 5.0;
/// Looks in a row, one a second, before it does.
const EJECT_LOOKS: u32 = 3;
/// Time without requests; doubles each time.
const EJECTED_FIRST: Duration = Duration::from_secs(10);
const EJECTED_MAX: Duration = Duration::from_secs(300);
/// At most this share of the workers gets nothing; so of three and fewer none.
const EJECTED_SHARE_MAX: f64 = 0.3;
/// A verdict that nothing new supports is dropped after this time.
const VERDICT_KEPT: Duration = Duration::from_secs(30);
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time that a token takes at one worker, recent ones counting more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tempo {
    tokens: f64,
    seconds: f64,
    at: Option<Instant>,
}

impl Tempo {
    /// `tokens` of one stream came within `took`.
    pub(crate) fn add(&mut self, tokens: u64, took: Duration, now: Instant) {
        let left = self.left(now);
        self.tokens = self.tokens * left + tokens as f64;
        self.seconds = self.seconds * left + took.as_secs_f64();
        self.at = Some(now);
    }

    /// Seconds a token; `None` while too little is known.
    fn seconds_per_token(&self, now: Instant) -> Option<f64> {
        (self.tokens * self.left(now) >= TOKENS_MIN).then(|| (self.seconds / self.tokens).max(TOKEN_SECONDS_MIN))
    }

    /// What is left of the samples.
    fn left(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let age = now.saturating_duration_since(at).as_secs_f64();
        (-age / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// By how much each is slower than the median, 1 for all that are no outliers. Needs two at least to say anything.
fn slowness(seconds_per_token: &[f64]) -> Vec<f64> {
    let middle = lower_median(seconds_per_token.to_vec());
    let off: Vec<f64> = seconds_per_token.iter().map(|seconds| (seconds - middle).abs()).collect();
    let deviation = (MAD_SCALE * lower_median(off)).max(DEVIATION_MIN * middle);
    let of = |seconds: &f64| {
        let ratio = seconds / middle;
        if ratio >= SLOW_FROM && (seconds - middle) / deviation > DEVIATIONS { ratio } else { 1.0 }
    };
    seconds_per_token.iter().map(of).collect()
}

/// Of two in the middle the lower one: of two workers the faster is the measure.
fn lower_median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// What is thought of one worker's speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) tempo: Tempo,
    slowness: f64,
    judged_at: Option<Instant>,
    bad_looks: u32,
    ejected_until: Option<Instant>,
    ejections: u32,
}

impl Default for Standing {
    fn default() -> Self {
        let tempo = Tempo::default();
        Self { tempo, slowness: 1.0, judged_at: None, bad_looks: 0, ejected_until: None, ejections: 0 }
    }
}

impl Standing {
    /// Whether the worker takes part in a choice; `dice` is in 0..1.
    pub(crate) fn takes_part(&self, now: Instant, dice: f64) -> bool {
        !self.is_ejected(now) && dice * self.slowness < 1.0
    }

    /// Whether it takes part in every choice.
    pub(crate) fn is_usual(&self, now: Instant) -> bool {
        self.slowness == 1.0 && !self.is_ejected(now)
    }

    /// In a word, for the status page; `None` when it is as fast as the others.
    pub(crate) fn word(&self, now: Instant) -> Option<&'static str> {
        match (self.is_ejected(now), self.slowness > 1.0) {
            (true, _) => Some("too slow"),
            (false, true) => Some("slow"),
            (false, false) => None,
        }
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// Takes a look at all workers of one model. Gives those that get nothing from now on, as indices.
pub(crate) fn look(workers: &mut [&mut Standing], now: Instant) -> Vec<usize> {
    let known: Vec<(usize, f64)> = workers
        .iter()
        .enumerate()
        .filter_map(|(at, worker)| Some((at, worker.tempo.seconds_per_token(now)?)))
        .collect();
    if known.len() >= 2 {
        let seconds: Vec<f64> = known.iter().map(|&(_, seconds)| seconds).collect();
        for (&(at, _), slowness) in known.iter().zip(slowness(&seconds)) {
            let worker = &mut *workers[at];
            (worker.slowness, worker.judged_at) = (slowness, Some(now));
            worker.bad_looks = if slowness >= EJECT_FROM { worker.bad_looks + 1 } else { 0 };
            if slowness == 1.0 {
                worker.ejections = 0;
            }
        }
    }
    for worker in workers.iter_mut() {
        let old =
            |at: Instant| now.saturating_duration_since(at.max(worker.ejected_until.unwrap_or(at))) >= VERDICT_KEPT;
        if worker.judged_at.is_some_and(old) {
            (worker.slowness, worker.judged_at, worker.bad_looks) = (1.0, None, 0);
        }
    }
    eject(workers, now)
}

fn eject(workers: &mut [&mut Standing], now: Instant) -> Vec<usize> {
    let most = (workers.len() as f64 * EJECTED_SHARE_MAX) as usize;
    let mut room = most.saturating_sub(workers.iter().filter(|worker| worker.is_ejected(now)).count());
    let mut ejected = Vec::new();
    let mut worst: Vec<usize> = (0..workers.len()).filter(|&at| workers[at].bad_looks >= EJECT_LOOKS).collect();
    worst.sort_by(|&a, &b| workers[b].slowness.total_cmp(&workers[a].slowness));
    for at in worst {
        if room == 0 {
            break;
        }
        room -= 1;
        let worker = &mut *workers[at];
        let time = (EJECTED_FIRST * 2u32.pow(worker.ejections.min(10))).min(EJECTED_MAX);
        worker.ejected_until = Some(now + time);
        worker.ejections += 1;
        // What it does when it comes back is judged anew; until then it keeps its small share.
        (worker.tempo, worker.bad_looks) = (Tempo::default(), 0);
        ejected.push(at);
    }
    ejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_is_found_by_its_deviation_and_equal_workers_have_none() {
        //     seconds a token                      by how much slower
        let table: &[(&[f64], &[f64])] = &[
            (&[0.02, 0.02, 0.02, 0.2], &[1.0, 1.0, 1.0, 10.0]),
            (&[0.02, 0.2], &[1.0, 10.0]),
            (&[0.02, 0.025, 0.03, 0.019], &[1.0; 4]),
            // Twice as slow among workers that differ anyway.
            (&[0.02, 0.03, 0.04, 0.05], &[1.0; 4]),
            (&[0.02, 0.03, 0.04, 0.5], &[1.0, 1.0, 1.0, 0.5 / 0.03]),
            // Two kinds of machines: neither half is an outlier of the other.
            (&[0.02, 0.02, 0.06, 0.06, 0.06], &[1.0; 5]),
            (&[0.02, 0.02, 0.021, 0.3, 0.25], &[1.0, 1.0, 1.0, 0.3 / 0.021, 0.25 / 0.021]),
        ];
        for (seconds, expected) in table {
            assert_eq!(slowness(seconds), *expected, "{seconds:?}");
        }
    }

    /// `workers` seconds a token each, 20 tokens a second of samples, for `seconds`; looks once a second. Samples of a
    /// worker come only as often as it takes part. Gives each worker's share of the last ten seconds' choices.
    fn shares(standings: &mut [Standing], start: Instant, seconds: std::ops::Range<u64>, speeds: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; speeds.len()];
        for second in seconds.clone() {
            let now = start + Duration::from_secs(second);
            for ((standing, &speed), share) in standings.iter_mut().zip(speeds).zip(&mut shares) {
                let parts = (0..100).filter(|dice| standing.takes_part(now, f64::from(*dice) / 100.0)).count();
                if parts > 0 {
                    standing.tempo.add(20, Duration::from_secs_f64(speed * 20.0), now);
                }
                if second + 10 >= seconds.end {
                    *share += parts as f64 / 1000.0;
                }
            }
            look(&mut standings.iter_mut().collect::<Vec<_>>(), now);
        }
        shares
    }

    #[test]
    fn of_three_the_slow_one_gets_a_tenth_and_is_never_without_work() {
        let (mut standings, start) = (vec![Standing::default(); 3], Instant::now());
        let shares = shares(&mut standings, start, 0..60, &[0.02, 0.02, 0.2]);
        assert!((shares[2] - 0.1).abs() < 0.011, "{shares:?}");
        assert!(shares[..2].iter().all(|share| (share - 1.0).abs() < 1e-9), "{shares:?}");
    }

    #[test]
    fn of_ten_at_most_three_get_nothing_and_they_come_back_when_they_are_well() {
        let (mut standings, start) = (vec![Standing::default(); 10], Instant::now());
        let slow: Vec<f64> = (0..10).map(|at| if at < 4 { 0.4 } else { 0.02 }).collect();
        shares(&mut standings, start, 0..4, &slow);
        let now = start + Duration::from_secs(4);
        assert_eq!(standings.iter().filter(|standing| standing.is_ejected(now)).count(), 3);
        assert!(standings[4..].iter().all(|standing| standing.is_usual(now)));
        let last = shares(&mut standings, start, 4..120, &slow);
        assert!(last[..4].iter().sum::<f64>() < 1.0, "{last:?}");
        let well = shares(&mut standings, start, 120..800, &[0.02; 10]);
        assert!(well.iter().all(|&share| (share - 1.0).abs() < 1e-9), "{well:?}");
    }

    #[test]
    fn a_verdict_without_new_samples_is_dropped() {
        let (mut standings, start) = (vec![Standing::default(); 3], Instant::now());
        shares(&mut standings, start, 0..2, &[0.02, 0.02, 0.2]);
        let word = |standings: &[Standing], second| standings[2].word(start + Duration::from_secs(second));
        assert_eq!(word(&standings, 2), Some("slow"));
        for second in 2..60 {
            look(&mut standings.iter_mut().collect::<Vec<_>>(), start + Duration::from_secs(second));
        }
        assert_eq!(word(&standings, 60), None);
    }

    #[test]
    fn a_worker_alone_or_with_few_tokens_is_not_judged() {
        let (mut one, start) = (Standing::default(), Instant::now());
        one.tempo.add(1_000, Duration::from_secs(1_000), start);
        look(&mut [&mut one], start);
        assert!(one.is_usual(start));
        let mut few = [one, Standing::default()];
        few[1].tempo.add(7, Duration::from_millis(7), start);
        look(&mut few.iter_mut().collect::<Vec<_>>(), start);
        assert!(few.iter().all(|standing| standing.is_usual(start)));
    }
}
