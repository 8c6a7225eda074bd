//! What the cluster tells, as far as we know, brought into a [`Table`].
//!
//! A record is in the table while two things hold: a DynamoWorkerMetadata has it, and the pod that owns this object is
//! ready. Either may end it. What the watch says ends it at once. What is only different in a list after an interruption
//! ends it after a grace: an API server that comes back with nodes that it has not heard of, or without its data, must not
//! look like the death of every worker. The grace runs only while we hear of changes.
//!
//! Pure but for the table: time comes in as an argument.

use super::super::table::Table;
use super::super::{RECORDS_MAX, RecordKey};
use super::api::{Object, Readiness, Seen, Target};
use super::data;
use protocol::discovery::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Grace of what a list after an interruption does not have. A pod's readiness probe comes every ten seconds and may
/// miss three; its node tells of itself every ten.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// What the object of one pod tells.
#[derive(Debug, Default)]
struct Told {
    owners: Vec<String>,
    records: BTreeMap<RecordKey, Record>,
}

/// Objects whose pods became ready, or are it no more, by one source.
#[derive(Debug, Default)]
struct Moved {
    gained: BTreeSet<String>,
    lost: BTreeSet<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    table: Arc<Table>,
    objects: BTreeMap<String, Told>,
    readiness: BTreeMap<String, BTreeSet<Target>>,
    /// How many of the EndpointSlices say that a target is ready.
    ready: BTreeMap<Target, usize>,
    /// What is in the table, by the object that told it.
    shown: BTreeMap<String, BTreeSet<RecordKey>>,
    records: usize,
    /// Objects whose records are in the table only for the grace, and when that ends.
    absent: BTreeMap<String, Instant>,
    complained: BTreeSet<String>,
}

/// What a change says of the records of a pod that are not served after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// They went by it.
    Loss,
    /// Nothing: what is in its grace stays there.
    Gain,
    /// Something happened while nobody told us; it is judged when the grace is over.
    List { gone_at: Instant },
}

impl Mirror {
    /// An empty mirror.
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            objects: BTreeMap::new(),
            readiness: BTreeMap::new(),
            ready: BTreeMap::new(),
            shown: BTreeMap::new(),
            records: 0,
            absent: BTreeMap::new(),
            complained: BTreeSet::new(),
        }
    }

    /// Takes in what an EndpointSlice, or a pod in container mode, says.
    pub(super) fn take_readiness(&mut self, seen: Seen<Readiness>, now: Instant) {
        match seen {
            Seen::Put(one) => {
                let moved = self.set_readiness(&one.name, one.ready.into_iter().collect());
                self.refresh(&moved.lost, News::Loss);
                self.refresh(&moved.gained, News::Gain);
            }
            Seen::Gone(name) => {
                let moved = self.set_readiness(&name, BTreeSet::new());
                self.refresh(&moved.lost, News::Loss);
            }
            Seen::All(all) => {
                let there: BTreeSet<_> = all.iter().map(|one| one.name.clone()).collect();
                let gone: Vec<_> = self.readiness.keys().filter(|name| !there.contains(*name)).cloned().collect();
                let mut touched = BTreeSet::new();
                for name in gone {
                    self.set_readiness(&name, BTreeSet::new());
                }
                for one in all {
                    touched.extend(self.set_readiness(&one.name, one.ready.into_iter().collect()).gained);
                }
                self.relisted(touched, now);
            }
        }
    }

    /// Takes in what a DynamoWorkerMetadata says.
    pub(super) fn take_object(&mut self, seen: Seen<Object>, now: Instant) {
        match seen {
            Seen::Put(object) => {
                let name = object.name.clone();
                let news = if self.set_object(object) { News::Loss } else { News::Gain };
                self.refresh_one(&name, news);
            }
            Seen::Gone(name) => {
                self.objects.remove(&name);
                self.refresh_one(&name, News::Loss);
            }
            Seen::All(all) => {
                let there: BTreeSet<_> = all.iter().map(|object| object.name.clone()).collect();
                self.objects.retain(|name, _| there.contains(name));
                for object in all {
                    self.set_object(object);
                }
                self.relisted(there, now);
            }
        }
    }

    /// Nobody tells us of changes: nothing goes until the next list.
    pub(super) fn interrupt(&mut self) {
        self.absent.clear();
    }

    /// When [`Mirror::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.absent.values().min().copied()
    }

    /// Drops what stayed absent through its grace.
    pub(super) fn expire(&mut self, now: Instant) {
        let over: BTreeSet<_> =
            self.absent.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in &over {
            tracing::info!(object = name, "dropped: its pod did not become ready again");
        }
        self.refresh(&over, News::Loss);
    }

    /// After a list: what it changed, and what was absent before the interruption that ended the grace.
    fn relisted(&mut self, mut touched: BTreeSet<String>, now: Instant) {
        touched.extend(self.shown.keys().cloned());
        self.refresh(&touched, News::List { gone_at: now + GRACE });
        if !self.absent.is_empty() {
            tracing::warn!(
                pods = self.absent.len(),
                grace_secs = GRACE.as_secs(),
                "the API server came back without pods that were ready before; they are kept until they had time to be ready again"
            );
        }
    }

    /// Sets what one source of readiness says.
    fn set_readiness(&mut self, name: &str, now_ready: BTreeSet<Target>) -> Moved {
        let before = self.readiness.remove(name).unwrap_or_default();
        let mut moved = Moved::default();
        for target in now_ready.difference(&before) {
            *self.ready.entry(target.clone()).or_default() += 1;
            moved.gained.insert(target.object.clone());
        }
        for target in before.difference(&now_ready) {
            moved.lost.insert(target.object.clone());
            if let Some(count) = self.ready.get_mut(target) {
                *count -= 1;
                if *count == 0 {
                    self.ready.remove(target);
                }
            }
        }
        if !now_ready.is_empty() {
            self.readiness.insert(name.to_owned(), now_ready);
        }
        moved
    }

    /// Sets what an object tells; `true` if it told more before, or was another pod's.
    fn set_object(&mut self, object: Object) -> bool {
        let mut records = BTreeMap::new();
        for (key, value) in data::raw(&object.data) {
            match data::record(&key.bucket, value) {
                Ok((key, record)) => {
                    records.insert(key, record);
                }
                Err(why) => self.complain(&format!("{}: {key}", object.name), &format!("a malformed record: {why}")),
            }
        }
        let told = Told { owners: object.owners, records };
        let before = self.objects.get(&object.name);
        let lost = before.is_some_and(|before| {
            before.owners != told.owners || before.records.keys().any(|key| !told.records.contains_key(key))
        });
        self.objects.insert(object.name, told);
        lost
    }

    /// Whether the pod that owns the object is ready.
    fn is_ready(&self, name: &str, told: &Told) -> bool {
        told.owners
            .iter()
            .any(|owner| self.ready.contains_key(&Target { object: name.to_owned(), pod_uid: owner.clone() }))
    }

    fn refresh(&mut self, names: &BTreeSet<String>, news: News) {
        for name in names {
            self.refresh_one(name, news);
        }
    }

    fn refresh_one(&mut self, name: &str, news: News) {
        let told = self.objects.get(name);
        let served = told.filter(|told| self.is_ready(name, told)).map(|told| told.records.clone()).unwrap_or_default();
        let shown = self.shown.get(name).cloned().unwrap_or_default();
        let missing = shown.iter().any(|key| !served.contains_key(key));
        match news {
            News::List { gone_at } if missing => {
                self.absent.entry(name.to_owned()).or_insert(gone_at);
            }
            News::Gain if missing => {}
            News::Loss | News::Gain | News::List { .. } => {
                self.absent.remove(name);
            }
        }
        let keep = self.absent.contains_key(name);
        let mut shows = BTreeSet::new();
        for key in shown {
            if served.contains_key(&key) || keep {
                shows.insert(key);
            } else {
                self.table.delete(&key);
                self.records -= 1;
            }
        }
        for (key, record) in served {
            if !shows.contains(&key) {
                if self.records >= RECORDS_MAX {
                    self.complain("too many", &format!("more than {RECORDS_MAX} records; the rest is ignored"));
                    continue;
                }
                self.records += 1;
                shows.insert(key.clone());
            }
            self.table.put(key, record);
        }
        if shows.is_empty() {
            self.shown.remove(name);
        } else {
            self.shown.insert(name.to_owned(), shows);
        }
    }

    /// Says each complaint once in the life of the process.
    fn complain(&mut self, subject: &str, why: &str) {
        if self.complained.len() < RECORDS_MAX && self.complained.insert(subject.to_owned()) {
            tracing::warn!(subject, why, "discovery");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stage::endpoint;
    use super::*;
    use serde_json::{Value, json};

    struct Stage {
        mirror: Mirror,
        table: Arc<Table>,
        start: Instant,
    }

    fn object(pod: &str, uid: &str, instances: &[u64]) -> Object {
        let records: Vec<_> = instances
            .iter()
            .map(|n| endpoint(*n, 1))
            .map(|record| (RecordKey::of(&record), serde_json::to_value(&record).unwrap()))
            .collect();
        let data = data::write(records.iter().map(|(key, value)| (key, value)));
        Object { name: pod.into(), uid: format!("of {pod}"), generation: 1, owners: vec![uid.into()], data }
    }

    fn slice(name: &str, pods: &[(&str, &str)]) -> Readiness {
        let target = |(pod, uid): &(&str, &str)| Target { object: (*pod).into(), pod_uid: (*uid).into() };
        Readiness { name: name.into(), ready: pods.iter().map(target).collect() }
    }

    impl Stage {
        /// Two pods with one record each, both ready.
        fn new() -> Self {
            let table = Arc::new(Table::default());
            let mut stage = Self { mirror: Mirror::new(table.clone()), table, start: Instant::now() };
            stage.objects(0, Seen::All(vec![object("a", "1", &[1]), object("b", "2", &[2])]));
            stage.check(&[], "nobody is ready");
            stage.slices(0, Seen::All(vec![slice("s", &[("a", "1"), ("b", "2")])]));
            stage.check(&[1, 2], "both are");
            stage
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn slices(&mut self, seconds: u64, seen: Seen<Readiness>) {
            self.mirror.take_readiness(seen, self.at(seconds));
        }

        fn objects(&mut self, seconds: u64, seen: Seen<Object>) {
            self.mirror.take_object(seen, self.at(seconds));
        }

        fn check(&self, expected: &[u64], why: &str) {
            let names: Vec<_> = self.table.snapshot().into_iter().map(|(key, _)| key.name).collect();
            let expected: Vec<_> = expected.iter().map(|n| format!("dynamo/backend/generate/{n:x}")).collect();
            assert_eq!(names, expected, "{why}");
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_any_more_is_gone_at_once_and_back_when_it_is() {
        let mut stage = Stage::new();
        stage.slices(1, Seen::Put(slice("s", &[("b", "2")])));
        stage.check(&[2], "a is not ready");
        stage.slices(2, Seen::Put(slice("s", &[("a", "1"), ("b", "2")])));
        stage.check(&[1, 2], "a is ready again");
        stage.slices(3, Seen::Gone("s".into()));
        stage.check(&[], "the slice is gone");
    }

    #[test]
    fn a_record_that_is_withdrawn_or_an_object_that_is_deleted_is_gone_at_once() {
        let mut stage = Stage::new();
        stage.objects(1, Seen::Put(object("a", "1", &[])));
        stage.check(&[2], "a has withdrawn");
        stage.objects(2, Seen::Put(object("a", "1", &[1, 3])));
        stage.check(&[1, 2, 3], "a has two");
        stage.objects(3, Seen::Gone("a".into()));
        stage.check(&[2], "its object is gone");
    }

    #[test]
    fn a_pod_of_the_same_name_is_another_one() {
        let mut stage = Stage::new();
        stage.slices(1, Seen::Put(slice("s", &[("a", "9"), ("b", "2")])));
        stage.check(&[2], "the object is of the pod before");
        stage.objects(2, Seen::Put(object("a", "9", &[1])));
        stage.check(&[1, 2], "and now of the new one");
    }

    #[test]
    fn one_of_two_slices_is_enough() {
        let mut stage = Stage::new();
        stage.slices(1, Seen::Put(slice("t", &[("a", "1")])));
        stage.slices(2, Seen::Put(slice("s", &[("b", "2")])));
        stage.check(&[1, 2], "t has it");
        stage.slices(3, Seen::Gone("t".into()));
        stage.check(&[2], "nobody has it");
    }

    #[test]
    fn what_only_a_list_does_not_have_stays_for_the_grace() {
        for not_ready in [true, false] {
            let mut stage = Stage::new();
            stage.mirror.interrupt();
            if not_ready {
                stage.slices(10, Seen::All(vec![slice("s", &[("b", "2")])]));
            } else {
                stage.objects(10, Seen::All(vec![object("b", "2", &[2])]));
            }
            let grace = GRACE.as_secs();
            assert_eq!(stage.mirror.next_expiry(), Some(stage.at(10 + grace)));
            stage.mirror.expire(stage.at(9 + grace));
            stage.check(&[1, 2], "within the grace");
            stage.mirror.expire(stage.at(10 + grace));
            stage.check(&[2], "after it");
        }
    }

    #[test]
    fn the_grace_ends_with_what_happens_and_begins_anew_with_the_next_outage() {
        let mut stage = Stage::new();
        stage.slices(1, Seen::All(vec![]));
        stage.slices(2, Seen::Put(slice("s", &[("b", "2")])));
        stage.mirror.interrupt();
        stage.mirror.expire(stage.at(10_000));
        stage.check(&[1, 2], "nobody tells us anything");
        stage.slices(10_000, Seen::All(vec![slice("s", &[("b", "2")])]));
        assert_eq!(stage.mirror.next_expiry(), Some(stage.at(10_000) + GRACE));
        stage.objects(10_001, Seen::Gone("a".into()));
        stage.check(&[2], "a delete is news, whatever the grace");
        assert_eq!(stage.mirror.next_expiry(), None);
    }

    #[test]
    fn a_pod_in_its_grace_that_registers_again_before_it_is_ready_keeps_its_records() {
        let mut stage = Stage::new();
        stage.objects(1, Seen::All(vec![]));
        stage.slices(1, Seen::All(vec![]));
        stage.objects(2, Seen::Put(object("a", "1", &[1])));
        stage.check(&[1, 2], "it lives, and is not ready yet");
        stage.slices(20, Seen::Put(slice("s", &[("a", "1")])));
        stage.mirror.expire(stage.at(1) + GRACE);
        stage.check(&[1], "and b never came back");
    }

    #[test]
    fn a_change_to_a_pod_that_is_in_its_grace_is_shown() {
        let mut stage = Stage::new();
        stage.objects(1, Seen::All(vec![object("a", "1", &[3]), object("b", "2", &[2])]));
        stage.check(&[1, 2, 3], "the new record at once, the old one for the grace");
        stage.mirror.expire(stage.at(1) + GRACE);
        stage.check(&[2, 3], "after it");
    }

    #[test]
    fn malformed_objects_harm_nobody_else() {
        let mut stage = Stage::new();
        let broken = |data: Value| Object { data, ..object("a", "1", &[]) };
        for data in
            [json!(null), json!([]), json!({"endpoints": {"x": {"type": "Endpoint"}}}), json!({"endpoints": null})]
        {
            stage.objects(1, Seen::Put(broken(data)));
            stage.check(&[2], "a has nothing that can be read");
        }
        stage.objects(2, Seen::Put(object("a", "1", &[1])));
        stage.check(&[1, 2], "and now it has");
        stage.objects(3, Seen::Put(Object { owners: vec![], ..object("a", "1", &[1]) }));
        stage.check(&[2], "an object that no pod owns is nobody's");
    }
}
