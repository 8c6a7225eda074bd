//! Whether the engine goes forward, and so whether a request that has to wait may tell its caller to wait on.
//!
//! A caller cannot tell a long prompt from a hang; the worker can: [`Engine::progress`] grows while the engine computes,
//! whatever it computes. While it does, each stream on which nothing else came gets a beat, and its caller waits. Once
//! it stands still for [`STILL_MAX`] the beats end, and the callers go elsewhere.

use crate::engine::Engine;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Silence on a stream after which a beat is due. A caller gives a stream up after five of these at least.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A look is good for so long: thousands of requests may wait, and the engine need not be asked for each.
const LOOK_FRESH: Duration = Duration::from_millis(200);

/// Longest time for which an engine that has work may stand still. Together with the caller's patience a hang is
/// noticed after nine seconds.
const STILL_MAX: Duration = Duration::from_secs(4);

/// The engine, as it was seen to move.
pub(crate) struct Vitals {
    engine: Arc<dyn Engine>,
    motion: Mutex<Motion>,
}

impl Vitals {
    /// An engine that has not been looked at.
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, motion: Mutex::default() }
    }

    /// Whether the engine goes forward at `now`, as far as a request can tell that has waited since `waits_since`.
    pub(crate) fn goes_forward(&self, waits_since: Instant, now: Instant) -> bool {
        let fresh = self.motion.lock().fresh(now);
        // Outside of the lock: an engine may take a lock of its own.
        let progress = fresh.unwrap_or_else(|| self.engine.progress());
        self.motion.lock().look(progress, waits_since, now)
    }
}

/// What was seen of a number that grows while there is motion.
#[derive(Clone, Copy, Debug, Default)]
struct Motion {
    seen: Option<(u64, Instant)>,
    looked_at: Option<Instant>,
}

impl Motion {
    /// The number, if the last look at it was just now.
    fn fresh(&self, now: Instant) -> Option<u64> {
        let looked_at = self.looked_at?;
        let (progress, _) = self.seen?;
        (now.saturating_duration_since(looked_at) < LOOK_FRESH).then_some(progress)
    }

    /// Takes a look. Nobody looks while all streams flow, so what stood still is measured from when the asker began to
    /// wait, too.
    fn look(&mut self, progress: u64, waits_since: Instant, now: Instant) -> bool {
        let moved_at = match self.seen {
            Some((before, moved_at)) if before == progress => moved_at,
            _ => now,
        };
        if self.fresh(now).is_none() {
            self.looked_at = Some(now);
        }
        self.seen = Some((progress, moved_at));
        now.saturating_duration_since(moved_at.max(waits_since)) < STILL_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each second from `waits_since` on; gives the seconds in which a beat is due. `progress` is the engine's
    /// number by the second.
    fn beats(waits_since: u64, until: u64, progress: impl Fn(u64) -> u64) -> Vec<u64> {
        let (start, mut motion) = (Instant::now(), Motion::default());
        let second = |s: u64| start + Duration::from_secs(s);
        (waits_since + 1..=until).filter(|&s| motion.look(progress(s), second(waits_since), second(s))).collect()
    }

    #[test]
    fn a_prompt_of_half_a_million_tokens_beats_through_an_hour_of_prefill() {
        // Steps of 512 tokens at 140 tokens a second: one every 3.7 s, and processor time all the while.
        assert_eq!(beats(0, 3_600, |s| s).len(), 3_600);
        assert_eq!(beats(0, 3_600, |s| s * 10 / 37).len(), 3_600, "steps alone are enough at this pace");
    }

    #[test]
    fn a_request_that_waits_behind_others_beats_while_they_go_forward() {
        // The engine makes a token of somebody else's answer every two seconds.
        assert_eq!(beats(0, 600, |s| s / 2).len(), 600);
    }

    #[test]
    fn a_slow_decode_of_a_token_in_three_seconds_beats_in_between() {
        assert_eq!(beats(0, 600, |s| s / 3).len(), 600);
    }

    #[test]
    fn an_engine_that_stands_still_beats_for_four_seconds_more() {
        assert_eq!(beats(0, 60, |_| 7), [1, 2, 3, 4]);
        assert_eq!(beats(0, 60, |s| s.min(20)).last(), Some(&23));
        assert_eq!(
            beats(0, 60, |s| if s < 30 { 1 } else { 2 }),
            [1, 2, 3, 4, 30, 31, 32, 33],
            "and again when it moves"
        );
    }

    #[test]
    fn an_engine_that_was_idle_for_an_hour_has_its_time_to_begin() {
        let (start, mut motion) = (Instant::now(), Motion::default());
        let second = |s: u64| start + Duration::from_secs(s);
        assert!(motion.look(5, second(0), second(1)));
        assert!(motion.look(5, second(3_600), second(3_601)), "it waits for a second only");
        assert!(!motion.look(5, second(3_600), second(3_604)));
    }
}
