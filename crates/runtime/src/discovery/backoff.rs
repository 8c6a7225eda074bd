//! How long to wait before a store that failed is asked again.

use std::time::Duration;

/// First wait: a member that restarts or a leader that is elected needs about a second.
const FIRST: Duration = Duration::from_millis(100);

/// Waits that double, with jitter: a fleet that lost its store must not come back as one.
#[derive(Debug)]
pub(in crate::discovery) struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(in crate::discovery) fn new(longest: Duration) -> Self {
        Self { longest, failures: 0 }
    }

    /// The next wait: between half and all of the step; `chance` is uniform in 0..1.
    pub(in crate::discovery) fn next(&mut self, chance: f64) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(10)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }

    pub(in crate::discovery) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_spread_over_half_of_themselves() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0), Duration::from_millis(500));
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_millis(50));
    }
}
