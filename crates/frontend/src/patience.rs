//! How long a stream may be silent before its worker is given up. Pure: the clock is an argument.
//!
//! - A worker that promised beats sends one at least so often while its engine goes forward: it knows a long prompt, a
//!   long queue and a slow machine from a hang, the frontend does not have to. While it beats it is never given up;
//!   after five beats that did not come, and five seconds at least, it is.
//! - Of a stranger only its pace is known, learnt from its own first tokens: it may take three times as long as the
//!   prompts that it has to compute would, and thirty seconds at least. While other streams of the same worker bring
//!   something, the engine goes forward and the silent one waits on.
//! - Nobody may be without a new token for longer than the frontend's limit, beats or not.

use std::time::Duration;
use tokio::time::Instant;

/// Least silence of a worker that promised beats.
pub(crate) const BEATING_MIN: Duration = Duration::from_secs(5);
/// Beats that must be missing.
const BEATS_MISSED: u32 = 5;
/// Least silence of a stranger: preemption, a full batch ahead, a garbage collection of a Python process.
pub(crate) const STRANGER_MIN: Duration = Duration::from_secs(30);
/// How much longer than predicted a prompt may take. The prediction is an average, and neighbours share the machine.
const PREFILL_MARGIN: f64 = 3.0;
/// Prompts with fewer tokens to compute say nothing of the pace: the step's fixed costs outweigh them.
const PACE_TOKENS_MIN: u64 = 256;
/// Bounds of a believable pace, prompt tokens a second: a large model on one core, and more than any GPU does.
const PACE_RANGE: (f64, f64) = (1.0, 1e6);
/// Weight of a new sample of the pace. Samples contain the wait in the queue, so they err on the patient side.
const PACE_WEIGHT: f64 = 0.2;

/// How fast a worker computes prompts, as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace(Option<f64>);

impl Pace {
    /// A prompt with `tokens` to compute had its first token `after` it was sent.
    pub(crate) fn learn(&mut self, tokens: u64, after: Duration) {
        if tokens < PACE_TOKENS_MIN {
            return;
        }
        let sample = (tokens as f64 / after.as_secs_f64().max(1e-6)).clamp(PACE_RANGE.0, PACE_RANGE.1);
        self.0 = Some(self.0.map_or(sample, |pace| pace + PACE_WEIGHT * (sample - pace)));
    }

    /// How long `tokens` of prompts take; `None` while nothing is known.
    pub(crate) fn predict(self, tokens: u64) -> Option<Duration> {
        self.0.map(|pace| Duration::from_secs_f64(tokens as f64 / pace))
    }
}

/// What bounds one stream's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// The worker's promise, if it made one.
    pub(crate) beat_every: Option<Duration>,
    /// How long the prompts before the first token take, this one's included; `None` when that cannot be told.
    pub(crate) prefill: Option<Duration>,
    /// The first token is here.
    pub(crate) started: bool,
    /// Longest time without a token.
    pub(crate) token_timeout: Duration,
}

/// When was what heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Anything on this stream, beats included; its begin at first.
    pub(crate) stream: Instant,
    /// Tokens or an end on this stream; its begin at first.
    pub(crate) output: Instant,
    /// Tokens or an end on any stream of the worker.
    pub(crate) worker: Instant,
}

impl Patience {
    /// When the stream is given up if nothing more is heard.
    pub(crate) fn deadline(&self, heard: &Heard) -> Instant {
        let silence = match self.beat_every {
            Some(every) => heard.stream + BEATING_MIN.max(every.saturating_mul(BEATS_MISSED)),
            None => heard.stream.max(heard.worker) + self.of_a_stranger(),
        };
        silence.min(heard.output + self.token_timeout)
    }

    fn of_a_stranger(&self) -> Duration {
        match (self.started, self.prefill) {
            (true, _) => STRANGER_MIN,
            (false, Some(prefill)) => {
                prefill.mul_f64(PREFILL_MARGIN).clamp(STRANGER_MIN, self.token_timeout.max(STRANGER_MIN))
            }
            (false, None) => self.token_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    /// When a stream is given up on which something comes at `items` (s, whether it is output); `others` is when other
    /// streams of the worker bring something.
    fn given_up(patience: Patience, items: &[(f64, bool)], others: &[f64]) -> f64 {
        let start = Instant::now();
        let mut patience = patience;
        let mut heard = Heard { stream: start, output: start, worker: start };
        let mut events: Vec<(f64, Option<bool>)> = items.iter().map(|&(at, output)| (at, Some(output))).collect();
        events.extend(others.iter().map(|&at| (at, None)));
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (at, what) in events {
            let now = start + seconds(at);
            if patience.deadline(&heard) <= now {
                break;
            }
            match what {
                Some(output) => {
                    heard.stream = now;
                    if output {
                        (heard.output, heard.worker, patience.started) = (now, now, true);
                    }
                }
                None => heard.worker = now,
            }
        }
        // To the millisecond, so that sums of decimals can be compared.
        ((patience.deadline(&heard) - start).as_secs_f64() * 1e3).round() / 1e3
    }

    fn beating() -> Patience {
        Patience { beat_every: Some(seconds(1.0)), prefill: Some(seconds(1.0)), started: false, token_timeout: HOUR }
    }

    fn stranger(prefill: Option<f64>) -> Patience {
        Patience { beat_every: None, prefill: prefill.map(seconds), started: false, token_timeout: HOUR }
    }

    #[test]
    fn a_worker_is_never_given_up_while_it_beats_and_after_five_seconds_without_a_beat_it_is() {
        // A prompt of 500k tokens at 140 a second: no token for an hour, a beat each second.
        let beats: Vec<(f64, bool)> = (1..3_500).map(|s| (f64::from(s), false)).collect();
        assert_eq!(given_up(beating(), &beats, &[]), 3_499.0 + 5.0);
        // A machine so busy that only every fourth beat comes in time.
        let late: Vec<(f64, bool)> = (1..800).map(|s| (f64::from(s) * 4.4, false)).collect();
        assert_eq!(given_up(beating(), &late, &[]), 3_520.6);
        // The first token after 8.7 s, as it was seen on two busy cores.
        let first = [(1.0, false), (3.1, false), (7.9, false), (8.7, true)];
        assert_eq!(given_up(beating(), &first, &[]), 13.7);
        assert_eq!(given_up(beating(), &[], &[]), 5.0, "it hangs from the beginning");
        assert_eq!(given_up(beating(), &[], &[1.0, 2.0, 3.0, 4.0]), 5.0, "others do not count: it would have beaten");
    }

    #[test]
    fn a_worker_that_promised_fewer_beats_has_more_time() {
        let slow = Patience { beat_every: Some(seconds(3.0)), ..beating() };
        assert_eq!(given_up(slow, &[(3.0, false)], &[]), 18.0);
    }

    #[test]
    fn a_stranger_has_three_times_its_predicted_prefill_and_half_a_minute_at_least() {
        for (prefill, expected) in [(0.1, 30.0), (9.9, 30.0), (20.0, 60.0), (1_000.0, 3_000.0), (9_000.0, 3_600.0)] {
            assert_eq!(given_up(stranger(Some(prefill)), &[], &[]), expected, "{prefill}");
        }
        assert_eq!(given_up(stranger(None), &[], &[]), 3_600.0, "nothing is known: the frontend's own limit");
        assert_eq!(given_up(stranger(Some(100.0)), &[(200.0, true)], &[]), 230.0, "once it has begun, half a minute");
        let decode: Vec<(f64, bool)> = (1..50).map(|at| (f64::from(at) * 25.0, true)).collect();
        assert_eq!(given_up(stranger(Some(1.0)), &decode, &[]), 49.0 * 25.0 + 30.0, "a slow decode");
    }

    #[test]
    fn a_strangers_request_waits_behind_others_while_they_get_something() {
        let others: Vec<f64> = (1..40).map(|at| f64::from(at) * 29.0).collect();
        assert_eq!(given_up(stranger(Some(1.0)), &[], &others), 39.0 * 29.0 + 30.0);
    }

    #[test]
    fn nobody_is_without_a_token_for_longer_than_the_limit() {
        let limited = Patience { token_timeout: seconds(300.0), ..beating() };
        let beats: Vec<(f64, bool)> = (1..600).map(|s| (f64::from(s), false)).collect();
        assert_eq!(given_up(limited, &beats, &[]), 300.0);
        let limited = Patience { token_timeout: seconds(3.0), ..stranger(Some(1.0)) };
        assert_eq!(given_up(limited, &[], &[1.0, 2.0]), 3.0);
    }

    #[test]
    fn the_pace_is_learnt_from_prompts_that_are_long_enough() {
        let mut pace = Pace::default();
        pace.learn(255, seconds(0.001));
        assert_eq!(pace.predict(1_000), None);
        pace.learn(1_000, seconds(10.0));
        assert_eq!(pace.predict(1_000), Some(seconds(10.0)));
        pace.learn(1_000, seconds(1.0));
        let between = pace.predict(1_000).unwrap();
        assert!(between > seconds(2.0) && between < seconds(10.0), "{between:?}");
        pace.learn(1_000, Duration::ZERO);
        assert!(pace.predict(u64::from(u32::MAX)).unwrap() < HOUR * 24);
    }
}
