//! What this process wants to lie in its DynamoWorkerMetadata, what lies there, and the next act that brings the two
//! together.
//!
//! Pure: the driver asks for an [`Act`], does it, and tells how it went. The object is written as a whole, so a version
//! that grows with each change of what is wanted says all about what has been written.

use super::super::RecordKey;
use super::super::backoff::Backoff;
use super::api::Object;
use super::data;
use super::error::{KubernetesError, KubernetesFault};
use protocol::ids::InstanceId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait before what someone else removed or changed is written again. Two writers that do not know of each
/// other, or a garbage collector that holds our pod for gone, must not keep an API server busy.
const REWRITE_MAX: Duration = Duration::from_secs(30);

/// As long as nobody touches our object, the next one to do so meets no wait.
const PEACE: Duration = Duration::from_secs(120);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// Make the object have these records of ours.
    Apply { version: u64, data: Value },
    /// Remove the object.
    Delete,
    /// Nothing before this moment, or before something is wanted.
    Wait(Option<Instant>),
    /// Nothing any more.
    End,
}

#[derive(Debug)]
struct Wanted {
    value: Value,
    /// The version that first had it so.
    since: u64,
    /// It lay there once: whoever registered it has been told so.
    told: bool,
}

/// What of ours lies in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// Nothing.
    Nothing,
    /// What was wanted at this version.
    Version(u64),
    /// We do not know, or it is not what we wrote.
    Unknown,
}

/// How a record stands with its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Written,
    Waiting,
    /// The API server will not have it.
    Refused(KubernetesError),
    /// Nobody wants it.
    Nobody,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Registrar {
    wanted: BTreeMap<RecordKey, Wanted>,
    version: u64,
    there: There,
    /// UID and generation of the object as we wrote it: what the watch tells of earlier ones is old news.
    written: Option<(String, i64)>,
    /// Records of another field manager lie in the same object.
    shared: bool,
    refused: BTreeMap<RecordKey, KubernetesError>,
    /// The last act succeeded.
    reachable: bool,
    closing: bool,
    rewrites: u64,
    patience: Backoff,
    disturbed: Option<Instant>,
    not_before: Option<Instant>,
}

impl Registrar {
    /// Nothing is wanted. With `stale`, an object of an earlier life of this process may lie there, and is removed first.
    pub(super) fn new(stale: bool) -> Self {
        Self {
            wanted: BTreeMap::new(),
            version: 0,
            there: if stale { There::Unknown } else { There::Nothing },
            written: None,
            shared: false,
            refused: BTreeMap::new(),
            reachable: true,
            closing: false,
            rewrites: 0,
            patience: Backoff::new(REWRITE_MAX),
            disturbed: None,
            not_before: None,
        }
    }

    /// Wants a record, in place of what was wanted under its key.
    pub(super) fn want(&mut self, key: RecordKey, value: Value) {
        self.version += 1;
        self.refused.remove(&key);
        self.wanted.insert(key, Wanted { value, since: self.version, told: false });
    }

    /// Wants it no longer.
    pub(super) fn unwant(&mut self, key: &RecordKey) {
        self.refused.remove(key);
        if self.wanted.remove(key).is_some() {
            self.version += 1;
        }
    }

    /// Wants nothing any more.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.version += 1;
        self.wanted.clear();
    }

    /// Whether an endpoint of this instance is wanted.
    pub(super) fn has_instance(&self, instance: InstanceId) -> bool {
        let id = instance.to_string();
        let mut endpoints = self.wanted.keys().filter(|key| key.bucket == "instances");
        endpoints.any(|key| key.name.rsplit('/').next() == Some(&*id))
    }

    /// How the record under `key` stands. A refusal is told once.
    pub(super) fn standing(&mut self, key: &RecordKey) -> Standing {
        if let Some(error) = self.refused.remove(key) {
            return Standing::Refused(error);
        }
        match (self.wanted.get(key), self.there) {
            (None, _) => Standing::Nobody,
            (Some(wanted), There::Version(version)) if version >= wanted.since => Standing::Written,
            (Some(_), _) => Standing::Waiting,
        }
    }

    /// Whether what was withdrawn up to now may still lie there.
    pub(super) fn is_leaving(&self) -> bool {
        !self.is_settled()
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.reachable
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closing && self.is_settled()
    }

    /// How often our records were not there while we lived.
    pub(super) fn rewrites(&self) -> u64 {
        self.rewrites
    }

    fn is_settled(&self) -> bool {
        match self.there {
            There::Nothing => self.wanted.is_empty(),
            There::Version(version) => version == self.version,
            There::Unknown => false,
        }
    }

    /// The cluster has this as our object, or none. `true` if something of ours was not there: it is written again,
    /// after a wait between half and all of a step that doubles; `chance` is uniform in 0..1.
    pub(super) fn audit(&mut self, object: Option<&Object>, now: Instant, chance: f64) -> bool {
        let There::Version(version) = self.there else { return false };
        if version != self.version || self.wanted.is_empty() {
            return false;
        }
        if let Some(object) = object {
            let known = self.written.as_ref();
            if known.is_some_and(|(uid, generation)| *uid == object.uid && object.generation < *generation) {
                return false;
            }
            let lies_there = data::raw(&object.data);
            if self.wanted.iter().all(|(key, wanted)| lies_there.get(key).copied() == Some(&wanted.value)) {
                return false;
            }
        }
        self.there = There::Unknown;
        self.rewrites += 1;
        if self.disturbed.is_none_or(|at| now >= at + PEACE) {
            self.patience.reset();
        }
        self.disturbed = Some(now);
        self.not_before = Some(now + self.patience.next(chance));
        true
    }

    /// What to do at `now`.
    pub(super) fn next(&self, now: Instant) -> Act {
        if self.is_settled() {
            return if self.closing { Act::End } else { Act::Wait(None) };
        }
        // What is withdrawn is never late.
        if let Some(at) = self.not_before.filter(|at| *at > now && !self.wanted.is_empty()) {
            return Act::Wait(Some(at));
        }
        if self.wanted.is_empty() && !self.shared {
            return Act::Delete;
        }
        let records = self.wanted.iter().map(|(key, wanted)| (key, &wanted.value));
        Act::Apply { version: self.version, data: data::write(records) }
    }

    /// How an act went; `Ok` has the object as it lies there then.
    pub(super) fn done(&mut self, act: &Act, outcome: Result<Option<&Object>, KubernetesError>) {
        self.reachable = outcome.as_ref().err().is_none_or(|error| error.fault != KubernetesFault::Unavailable);
        match (act, outcome) {
            (Act::Apply { version, .. }, Ok(Some(object))) => self.applied(*version, object),
            (Act::Delete, Ok(_)) => (self.there, self.written) = (There::Nothing, None),
            // Whether it was done before the answer was lost, nobody knows.
            (_, Err(error)) => {
                self.there = There::Unknown;
                if !error.may_heal() {
                    self.refuse(&error);
                }
            }
            _ => {}
        }
    }

    fn applied(&mut self, version: u64, object: &Object) {
        self.not_before = None;
        self.written = Some((object.uid.clone(), object.generation));
        // What was wanted at `version` and withdrawn since looks like a stranger's until the next act.
        self.shared = data::raw(&object.data).keys().any(|key| !self.wanted.contains_key(key));
        for wanted in self.wanted.values_mut().filter(|wanted| wanted.since <= version) {
            wanted.told = true;
        }
        self.there = match (self.wanted.is_empty(), self.shared) {
            (true, false) => There::Unknown,
            (true, true) => There::Nothing,
            (false, _) => There::Version(version),
        };
    }

    /// Records that were told to be there are tried again for ever; new ones are given back to who wants them.
    fn refuse(&mut self, error: &KubernetesError) {
        let new: Vec<_> = self.wanted.iter().filter(|(_, wanted)| !wanted.told).map(|(key, _)| key.clone()).collect();
        for key in new {
            self.wanted.remove(&key);
            self.refused.insert(key, error.clone());
            self.version += 1;
        }
        // A deletion that is refused is given up: the object goes with the pod.
        if self.wanted.is_empty() {
            self.there = There::Nothing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stage::endpoint;
    use super::*;
    use serde_json::json;

    fn record(instance: u64) -> (RecordKey, Value) {
        let record = endpoint(instance, 1);
        (RecordKey::of(&record), serde_json::to_value(&record).unwrap())
    }

    fn want(registrar: &mut Registrar, instances: &[u64]) {
        for (key, value) in instances.iter().map(|n| record(*n)) {
            registrar.want(key, value);
        }
    }

    fn data_of(instances: &[u64]) -> Value {
        let records: Vec<_> = instances.iter().map(|n| record(*n)).collect();
        data::write(records.iter().map(|(key, value)| (key, value)))
    }

    fn object(generation: i64, data: Value) -> Object {
        Object { name: "us".into(), uid: "u".into(), generation, owners: vec!["pod".into()], data }
    }

    fn fault(fault: KubernetesFault) -> Result<Option<&'static Object>, KubernetesError> {
        Err(KubernetesError::new(fault, "patch", "on purpose"))
    }

    /// Does what the registrar asks for, as a cluster that only we write to, until it waits.
    fn settle(registrar: &mut Registrar, now: Instant) -> Vec<Act> {
        let mut done = Vec::new();
        loop {
            let act = registrar.next(now);
            let there = match &act {
                Act::Wait(_) | Act::End => return done,
                Act::Apply { version, data } => Some(object(i64::try_from(*version).unwrap(), data.clone())),
                Act::Delete => None,
            };
            registrar.done(&act, Ok(there.as_ref()));
            done.push(act);
        }
    }

    fn applied(act: &Act) -> &Value {
        match act {
            Act::Apply { data, .. } => data,
            other => panic!("{other:?}"),
        }
    }

    fn settled(instances: &[u64]) -> (Registrar, Instant) {
        let now = Instant::now();
        let mut registrar = Registrar::new(false);
        want(&mut registrar, instances);
        settle(&mut registrar, now);
        (registrar, now)
    }

    #[test]
    fn a_process_without_records_touches_no_object_unless_it_is_its_own_of_an_earlier_life() {
        let now = Instant::now();
        assert_eq!(settle(&mut Registrar::new(false), now), []);
        assert_eq!(settle(&mut Registrar::new(true), now), [Act::Delete]);
    }

    #[test]
    fn all_records_go_in_one_write_and_withdrawing_the_last_removes_the_object() {
        let now = Instant::now();
        let mut registrar = Registrar::new(false);
        want(&mut registrar, &[1, 2]);
        assert_eq!(registrar.standing(&record(1).0), Standing::Waiting);
        let acts = settle(&mut registrar, now);
        assert_eq!(acts.iter().map(applied).collect::<Vec<_>>(), [&data_of(&[1, 2])]);
        assert_eq!(registrar.standing(&record(1).0), Standing::Written);
        registrar.unwant(&record(1).0);
        assert!(registrar.is_leaving());
        assert_eq!(settle(&mut registrar, now).iter().map(applied).collect::<Vec<_>>(), [&data_of(&[2])]);
        registrar.unwant(&record(2).0);
        assert_eq!(settle(&mut registrar, now), [Act::Delete]);
        assert!(!registrar.is_leaving());
        registrar.close();
        assert_eq!(registrar.next(now), Act::End);
        assert!(registrar.has_ended());
    }

    #[test]
    fn the_records_of_another_process_of_the_pod_stay() {
        let (mut registrar, now) = settled(&[1]);
        want(&mut registrar, &[2]);
        let act = registrar.next(now);
        registrar.done(&act, Ok(Some(&object(9, data_of(&[1, 2, 7])))));
        registrar.close();
        let act = registrar.next(now);
        assert_eq!(applied(&act), &data_of(&[]), "only what is ours goes");
        registrar.done(&act, Ok(Some(&object(10, data_of(&[7])))));
        assert_eq!(registrar.next(now), Act::End);
    }

    #[test]
    fn what_was_removed_or_changed_by_someone_else_is_written_again_ever_later() {
        let (mut registrar, now) = settled(&[1]);
        let lost = [None, Some(object(9, data_of(&[]))), Some(object(9, json!(null)))];
        let mut waits = Vec::new();
        for there in lost {
            assert!(registrar.audit(there.as_ref(), now, 1.0));
            assert!(!registrar.audit(None, now, 1.0), "known already");
            let Act::Wait(Some(at)) = registrar.next(now) else { panic!("{:?}", registrar.next(now)) };
            waits.push((at - now).as_millis());
            assert_eq!(settle(&mut registrar, at).len(), 1);
        }
        assert_eq!(waits, [100, 200, 400]);
        let later = now + PEACE;
        assert!(registrar.audit(None, later, 1.0));
        assert_eq!(registrar.next(later), Act::Wait(Some(later + Duration::from_millis(100))), "forgotten");
        assert_eq!(registrar.rewrites(), 4);
        registrar.close();
        assert_eq!(registrar.next(later), Act::Delete, "leaving does not wait");
    }

    #[test]
    fn old_news_and_what_others_added_are_no_loss() {
        let (mut registrar, now) = settled(&[1]);
        want(&mut registrar, &[2]);
        settle(&mut registrar, now);
        assert!(!registrar.audit(Some(&object(1, data_of(&[1]))), now, 1.0), "from before the last write");
        assert!(!registrar.audit(Some(&object(9, data_of(&[1, 2, 3]))), now, 1.0));
        want(&mut registrar, &[4]);
        assert!(!registrar.audit(None, now, 1.0), "it is about to be written");
    }

    #[test]
    fn an_outage_changes_nothing_but_that_it_is_known() {
        let (mut registrar, now) = settled(&[1]);
        want(&mut registrar, &[2]);
        let act = registrar.next(now);
        registrar.done(&act, fault(KubernetesFault::Unavailable));
        assert!(!registrar.is_reachable());
        assert_eq!(registrar.next(now), act);
        assert_eq!(settle(&mut registrar, now).len(), 1);
        assert!(registrar.is_reachable());
    }

    #[test]
    fn a_new_record_that_is_refused_is_given_back_and_an_old_one_is_kept() {
        let (mut registrar, now) = settled(&[1]);
        want(&mut registrar, &[2]);
        let act = registrar.next(now);
        registrar.done(&act, fault(KubernetesFault::Refused));
        assert!(matches!(registrar.standing(&record(2).0), Standing::Refused(_)));
        assert_eq!(registrar.standing(&record(2).0), Standing::Nobody);
        assert_eq!(applied(&registrar.next(now)), &data_of(&[1]));
        settle(&mut registrar, now);
        assert!(registrar.audit(None, now, 0.0));
        let later = now + REWRITE_MAX;
        let act = registrar.next(later);
        registrar.done(&act, fault(KubernetesFault::Denied));
        assert_eq!(registrar.next(later), act, "rights may come back, and the worker is alive");
    }
}
