//! Whether a worker may be chosen: one that failed is set aside for a while, but never makes a deployment of one fail.
//! Pure: the clock is an argument.

use std::time::Duration;
use tokio::time::Instant;

/// First time aside; doubles with each failure in a row.
const ASIDE_FIRST: Duration = Duration::from_secs(1);
/// The same for an engine that does not go forward.
const STALLED_FIRST: Duration = Duration::from_secs(8);
/// Longest time aside. A worker whose process is gone loses its discovery record within about 10 s anyway.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// How a worker failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its connection broke or could not be made: it stays out until it answers on one.
    Lost,
    /// Its connection stands and nothing comes: it stays out until it answers again.
    Hung,
    /// It answers, and its engine does not go forward: it is out for longer than one that fails a request, because the
    /// next one that is sent there may wait as long.
    Stalled,
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
    /// Until it answers: its connection is gone.
    Lost,
    /// Until it answers: its connection is silent.
    Hung,
    /// Until then.
    Until(Instant),
}

impl Health {
    /// Whether the worker may be chosen at `now`.
    pub(crate) fn is_good(&self, now: Instant) -> bool {
        match self.aside {
            None => true,
            Some(Aside::Lost | Aside::Hung) => false,
            Some(Aside::Until(end)) => now >= end,
        }
    }

    /// Notes a failure. `true` when it changes whether the worker has to answer before it is chosen again.
    pub(crate) fn fail(&mut self, fault: Fault, now: Instant) -> bool {
        let out_until_it_answers = matches!(self.aside, Some(Aside::Lost | Aside::Hung));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        match fault {
            Fault::Lost if out_until_it_answers => false,
            Fault::Lost => self.aside.replace(Aside::Lost) != Some(Aside::Lost),
            Fault::Hung => self.aside.replace(Aside::Hung) != Some(Aside::Hung),
            Fault::Failing => self.aside_from(now, ASIDE_FIRST),
            Fault::Stalled => self.aside_from(now, STALLED_FIRST),
        }
    }

    fn aside_from(&mut self, now: Instant, first: Duration) -> bool {
        let until = now + (first * 2u32.pow((self.failures_in_a_row - 1).min(10))).min(ASIDE_MAX);
        match self.aside {
            Some(Aside::Lost | Aside::Hung) => {}
            // Streams that are given up together do not add up, and a failure does not end a stall.
            Some(Aside::Until(end)) if end >= until || (first == STALLED_FIRST && end > now) => {}
            _ => self.aside = Some(Aside::Until(until)),
        }
        false
    }

    /// The worker served a request. One that is lost or hangs has to answer first: the token may be an old one that lay
    /// in a buffer.
    pub(crate) fn served(&mut self) {
        if !matches!(self.aside, Some(Aside::Lost | Aside::Hung)) {
            *self = Self::default();
        }
    }

    /// The worker answered on a connection of its own. `true` when it had to.
    pub(crate) fn answered(&mut self) -> bool {
        let had_to = matches!(self.aside, Some(Aside::Lost | Aside::Hung));
        if had_to {
            *self = Self::default();
        }
        had_to
    }

    /// The worker was registered anew.
    pub(crate) fn registered(&mut self) {
        *self = Self::default();
    }

    /// In words, for the status page.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match (self.is_good(now), self.aside) {
            (true, _) => "ready",
            (false, Some(Aside::Lost)) => "lost",
            (false, Some(Aside::Hung)) => "hung",
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
        health.served();
        assert!(health.is_good(start));
        health.fail(Fault::Failing, start);
        assert!(health.is_good(start + Duration::from_secs(1)), "the count starts anew");
        assert!(!health.answered(), "an answer to a ping says nothing of its requests");
        assert!(!health.is_good(start));
    }

    #[test]
    fn a_stalled_worker_is_out_for_longer_and_its_streams_are_counted_once_each_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        for _ in 0..50 {
            health.fail(Fault::Stalled, start);
        }
        assert!(!health.is_good(at(7)));
        assert!(health.is_good(at(8)), "fifty streams are one stall");
        health.fail(Fault::Stalled, at(9));
        assert!(!health.is_good(at(38)), "it did not change meanwhile");
        health.served();
        health.fail(Fault::Stalled, at(100));
        health.fail(Fault::Failing, at(101));
        assert!(!health.is_good(at(107)), "a lesser failure does not shorten it");
    }

    #[test]
    fn a_lost_or_hung_worker_stays_out_until_it_answers_whatever_else_comes_from_it() {
        let start = Instant::now();
        for (fault, word) in [(Fault::Lost, "lost"), (Fault::Hung, "hung")] {
            let mut health = Health::default();
            assert!(health.fail(fault, start));
            assert!(!health.fail(fault, start), "it is known already");
            health.fail(Fault::Failing, start);
            health.served();
            assert!(!health.is_good(start + Duration::from_secs(3600)));
            assert_eq!(health.word(start), word);
            assert!(health.answered());
            assert!(health.is_good(start));
        }
    }

    #[test]
    fn a_lost_worker_may_turn_out_to_hang_and_a_hung_one_is_not_called_lost() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.fail(Fault::Lost, start));
        assert!(health.fail(Fault::Hung, start));
        assert!(!health.fail(Fault::Lost, start));
        assert_eq!(health.word(start), "hung");
        health.registered();
        assert_eq!(health.word(start), "ready");
    }
}
