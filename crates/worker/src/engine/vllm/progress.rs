//! Whether a server that has work goes forward. Pure: the clock is an argument.
//!
//! `/health` says nothing here: a vLLM whose engine hangs answers it with 200. What counts is that tokens come, or that
//! the counters which the engine itself reports move.

use std::time::Duration;

/// Least silence that is taken for a hang: longer than a step of a healthy engine, a pause of its garbage collector
/// or a slow scrape.
pub(crate) const SILENCE_MIN: Duration = Duration::from_secs(5);

/// How much longer than predicted a prompt may take. The prediction is an average, and neighbours share the machine.
const PREFILL_MARGIN: f64 = 3.0;

/// Fewer computed prompt tokens than this say nothing of the pace.
const PACE_TOKENS_MIN: f64 = 1000.0;

/// Bounds of a believable pace, prompt tokens a second: a large model on one core, and more than any GPU does.
const PACE_RANGE: (f64, f64) = (1.0, 1e6);

/// The counters that only a living engine moves. They stand still when it hangs, whatever the API server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) iterations: u64,
    pub(crate) preemptions: u64,
    /// Part of the KV cache in use, 0 to 1: it grows with every chunk of a long prompt, when no token comes yet.
    pub(crate) kv_usage: f64,
}

/// What is seen at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Sequences of ours that are not over. Those of others do not count: the server's own number of them may be stale.
    pub(crate) in_flight: u32,
    /// Tokens that our sequences have brought since the start.
    pub(crate) tokens: u64,
    /// Prompt tokens that may have to be computed before anything moves.
    pub(crate) prefill_tokens: u64,
    /// As the server said last; `None` while it has not said any.
    pub(crate) counters: Option<Counters>,
}

/// The engine makes no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hung {
    /// How long nothing has moved.
    pub(crate) silent: Duration,
    /// How long nothing had to move.
    pub(crate) allowed: Duration,
}

/// Follows one server.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Prompt tokens a second.
    pace: f64,
    seen: Look,
    /// When something moved last, or the server was idle.
    moved: Duration,
    /// Most prompt tokens that were ahead since the engine gave a sign last. A step that computes a prompt goes on to
    /// its end when the prompt is not wanted any more, and who waits behind it waits for all of it.
    prefill_tokens: u64,
}

impl Progress {
    /// A server that has computed prompts at `pace` tokens a second, idle at `now` (any clock that only goes up).
    pub(crate) fn new(pace: f64, now: Duration) -> Self {
        Self { pace: pace.clamp(PACE_RANGE.0, PACE_RANGE.1), seen: Look::default(), moved: now, prefill_tokens: 0 }
    }

    /// Takes the server's own sums over all its prompts: `tokens` computed in `seconds`.
    pub(crate) fn learn(&mut self, tokens: f64, seconds: f64) {
        if tokens >= PACE_TOKENS_MIN && seconds > 0.0 {
            self.pace = (tokens / seconds).clamp(PACE_RANGE.0, PACE_RANGE.1);
        }
    }

    /// How long nothing has to move while `prefill_tokens` are computed.
    pub(crate) fn allowed(&self, prefill_tokens: u64) -> Duration {
        Duration::from_secs_f64(prefill_tokens as f64 / self.pace * PREFILL_MARGIN).max(SILENCE_MIN)
    }

    /// Takes a look at `now`.
    ///
    /// # Errors
    /// [`Hung`]: there was work all the time, and nothing moved for longer than it may.
    pub(crate) fn look(&mut self, look: Look, now: Duration) -> Result<(), Hung> {
        let counted = look.counters.is_some() && look.counters != self.seen.counters;
        let sign = counted || look.tokens != self.seen.tokens;
        if sign || self.seen.in_flight == 0 || look.in_flight == 0 {
            self.moved = now;
        }
        self.prefill_tokens = look.prefill_tokens.max(if sign { 0 } else { self.prefill_tokens });
        // A server that stops answering has not moved, and does not move by answering the same again.
        let counters = look.counters.or(self.seen.counters);
        self.seen = Look { counters, ..look };
        let hung = Hung { silent: now.saturating_sub(self.moved), allowed: self.allowed(self.prefill_tokens) };
        if hung.silent >= hung.allowed { Err(hung) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(in_flight: u32, tokens: u64, prefill_tokens: u64, iterations: Option<u64>) -> Look {
        let counters = iterations.map(|iterations| Counters { iterations, ..Counters::default() });
        Look { in_flight, tokens, prefill_tokens, counters }
    }

    /// Looks at these times (s); gives the time at which the server counts as hung.
    fn hung_at(pace: f64, looks: &[(f64, Look)]) -> Option<f64> {
        let mut progress = Progress::new(pace, Duration::ZERO);
        looks.iter().find_map(|&(at, look)| progress.look(look, Duration::from_secs_f64(at)).is_err().then_some(at))
    }

    #[test]
    fn an_idle_server_may_be_silent_for_ever() {
        assert_eq!(hung_at(100.0, &[(0.0, look(0, 9, 0, Some(1))), (9e5, look(0, 9, 0, Some(1)))]), None);
        assert_eq!(hung_at(100.0, &[(0.0, look(0, 9, 0, None)), (9e5, look(0, 9, 0, None))]), None);
    }

    #[test]
    fn work_without_a_token_is_a_hang_after_five_seconds_counted_from_the_last_sign() {
        let busy = |tokens| look(1, tokens, 0, Some(1));
        assert_eq!(hung_at(100.0, &[(900.0, busy(0)), (904.9, busy(0)), (905.0, busy(0))]), Some(905.0));
        assert_eq!(hung_at(100.0, &[(0.0, busy(0)), (4.0, busy(1)), (8.9, busy(1)), (9.0, busy(1))]), Some(9.0));
        // Idle in between: the next request begins anew.
        let looks = [(0.0, busy(1)), (4.0, look(0, 1, 0, Some(1))), (8.0, busy(1)), (12.9, busy(1)), (13.0, busy(1))];
        assert_eq!(hung_at(100.0, &looks), Some(13.0));
    }

    #[test]
    fn the_engines_own_counters_are_a_sign_of_life() {
        let steps = [(0.0, 1), (4.0, 2), (8.0, 3), (12.0, 4)].map(|(at, step)| (at, look(1, 0, 0, Some(step))));
        assert_eq!(hung_at(100.0, &steps), None);
        let chunk =
            |kv_usage| Look { counters: Some(Counters { kv_usage, ..Counters::default() }), ..look(1, 0, 0, None) };
        assert_eq!(hung_at(100.0, &[(0.0, chunk(0.1)), (4.0, chunk(0.2)), (8.0, chunk(0.3))]), None);
    }

    #[test]
    fn a_server_that_does_not_answer_is_silent_and_the_same_answer_again_is_no_sign() {
        let looks = [(0.0, Some(1)), (2.0, None), (4.0, None), (5.0, Some(1))];
        assert_eq!(hung_at(100.0, &looks.map(|(at, step)| (at, look(1, 0, 0, step)))), Some(5.0));
        let tokens_come = [(0.0, 1), (4.0, 2), (8.0, 3)].map(|(at, tokens)| (at, look(1, tokens, 0, None)));
        assert_eq!(hung_at(100.0, &tokens_come), None);
    }

    #[test]
    fn a_long_prompt_may_take_three_times_what_is_predicted() {
        let prefill = look(1, 0, 8000, Some(1));
        assert_eq!(hung_at(100.0, &[(0.0, prefill), (239.9, prefill)]), None);
        assert_eq!(hung_at(100.0, &[(0.0, prefill), (240.0, prefill)]), Some(240.0));
        // Once its first token is there, silence counts as ever.
        let decode = look(1, 1, 0, Some(2));
        assert_eq!(hung_at(100.0, &[(0.0, prefill), (200.0, decode), (205.0, decode)]), Some(205.0));
        assert_eq!(hung_at(0.0, &[(0.0, prefill), (23_999.0, prefill)]), None, "no pace is less than a token a second");
    }

    #[test]
    fn a_long_prompt_that_is_not_wanted_any_more_still_has_its_time() {
        let (long, short) = (look(2, 0, 8000, Some(1)), look(1, 0, 3, Some(1)));
        assert_eq!(hung_at(100.0, &[(0.0, long), (30.0, short), (239.9, short)]), None);
        assert_eq!(hung_at(100.0, &[(0.0, long), (30.0, short), (240.0, short)]), Some(240.0));
        // Nobody waited for a while: the step may still run when the next one comes.
        let looks = [(0.0, long), (30.0, look(0, 0, 0, Some(1))), (31.0, short), (100.0, short)];
        assert_eq!(hung_at(100.0, &looks), None);
        // The step is over: five seconds count again.
        let stepped = look(1, 0, 3, Some(2));
        assert_eq!(hung_at(100.0, &[(0.0, long), (30.0, stepped), (35.0, stepped)]), Some(35.0));
    }

    #[test]
    fn the_pace_is_the_servers_own_once_it_has_computed_enough() {
        let mut progress = Progress::new(100.0, Duration::ZERO);
        progress.learn(999.0, 1.0);
        assert_eq!(progress.allowed(8000), Duration::from_secs(240));
        progress.learn(2000.0, 5.0);
        assert_eq!(progress.allowed(8000), Duration::from_secs(60));
        progress.learn(1e9, 0.0);
        assert_eq!(progress.allowed(8000), Duration::from_secs(60), "a sum without time says nothing");
        assert_eq!(progress.allowed(10), SILENCE_MIN);
    }
}
