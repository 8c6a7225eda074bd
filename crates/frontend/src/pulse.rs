//! When to ping a worker, and when its silence means that it hangs. Pure: the clock is an argument.
//!
//! A worker whose process is dead closes its connections, and that is noticed at once. One that is stopped, stuck or
//! cut off keeps them open and says nothing. So it is pinged, and anything that comes from it counts as an answer: an
//! ack, or an item of any stream. It hangs when nothing at all came for [`HUNG_AFTER`] although [`MISSED_MIN`] pings or
//! more went out since. Both must hold: a frontend that was itself held up for ten seconds has sent no pings meanwhile,
//! and finds the answers in its sockets before it has sent enough of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Between two pings. About 20 µs of processor time each on both sides.
pub(crate) const PING_EVERY: Duration = Duration::from_millis(500);

/// Silence that means a hang: under the five seconds that are promised, and a hundred times what a thread waits for
/// its turn on a machine whose cores are all busy.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(4);

/// Pings without an answer before a worker hangs: what a frontend sends in two seconds in which it is itself well.
pub(crate) const MISSED_MIN: u32 = 4;

/// Pings that may be under way on one connection. A worker that hangs for an hour finds these, not thousands.
const UNANSWERED_MAX: u32 = 16;

/// When a worker was heard last; written by whoever hears it, without a lock.
#[derive(Debug)]
pub(crate) struct Signs {
    start: Instant,
    heard_ms: AtomicU64,
}

impl Signs {
    /// A worker that is as good as heard at `now`: its record has just come.
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now, heard_ms: AtomicU64::new(0) }
    }

    /// It was heard at `now`.
    pub(crate) fn hear(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.start).as_millis();
        self.heard_ms.fetch_max(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it was heard last, to the millisecond.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }
}

/// What to do next on a watch connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send a ping now.
    Ping,
    /// Wait for an answer until then.
    Wait(Instant),
    /// The worker hangs.
    Hung,
}

/// The pings of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    pinged: Option<Instant>,
    unanswered: u32,
    heard: Option<Instant>,
}

impl Pulse {
    /// What to do at `now`, when the worker was heard last at `heard`.
    pub(crate) fn next(&mut self, now: Instant, heard: Instant) -> Beat {
        if self.heard.is_none_or(|before| heard > before) {
            self.heard = Some(heard);
            self.unanswered = 0;
        }
        let Some(pinged) = self.pinged else { return Beat::Ping };
        let due = pinged + PING_EVERY;
        let hung_at = heard + HUNG_AFTER;
        // The last ping has its time to be answered, too.
        if self.unanswered >= MISSED_MIN && now >= hung_at.max(due) {
            return Beat::Hung;
        }
        match self.unanswered < UNANSWERED_MAX {
            true if now >= due => Beat::Ping,
            true if self.unanswered < MISSED_MIN => Beat::Wait(due),
            true => Beat::Wait(due.min(hung_at.max(now + Duration::from_millis(1)))),
            false => Beat::Wait(hung_at.max(due)),
        }
    }

    /// A ping was sent at `now`.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
        self.unanswered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a pulse to `until`; `answered` says whether a ping of that moment is answered (at once), and `held_up` are
    /// spans in which the frontend itself does not run. Gives when the worker is found hung.
    fn hung_at(until: Duration, answered: impl Fn(Duration) -> bool, held_up: &[(u64, u64)]) -> Option<Duration> {
        let start = Instant::now();
        let (mut pulse, signs) = (Pulse::default(), Signs::new(start));
        let mut now = start;
        while now - start < until {
            let at = now - start;
            if let Some(&(_, end)) = held_up.iter().find(|(from, to)| (*from..*to).contains(&(at.as_millis() as u64))) {
                now = start + Duration::from_millis(end);
                // What had come meanwhile lies in the socket, and is read before anything else is done.
                if answered(at) {
                    signs.hear(now);
                }
                continue;
            }
            match pulse.next(now, signs.last()) {
                Beat::Hung => return Some(at),
                Beat::Wait(until) => now = until.max(now + MS),
                Beat::Ping => {
                    pulse.pinged(now);
                    if answered(at) {
                        signs.hear(now + MS);
                    }
                }
            }
        }
        None
    }

    #[test]
    fn a_worker_that_stops_answering_hangs_within_five_seconds_and_not_before_four() {
        for stops in [0, 1, 250, 499, 500, 501, 750, 10_000, 10_333] {
            let stops = Duration::from_millis(stops);
            let found = hung_at(stops + Duration::from_secs(60), |at| at < stops, &[]).unwrap();
            let silent = found - stops;
            assert!(silent < Duration::from_secs(5), "stopped at {stops:?}, found after {silent:?}");
            assert!(silent > Duration::from_millis(3_400), "stopped at {stops:?}, found after {silent:?}");
        }
    }

    #[test]
    fn a_worker_that_answers_never_hangs_and_one_that_answers_every_third_second_does_not_either() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(hung_at(hour, |_| true, &[]), None);
        assert_eq!(hung_at(hour, |at| at.as_millis() % 3_000 < 500, &[]), None);
    }

    #[test]
    fn a_frontend_that_was_held_up_itself_blames_nobody() {
        let held_up = [(1_000, 11_000), (11_200, 21_000), (21_900, 90_000)];
        assert_eq!(hung_at(Duration::from_secs(120), |_| true, &held_up), None);
    }

    #[test]
    fn after_a_hold_up_the_timer_may_be_looked_at_before_the_answers_are_read() {
        let start = Instant::now();
        let (mut pulse, mut now) = (Pulse::default(), start);
        for _ in 0..50 {
            let heard = now;
            assert_eq!(pulse.next(now, heard), Beat::Ping);
            pulse.pinged(now);
            // Nothing of this process runs for ten seconds; the answer lies in the socket.
            now += Duration::from_secs(10);
            assert_eq!(pulse.next(now, heard), Beat::Ping, "one ping is no proof, however old it is");
            pulse.pinged(now);
            now += PING_EVERY;
        }
    }

    #[test]
    fn items_of_streams_are_answers_too_and_few_pings_pile_up_before_a_worker_that_hangs() {
        let start = Instant::now();
        let (mut pulse, mut sent) = (Pulse::default(), 0);
        for ms in 0..3_600_000 {
            // No ack ever comes, but an item every second.
            let (now, heard) = (start + MS * ms, start + MS * (ms / 1_000 * 1_000));
            match pulse.next(now, heard) {
                Beat::Hung => panic!("hung after {ms} ms"),
                Beat::Ping => pulse.pinged(now),
                Beat::Wait(_) => {}
            }
        }
        let mut pulse = Pulse::default();
        for ms in 0..600_000 {
            if pulse.next(start + MS * ms, start) == Beat::Ping {
                pulse.pinged(start + MS * ms);
                sent += 1;
            }
        }
        assert!(sent <= UNANSWERED_MAX, "{sent}");
    }
}
