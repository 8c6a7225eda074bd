//! What this process wants to lie in etcd, what lies there, and the next act that brings the two together.
//!
//! Pure: the driver asks for an [`Act`], does it, and tells how it went. All records hang on one lease; a lease that is
//! lost is granted again under the same id, so that a record keeps its key and its owner.

use super::error::{EtcdError, EtcdFault};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Renewals of a lease within its time: two may be late before it ends.
const RENEWALS_PER_TTL: u32 = 3;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Grant the lease.
    Grant,
    /// Renew it.
    KeepAlive,
    /// Write a record on the lease.
    Put { key: String, value: Vec<u8> },
    /// Remove a record.
    Delete { key: String },
    /// End the lease, and with it every record.
    Revoke,
    /// Nothing before this moment, or before something is wanted.
    Wait(Option<Instant>),
    /// Nothing any more.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    /// There is none, as far as we know.
    None,
    /// It was renewed then; `None` when it is there but of unknown age.
    Held(Option<Instant>),
    /// It has been given up.
    Ended,
}

#[derive(Debug)]
struct Wanted {
    value: Vec<u8>,
    written: bool,
    /// It lay in etcd once: whoever registered it has been told so.
    told: bool,
}

/// How a record stands with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Written,
    Waiting,
    /// etcd will not have it.
    Refused(EtcdError),
    /// Nobody wants it.
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Registrar {
    ttl: Duration,
    lease: Lease,
    // In the order of the keys, a worker's model (`v1/mdc/…`) is written after all that it needs.
    wanted: BTreeMap<String, Wanted>,
    unwanted: BTreeSet<String>,
    refused: BTreeMap<String, EtcdError>,
    /// The last act succeeded.
    reachable: bool,
    closing: bool,
    leases_lost: u64,
}

impl Registrar {
    /// Nothing is wanted, and there is no lease.
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            lease: Lease::None,
            wanted: BTreeMap::new(),
            unwanted: BTreeSet::new(),
            refused: BTreeMap::new(),
            reachable: true,
            closing: false,
            leases_lost: 0,
        }
    }

    /// Wants a record, in place of what was wanted under its key.
    pub(super) fn want(&mut self, key: String, value: Vec<u8>) {
        self.unwanted.remove(&key);
        self.refused.remove(&key);
        self.wanted.insert(key, Wanted { value, written: false, told: false });
    }

    /// Wants it no longer.
    pub(super) fn unwant(&mut self, key: &str) {
        self.refused.remove(key);
        // It may lie there even when we never heard that it does.
        if self.wanted.remove(key).is_some() {
            self.unwanted.insert(key.to_owned());
        }
    }

    /// Wants nothing any more, not even the lease.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.wanted.clear();
    }

    /// How the record under `key` stands. A refusal is told once.
    pub(super) fn standing(&mut self, key: &str) -> Standing {
        if let Some(error) = self.refused.remove(key) {
            return Standing::Refused(error);
        }
        match self.wanted.get(key) {
            Some(wanted) if wanted.written => Standing::Written,
            Some(_) => Standing::Waiting,
            None => Standing::Unknown,
        }
    }

    /// Whether a record that nobody wants may still lie there.
    pub(super) fn is_leaving(&self, key: &str) -> bool {
        self.unwanted.contains(key)
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.reachable
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closing && !matches!(self.lease, Lease::Held(_))
    }

    /// How often the lease was lost while we lived.
    pub(super) fn leases_lost(&self) -> u64 {
        self.leases_lost
    }

    /// Someone saw that a record is not there: if it is one of ours, it is written again. `true` then.
    pub(super) fn is_gone(&mut self, key: &str) -> bool {
        let ours = self.wanted.get_mut(key).filter(|wanted| wanted.written);
        ours.map(|wanted| wanted.written = false).is_some()
    }

    /// Compares with all that lies in etcd; what of ours is absent or different is written again. Gives their number.
    pub(super) fn audit(&mut self, lies_there: &BTreeMap<&[u8], &[u8]>) -> usize {
        let lost = self.wanted.iter_mut().filter(|(key, wanted)| {
            wanted.written && lies_there.get(key.as_bytes()).copied() != Some(wanted.value.as_slice())
        });
        lost.map(|(_, wanted)| wanted.written = false).count()
    }

    /// What to do at `now`.
    pub(super) fn next(&self, now: Instant) -> Act {
        if self.closing {
            return match self.lease {
                Lease::Held(_) => Act::Revoke,
                Lease::None | Lease::Ended => Act::End,
            };
        }
        let renewal = match self.lease {
            Lease::Held(renewed) => Some(renewed.map_or(now, |at| at + self.ttl / RENEWALS_PER_TTL)),
            Lease::None | Lease::Ended => None,
        };
        // The lease first: everything hangs on it.
        if renewal.is_some_and(|at| at <= now) {
            return Act::KeepAlive;
        }
        if let Some(key) = self.unwanted.first() {
            return Act::Delete { key: key.clone() };
        }
        match self.wanted.iter().find(|(_, wanted)| !wanted.written) {
            Some(_) if renewal.is_none() => Act::Grant,
            Some((key, wanted)) => Act::Put { key: key.clone(), value: wanted.value.clone() },
            None => Act::Wait(renewal),
        }
    }

    /// How an act went that began at `began`.
    pub(super) fn done(&mut self, act: &Act, began: Instant, outcome: Result<(), EtcdError>) {
        let fault = outcome.as_ref().err().map(|error| error.fault);
        self.reachable = fault != Some(EtcdFault::Unavailable);
        match (act, fault) {
            (Act::Grant, None) => self.lease = Lease::Held(Some(began)),
            // An earlier grant of ours whose answer was lost; a renewal will tell how it stands.
            (Act::Grant, Some(EtcdFault::LeaseTaken)) => self.lease = Lease::Held(None),
            (Act::KeepAlive, None) => self.lease = Lease::Held(Some(began)),
            (Act::KeepAlive | Act::Put { .. }, Some(EtcdFault::LeaseGone)) => self.lose_lease(),
            (Act::Put { key, value }, None) => {
                if let Some(wanted) = self.wanted.get_mut(key).filter(|wanted| wanted.value == *value) {
                    (wanted.written, wanted.told) = (true, true);
                }
            }
            (Act::Put { key, .. }, Some(EtcdFault::Refused | EtcdFault::Denied)) => self.refuse(key, outcome),
            (Act::Delete { key }, None) => {
                self.unwanted.remove(key);
            }
            // Asking again cannot help; it goes with the lease.
            (Act::Delete { key }, Some(EtcdFault::Refused | EtcdFault::Denied)) => {
                self.unwanted.remove(key);
            }
            (Act::Revoke, None) => self.lease = Lease::Ended,
            _ => {}
        }
    }

    fn lose_lease(&mut self) {
        self.lease = Lease::None;
        self.leases_lost += 1;
        self.unwanted.clear();
        self.wanted.values_mut().for_each(|wanted| wanted.written = false);
    }

    /// A record that was told to be there is tried again for ever; a new one is given back to who wants it.
    fn refuse(&mut self, key: &str, outcome: Result<(), EtcdError>) {
        if self.wanted.get(key).is_some_and(|wanted| !wanted.told)
            && let Err(error) = outcome
        {
            self.wanted.remove(key);
            self.refused.insert(key.to_owned(), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn fault(fault: EtcdFault) -> Result<(), EtcdError> {
        Err(EtcdError::new(fault, "here", "on purpose"))
    }

    fn put(key: &str) -> Act {
        Act::Put { key: key.into(), value: key.as_bytes().to_vec() }
    }

    /// Does what the registrar asks for, as a healthy etcd would, until it waits; gives what was done.
    fn settle(registrar: &mut Registrar, now: Instant) -> Vec<Act> {
        let mut done = Vec::new();
        loop {
            let act = registrar.next(now);
            if matches!(act, Act::Wait(_) | Act::End) {
                return done;
            }
            registrar.done(&act, now, Ok(()));
            done.push(act);
        }
    }

    fn with(keys: &[&str]) -> Registrar {
        let mut registrar = Registrar::new(TTL);
        keys.iter().for_each(|key| registrar.want((*key).to_owned(), key.as_bytes().to_vec()));
        registrar
    }

    #[test]
    fn the_lease_comes_first_and_the_model_last() {
        let now = Instant::now();
        let mut registrar = with(&["v1/mdc/m", "v1/instances/i", "v1/event_channels/c"]);
        let acts = settle(&mut registrar, now);
        assert_eq!(acts, [Act::Grant, put("v1/event_channels/c"), put("v1/instances/i"), put("v1/mdc/m")]);
        assert_eq!(registrar.next(now), Act::Wait(Some(now + TTL / 3)), "renewed well before its end");
        assert_eq!(settle(&mut registrar, now + TTL / 3), [Act::KeepAlive]);
    }

    #[test]
    fn without_records_there_is_no_lease() {
        assert_eq!(with(&[]).next(Instant::now()), Act::Wait(None));
    }

    #[test]
    fn a_lease_that_is_lost_is_granted_again_and_every_record_written_again() {
        let now = Instant::now();
        let mut registrar = with(&["a", "b"]);
        settle(&mut registrar, now);
        let later = now + TTL;
        registrar.done(&Act::KeepAlive, later, fault(EtcdFault::LeaseGone));
        assert_eq!(settle(&mut registrar, later), [Act::Grant, put("a"), put("b")]);
        assert_eq!(registrar.leases_lost(), 1);
    }

    #[test]
    fn a_put_that_finds_the_lease_gone_begins_with_a_lease_again() {
        let now = Instant::now();
        let mut registrar = with(&["a"]);
        settle(&mut registrar, now);
        assert!(registrar.is_gone("a"));
        registrar.done(&put("a"), now, fault(EtcdFault::LeaseGone));
        assert_eq!(settle(&mut registrar, now), [Act::Grant, put("a")]);
    }

    #[test]
    fn a_grant_whose_answer_was_lost_is_taken_up_by_a_renewal() {
        let now = Instant::now();
        let mut registrar = with(&["a"]);
        registrar.done(&Act::Grant, now, fault(EtcdFault::Unavailable));
        assert_eq!(registrar.next(now), Act::Grant);
        registrar.done(&Act::Grant, now, fault(EtcdFault::LeaseTaken));
        assert_eq!(settle(&mut registrar, now), [Act::KeepAlive, put("a")]);
    }

    #[test]
    fn an_outage_changes_nothing_but_that_it_is_known() {
        let now = Instant::now();
        let mut registrar = with(&["a"]);
        settle(&mut registrar, now);
        for minute in 1..=10 {
            let then = now + Duration::from_secs(60 * minute);
            assert_eq!(registrar.next(then), Act::KeepAlive);
            registrar.done(&Act::KeepAlive, then, fault(EtcdFault::Unavailable));
        }
        assert!(!registrar.is_reachable());
        assert_eq!(registrar.standing("a"), Standing::Written, "as far as anybody knows");
        assert_eq!(registrar.leases_lost(), 0);
    }

    #[test]
    fn what_of_ours_is_absent_or_different_is_written_again_and_nothing_else() {
        let now = Instant::now();
        let mut registrar = with(&["a", "b", "c"]);
        settle(&mut registrar, now);
        let there: BTreeMap<&[u8], &[u8]> =
            [(b"a".as_slice(), b"a".as_slice()), (b"b", b"other"), (b"stranger", b"x")].into();
        assert_eq!(registrar.audit(&there), 2);
        assert_eq!(settle(&mut registrar, now), [put("b"), put("c")]);
        assert!(!registrar.is_gone("stranger"));
    }

    #[test]
    fn a_new_record_that_etcd_refuses_is_given_back_and_an_old_one_is_kept() {
        let now = Instant::now();
        let mut registrar = with(&["old"]);
        settle(&mut registrar, now);
        registrar.want("new".into(), b"new".to_vec());
        registrar.done(&put("new"), now, fault(EtcdFault::Refused));
        assert!(matches!(registrar.standing("new"), Standing::Refused(_)));
        assert_eq!(registrar.standing("new"), Standing::Unknown);
        registrar.is_gone("old");
        registrar.done(&put("old"), now, fault(EtcdFault::Denied));
        assert_eq!(registrar.next(now), put("old"), "rights may come back, and the worker is alive");
    }

    #[test]
    fn withdrawing_deletes_and_closing_revokes() {
        let now = Instant::now();
        let mut registrar = with(&["a", "b"]);
        settle(&mut registrar, now);
        registrar.unwant("a");
        assert!(registrar.is_leaving("a"));
        assert_eq!(settle(&mut registrar, now), [Act::Delete { key: "a".into() }]);
        assert!(!registrar.is_leaving("a"));
        registrar.close();
        assert_eq!(settle(&mut registrar, now), [Act::Revoke]);
        assert!(registrar.has_ended());
    }

    #[test]
    fn a_record_that_is_wanted_again_is_not_deleted() {
        let now = Instant::now();
        let mut registrar = with(&["a"]);
        settle(&mut registrar, now);
        registrar.unwant("a");
        registrar.want("a".into(), b"a".to_vec());
        assert_eq!(settle(&mut registrar, now), [put("a")]);
    }

    #[test]
    fn a_value_that_changed_while_the_old_one_was_written_is_written_too() {
        let now = Instant::now();
        let mut registrar = with(&["a"]);
        registrar.done(&Act::Grant, now, Ok(()));
        let first = registrar.next(now);
        registrar.want("a".into(), b"second".to_vec());
        registrar.done(&first, now, Ok(()));
        assert_eq!(registrar.next(now), Act::Put { key: "a".into(), value: b"second".to_vec() });
    }
}
