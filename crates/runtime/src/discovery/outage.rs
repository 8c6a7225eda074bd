//! A store that is away, as the log tells it: the beginning, a reminder a minute, the end.

use std::fmt::Display;
use std::time::Duration;
use tokio::time::Instant;

/// How often an outage that goes on is told in the log.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// What a store says when it does not do what it was asked.
pub(super) trait StoreError: Display {
    /// Kinds of faults, told apart by what helps.
    type Fault: Copy + PartialEq;

    /// Which kind it is.
    fn fault(&self) -> Self::Fault;

    /// What to do about it.
    fn remedy(&self) -> String;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outage<E: StoreError> {
    store: &'static str,
    what: &'static str,
    since: Option<Instant>,
    told: Option<(E::Fault, Instant)>,
}

impl<E: StoreError> Outage<E> {
    /// None yet, of what `store` is needed for.
    pub(super) fn new(store: &'static str, what: &'static str) -> Self {
        Self { store, what, since: None, told: None }
    }

    /// A try failed.
    pub(super) fn failed(&mut self, error: &E, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if self.told.is_some_and(|(fault, at)| fault == error.fault() && now < at + REMIND_EVERY) {
            tracing::debug!(%error, "cannot {}", self.what);
            return;
        }
        self.told = Some((error.fault(), now));
        tracing::warn!(
            %error, remedy = error.remedy(), for_secs = (now - since).as_secs(),
            "cannot {}; what is known stays, and it is tried again", self.what
        );
    }

    /// A try succeeded.
    pub(super) fn is_over(&mut self, now: Instant) {
        self.told = None;
        if let Some(since) = self.since.take() {
            let after_secs = (now - since).as_secs_f64();
            tracing::info!(after_secs, "{} answers again: can {}", self.store, self.what);
        }
    }
}
