//! Whether a worker may be chosen: one that failed is set aside for a while, but never makes a deployment of one fail.

use std::time::Duration;
use tokio::time::Instant;

/// First time aside; doubles with each failure in a row.
const ASIDE_FIRST: Duration = Duration::from_secs(1);
/// Longest time aside. A worker whose process is gone loses its discovery record within about 10 s anyway.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// How a worker failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its connection broke or could not be made: it stays out until it accepts one.
    Lost,
    /// It answers, but not in time or not well: it is out for a while.
    Failing,
}

/// A worker's recent past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    failures_in_a_row: u32,
    aside: Option<Aside>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aside {
    /// Until a connection is accepted; a probe finds out.
    UntilReached,
    /// Until then.
    Until(Instant),
}

impl Health {
    /// Whether the worker may be chosen at `now`.
    pub(crate) fn is_good(&self, now: Instant) -> bool {
        match self.aside {
            None => true,
            Some(Aside::UntilReached) => false,
            Some(Aside::Until(end)) => now >= end,
        }
    }

    /// Notes a failure. `true` when a probe should be started: the worker was lost and none runs yet.
    pub(crate) fn fail(&mut self, fault: Fault, now: Instant) -> bool {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        match fault {
            Fault::Lost => self.aside.replace(Aside::UntilReached) != Some(Aside::UntilReached),
            Fault::Failing => {
                let doubled = ASIDE_FIRST * 2u32.pow((self.failures_in_a_row - 1).min(10));
                if self.aside != Some(Aside::UntilReached) {
                    self.aside = Some(Aside::Until(now + doubled.min(ASIDE_MAX)));
                }
                false
            }
        }
    }

    /// The worker served a request, was registered anew, or accepted a connection.
    pub(crate) fn recover(&mut self) {
        *self = Self::default();
    }

    /// In words, for the status page.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match (self.is_good(now), self.aside) {
            (true, _) => "ready",
            (false, Some(Aside::UntilReached)) => "lost",
            (false, _) => "set aside",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_worker_is_out_for_a_time_that_doubles_to_a_bound_and_recovers_at_once() {
        let start = Instant::now();
        let mut health = Health::default();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!health.fail(Fault::Failing, start));
            assert!(!health.is_good(start + Duration::from_millis(seconds * 1000 - 1)), "{seconds}");
            assert!(health.is_good(start + Duration::from_secs(seconds)), "{seconds}");
        }
        health.recover();
        assert!(health.is_good(start));
        health.fail(Fault::Failing, start);
        assert!(health.is_good(start + Duration::from_secs(1)), "the count starts anew");
    }

    #[test]
    fn a_lost_worker_stays_out_until_it_is_reached_and_one_probe_is_asked_for() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.fail(Fault::Lost, start));
        assert!(!health.fail(Fault::Lost, start), "the probe runs already");
        health.fail(Fault::Failing, start);
        assert!(!health.is_good(start + Duration::from_secs(3600)));
        assert_eq!(health.word(start), "lost");
        health.recover();
        assert!(health.is_good(start));
    }
}
