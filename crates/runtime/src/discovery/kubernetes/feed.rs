//! One list-and-watch that is begun anew for ever: it says what it sees, and when it stops to.

use super::super::backoff::Backoff;
use super::super::outage::Outage;
use super::api::{Feed, Seen};
use super::error::{KubernetesError, KubernetesFault};
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

/// Longest pause between two tries: how late we may be when the API server comes back.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a list: thousands of objects, in pages.
pub(super) const LIST_MAX: Duration = Duration::from_secs(15);

/// What a [`Follower`] hears.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// Something.
    Seen(Seen<T>),
    /// Nothing any more, until the next list.
    Interrupted(KubernetesError),
}

/// See the module.
pub(super) struct Follower<T> {
    what: &'static str,
    stream: Option<Feed<T>>,
    /// The list has been heard: what comes now are changes, and silence is no fault.
    listed: bool,
    /// The list must be there by then, or the next try is made then.
    until: Instant,
    began: Instant,
    backoff: Backoff,
    outage: Outage<KubernetesError>,
}

impl<T> Follower<T> {
    /// Follows `what`, beginning with `stream`.
    pub(super) fn new(what: &'static str, stream: Feed<T>, now: Instant) -> Self {
        Self {
            what,
            stream: Some(stream),
            listed: false,
            until: now + LIST_MAX,
            began: now,
            backoff: Backoff::new(RETRY_MAX),
            outage: Outage::new("the API server", what),
        }
    }

    /// Whether changes are heard of.
    pub(super) fn follows(&self) -> bool {
        self.listed
    }

    /// What comes next; `open` begins a list and the watch after it. Cancel-safe.
    pub(super) async fn next(&mut self, open: impl FnOnce() -> Feed<T>) -> Heard<T> {
        if self.stream.is_none() {
            tokio::time::sleep_until(self.until).await;
            self.began = Instant::now();
            self.until = self.began + LIST_MAX;
        }
        let stream = self.stream.get_or_insert_with(open);
        let next = if self.listed {
            stream.next().await
        } else {
            match tokio::time::timeout_at(self.until, stream.next()).await {
                Ok(next) => next,
                Err(_) => Some(Err(self.silence())),
            }
        };
        match next {
            Some(Ok(seen)) => {
                if matches!(seen, Seen::All(_)) {
                    self.listed = true;
                    self.outage.is_over(Instant::now());
                }
                Heard::Seen(seen)
            }
            Some(Err(error)) => self.interrupted(error),
            None => {
                let ended = KubernetesError::new(KubernetesFault::Unavailable, self.what, "the watch ended");
                self.interrupted(ended)
            }
        }
    }

    fn silence(&self) -> KubernetesError {
        let cause = format!("no list within {} s", LIST_MAX.as_secs());
        KubernetesError::new(KubernetesFault::Unavailable, self.what, cause)
    }

    fn interrupted(&mut self, error: KubernetesError) -> Heard<T> {
        let now = Instant::now();
        // A resumed watch would tell nothing of what a server that lost its data has forgotten: list again.
        self.stream = None;
        self.listed = false;
        if now > self.began + RETRY_MAX {
            self.backoff.reset();
        }
        self.outage.failed(&error, now);
        self.until = now + self.backoff.next(rand::random());
        Heard::Interrupted(error)
    }
}
