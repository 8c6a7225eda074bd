//! How many requests of a model may be sent a second time. Pure: the clock is an argument.
//!
//! A retry is work on top of the load that made the first try fail; without a bound an overload feeds itself. So retries
//! are paid from an account that grows by a fifth of a retry with each request, and a little by itself.
//!
//! A request whose worker is *gone* is not a retry in this sense: the worker's share of the load has to go somewhere, it
//! was admitted, and its number is bounded by the streams that ran there, each of which goes on once for each worker
//! that it loses. It pays nothing, or the loss of one of two workers would lose requests.

use runtime::request_plane::ErrorClass;
use std::time::Duration;
use tokio::time::Instant;

/// Retries that each request brings.
const SHARE: f64 = 0.2;
/// Retries a second that there are always, so that a model with few requests has some.
const FLOOR_PER_SECOND: f64 = 1.0;
/// What a model begins with.
const BEGINS_WITH: f64 = 10.0;
/// Most that can be saved: a burst of retries after an hour of quiet is no better than one in a busy hour.
const SAVED_MAX: f64 = 100.0;

/// One model's account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    saved: f64,
    at: Instant,
}

impl Retries {
    /// An account that is opened at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { saved: BEGINS_WITH, at: now }
    }

    /// A request is placed for the first time.
    pub(crate) fn request(&mut self, now: Instant) {
        self.grow(now, SHARE);
    }

    /// Pays for one retry; `false` when there is not enough.
    pub(crate) fn pay(&mut self, now: Instant) -> bool {
        self.grow(now, 0.0);
        let enough = self.saved >= 1.0;
        if enough {
            self.saved -= 1.0;
        }
        enough
    }

    fn grow(&mut self, now: Instant, by: f64) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now.max(self.at);
        self.saved =
            (self.saved + by + FLOOR_PER_SECOND * passed.min(Duration::from_secs(3_600)).as_secs_f64()).min(SAVED_MAX);
    }
}

/// Whether an error of this class may be tried again at another worker: Dynamo's table, and what no worker that is well
/// sends. Garbage says something of the worker, not of the request.
pub(crate) fn may_be_tried_again(class: ErrorClass) -> bool {
    class.is_retryable() || class == ErrorClass::BackendProtocol
}

/// Whether an error of this class says that the worker is gone, or leaves, or is of no use: what it sends is no answer.
pub(crate) fn is_a_loss(class: ErrorClass) -> bool {
    matches!(
        class,
        ErrorClass::CannotConnect
            | ErrorClass::Disconnected
            | ErrorClass::StreamIncomplete
            | ErrorClass::EngineShutdown
            | ErrorClass::BackendProtocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_adds_a_fifth_to_itself_and_no_more() {
        let start = Instant::now();
        let mut retries = Retries::new(start);
        // A thousand requests a second for a minute, each of which fails and would be tried three times more.
        let (mut paid, mut second) = (0, 0);
        for at in 0..60_000u64 {
            let now = start + Duration::from_millis(at);
            retries.request(now);
            paid += (0..3).filter(|_| retries.pay(now)).count();
            second = at / 1_000 + 1;
        }
        let most = 60_000.0 * SHARE + second as f64 * FLOOR_PER_SECOND + BEGINS_WITH;
        assert!((most - 2.0..=most).contains(&(paid as f64)), "{paid} of {most}");
    }

    #[test]
    fn a_quiet_model_may_always_try_again_and_saves_no_storm() {
        let start = Instant::now();
        let mut retries = Retries::new(start);
        assert_eq!((0..100).filter(|_| retries.pay(start)).count(), 10);
        assert!(!retries.pay(start + Duration::from_millis(900)));
        assert!(retries.pay(start + Duration::from_secs(1)));
        let later = start + Duration::from_secs(86_400);
        assert_eq!((0..1_000).filter(|_| retries.pay(later)).count(), 100);
    }

    #[test]
    fn losses_are_free_and_refusals_are_not() {
        for class in [
            ErrorClass::CannotConnect,
            ErrorClass::Disconnected,
            ErrorClass::StreamIncomplete,
            ErrorClass::EngineShutdown,
            ErrorClass::BackendProtocol,
        ] {
            assert!(is_a_loss(class) && may_be_tried_again(class), "{class}");
        }
        for class in [
            ErrorClass::WorkerOverloaded,
            ErrorClass::WorkerUnavailable,
            ErrorClass::ConnectionTimeout,
            ErrorClass::ResponseTimeout,
        ] {
            assert!(!is_a_loss(class) && may_be_tried_again(class), "{class}");
        }
    }
}
