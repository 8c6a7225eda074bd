//! Whether a candidate may take the lease, as a pure function of what it saw and when.

use super::record::{self, Lease};
use std::time::Duration;
use tokio::time::Instant;

/// What a candidate reads in a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; nobody when it was released.
    pub holder: Option<String>,
    /// How long it lasts without a renewal.
    pub duration: Duration,
    /// Differs after every renewal. Only compared: whoever wrote it may have any clock.
    pub mark: String,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no lease: make it.
    Create,
    /// It is free, ours, or was not renewed for as long as it lasts: write it.
    Take,
    /// It is someone else's.
    Wait,
}

/// Remembers when the lease last changed.
#[derive(Clone, Debug)]
pub struct Candidate {
    identity: String,
    last: Option<(String, Instant)>,
}

impl Candidate {
    /// A candidate that has seen nothing yet.
    pub fn new(identity: &str) -> Self {
        Self { identity: identity.to_owned(), last: None }
    }

    /// What to do with what was `found` (`None`: no lease), at `now` on a clock that never goes back.
    pub fn step(&mut self, found: Option<&Seen>, now: Instant) -> Step {
        let Some(found) = found else {
            self.last = None;
            return Step::Create;
        };
        if found.holder.as_ref().is_none_or(|holder| *holder == self.identity) {
            return Step::Take;
        }
        match &self.last {
            Some((mark, at)) if *mark == found.mark => {
                if now.duration_since(*at) >= found.duration {
                    Step::Take
                } else {
                    Step::Wait
                }
            }
            _ => {
                self.last = Some((found.mark.clone(), now));
                Step::Wait
            }
        }
    }
}

/// What a candidate reads in `lease`; `usual` is how long one lasts that does not say.
pub(super) fn seen(lease: &Lease, usual: Duration) -> Seen {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Seen {
        holder: record::holder(lease).cloned(),
        duration: seconds.filter(|seconds| *seconds > 0).map_or(usual, Duration::from_secs),
        mark: format!(
            "{:?} {:?} {}",
            record::holder(lease),
            spec.and_then(|spec| spec.renew_time.as_ref()),
            record::transitions(lease)
        ),
    }
}
