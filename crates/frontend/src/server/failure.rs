//! From what went wrong inside to what the client sees. Only a worker's public message is passed on.

use crate::admission::Refusal;
use crate::dispatch::Failure;
use crate::openai::ApiError;
use router::SelectError;
use runtime::request_plane::{ErrorClass, RequestError};
use std::time::Duration;

/// The least time after which to come back when workers are full or gone: about one answer.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// `type` of errors that are ours.
pub(crate) const SERVER_ERROR: &str = "server_error";
const UNAVAILABLE: &str = "service_unavailable";
const OVERLOADED: &str = "overloaded_error";

/// The error of a request that no worker answered.
pub(crate) fn to_api(failure: &Failure, overload_status: u16) -> ApiError {
    match failure {
        Failure::Unplaced(SelectError::AllBusy) => overloaded(overload_status),
        Failure::Unplaced(SelectError::NoneAllowed | SelectError::NotPinned) => {
            unavailable("The worker that the request names is not there").with_retry_after(soon())
        }
        Failure::Unplaced(SelectError::NoWorkers) => unavailable("Service temporarily unavailable: no worker is there"),
        Failure::Poison { left } => poison(*left),
        Failure::Unresumable => {
            let message = "The worker that ran this constrained answer is gone, and no other one can go on in the middle of it. Try again.";
            unavailable(message).with_code("not_resumable")
        }
        Failure::Worker { error, .. } => of_worker(error, overload_status),
    }
}

fn of_worker(error: &RequestError, overload_status: u16) -> ApiError {
    let said = |fallback: &str| error.public.clone().unwrap_or_else(|| fallback.to_owned());
    match error.class {
        ErrorClass::InvalidRequest => {
            ApiError::new(400, "invalid_request_error", said("The worker refused the request"))
        }
        ErrorClass::NotFound => ApiError::new(404, "invalid_request_error", said("Not found")),
        ErrorClass::PayloadTooLarge => ApiError::new(413, "invalid_request_error", said("The request is too large")),
        ErrorClass::RateLimited => {
            ApiError::new(429, "rate_limit_error", said("Too many requests")).with_retry_after(soon())
        }
        ErrorClass::NotImplemented => ApiError::new(501, SERVER_ERROR, said("The worker does not support this")),
        ErrorClass::WorkerOverloaded | ErrorClass::CapacityExhausted => overloaded(overload_status),
        ErrorClass::ResponseTimeout | ErrorClass::DeadlineExceeded | ErrorClass::ConnectionTimeout => {
            ApiError::new(504, "timeout_error", "The worker did not answer in time").with_code("response_timeout")
        }
        ErrorClass::Unavailable
        | ErrorClass::WorkerUnavailable
        | ErrorClass::CannotConnect
        | ErrorClass::Disconnected
        | ErrorClass::StreamIncomplete
        | ErrorClass::EngineShutdown => unavailable("Service temporarily unavailable"),
        ErrorClass::Unauthenticated
        | ErrorClass::PermissionDenied
        | ErrorClass::Cancelled
        | ErrorClass::BackendProtocol
        | ErrorClass::Internal => ApiError::new(500, SERVER_ERROR, said("Internal server error")),
    }
}

/// 422: nobody should send it again as it is.
fn poison(left: Duration) -> ApiError {
    let minutes = left.as_secs().div_ceil(60);
    let message = format!(
        "Workers died while they ran this request, so it is refused for the next {minutes} min. Change the prompt or the \
         constraint; if it is harmless, the operator finds the crash in the workers' logs."
    );
    ApiError::new(422, "invalid_request_error", message).with_code("poison")
}

/// 503.
pub(crate) fn unavailable(message: &str) -> ApiError {
    ApiError::new(503, UNAVAILABLE, message).with_code("service_unavailable").with_retry_after(soon())
}

/// Every worker is full.
fn overloaded(status: u16) -> ApiError {
    let message = "Service temporarily overloaded: every worker is full. Try again later.";
    ApiError::new(status, OVERLOADED, message).with_code("overloaded").with_retry_after(soon())
}

/// The frontend itself is full; `come_back` is the least time after which the client should try again.
pub(crate) fn not_admitted(refusal: Refusal, come_back: Duration) -> ApiError {
    let error = match refusal {
        Refusal::QueueFull => {
            ApiError::new(429, "rate_limit_error", "Too many requests wait already. Try again later.")
                .with_code("queue_full")
        }
        Refusal::WaitedTooLong => unavailable("The request waited too long for a place. Try again later."),
    };
    error.with_retry_after(spread(come_back, rand::random()))
}

fn soon() -> Duration {
    spread(RETRY_SOON, rand::random())
}

/// Whole seconds from `least` to three times that; `chance` from 0 to 1 says which. Clients that were refused together
/// and obey must not come back together.
fn spread(least: Duration, chance: f64) -> Duration {
    let least = least.as_secs().max(1);
    let more = (chance * (2 * least + 1) as f64) as u64;
    Duration::from_secs(least + more.min(2 * least))
}

/// The request's own time is over.
pub(crate) fn deadline(after: Duration) -> ApiError {
    let message = format!("The request was not finished within its deadline of {} s", after.as_secs());
    ApiError::new(504, "timeout_error", message).with_code("deadline_exceeded")
}

/// An engine error in mid-answer. Its words are in the log.
pub(crate) fn engine_failed() -> ApiError {
    ApiError::new(500, SERVER_ERROR, "The engine failed this request").with_code("engine_error")
}

/// A text that costs more than one request may.
pub(crate) fn too_costly(after: Duration) -> ApiError {
    let message = format!("The text was not tokenized within {} s: make it shorter or more usual", after.as_secs());
    ApiError::new(400, "invalid_request_error", message).with_code("text_too_costly")
}

/// A bug of ours, or a panic.
pub(crate) fn internal() -> ApiError {
    ApiError::new(500, SERVER_ERROR, "Internal server error").with_code("internal_error")
}

/// Announced, but not to be asked yet.
pub(crate) fn not_ready(model: &str, why: &str) -> ApiError {
    unavailable(&format!("Model {model} is not ready: {why}")).with_code("model_not_ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_refused_together_are_sent_away_for_one_to_three_times_the_least_time() {
        let seconds = |least: u64, chance: f64| spread(Duration::from_secs(least), chance).as_secs();
        assert_eq!([0.0, 0.34, 0.67, 0.999, 1.0].map(|chance| seconds(1, chance)), [1, 2, 3, 3, 3]);
        assert_eq!([0.0, 0.5, 0.999].map(|chance| seconds(20, chance)), [20, 40, 60]);
        assert_eq!(seconds(0, 0.0), 1, "0 would be no time at all");
        let told: std::collections::BTreeSet<_> =
            (0..200).map(|_| not_admitted(Refusal::QueueFull, Duration::from_secs(10)).retry_after).collect();
        assert!(told.len() > 10, "chance is drawn anew for each: {told:?}");
    }
}
