//! The first step of a request: a place, or a refusal that says when to come back.
//!
//! A permit is held to the end of the answer, its stream included. Waiting is bounded in number and in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of this frontend and the queue before them.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
    wait_max: Duration,
}

/// A place, given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

/// No place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full: 429.
    QueueFull,
    /// The wait was too long: 503.
    WaitedTooLong,
}

impl Admission {
    pub(crate) fn new(places: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { places, waiting: AtomicUsize::new(0), waiting_max, wait_max }
    }

    /// A place now, or after a bounded wait in order of arrival. Dropping the future leaves the queue.
    pub(crate) async fn admit(&self) -> Result<Permit, Refusal> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(Permit { _place: place });
        }
        let _waiter = Waiter::enter(self).ok_or(Refusal::QueueFull)?;
        match tokio::time::timeout(self.wait_max, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Permit { _place: place }),
            // The semaphore is never closed; a closed one would be no place either.
            Ok(Err(_)) | Err(_) => Err(Refusal::WaitedTooLong),
        }
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counts one waiter from entry to drop.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enter(admission: &'a Admission) -> Option<Self> {
        admission
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < admission.waiting_max).then_some(n + 1))
            .ok()
            .map(|_| Self(&admission.waiting))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn past_the_places_requests_wait_and_past_the_queue_they_are_refused() {
        let admission = Admission::new(1, 1, Duration::from_secs(3600));
        let first = admission.admit().await.unwrap();
        let mut second = Box::pin(admission.admit());
        assert!(second.as_mut().now_or_never().is_none(), "the second waits");
        assert_eq!(admission.waiting(), 1);
        assert_eq!(admission.admit().await.unwrap_err(), Refusal::QueueFull);
        drop(first);
        second.await.unwrap();
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_after_its_bound() {
        let admission = Admission::new(1, 1, Duration::from_secs(30));
        let _held = admission.admit().await.unwrap();
        assert_eq!(admission.admit().await.unwrap_err(), Refusal::WaitedTooLong);
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_the_queue_makes_room() {
        let admission = Admission::new(1, 1, Duration::from_secs(3600));
        let _held = admission.admit().await.unwrap();
        let mut gone = Box::pin(admission.admit());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert_eq!(admission.waiting(), 0);
    }
}
