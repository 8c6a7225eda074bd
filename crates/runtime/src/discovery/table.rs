//! The records of a store as one process knows them, and watchers that compare what they have told with it.

use super::{Change, RecordKey};
use parking_lot::Mutex;
use protocol::discovery::Record;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// A record and the revision of the table at which it got its content.
#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    revision: u64,
}

type Entries = Arc<Mutex<BTreeMap<RecordKey, Entry>>>;

/// All records that are there now.
#[derive(Debug)]
pub(super) struct Table {
    entries: Entries,
    revision: watch::Sender<u64>,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: Entries::default(), revision: watch::Sender::new(0) }
    }
}

impl Table {
    /// Sets a record. The same content again is no change.
    pub(super) fn put(&self, key: RecordKey, record: Record) {
        self.change(|entries, revision| {
            if entries.get(&key).is_some_and(|entry| *entry.record == record) {
                return false;
            }
            entries.insert(key, Entry { record: Arc::new(record), revision });
            true
        });
    }

    /// Removes a record, if it is there.
    pub(super) fn delete(&self, key: &RecordKey) {
        self.change(|entries, _| entries.remove(key).is_some());
    }

    fn change(&self, apply: impl FnOnce(&mut BTreeMap<RecordKey, Entry>, u64) -> bool) {
        // The entries change inside the sender's own lock, so revisions in entries only grow.
        self.revision.send_if_modified(|revision| {
            let changed = apply(&mut self.entries.lock(), *revision + 1);
            *revision += u64::from(changed);
            changed
        });
    }

    pub(super) fn snapshot(&self) -> Vec<(RecordKey, Arc<Record>)> {
        self.entries.lock().iter().map(|(key, entry)| (key.clone(), entry.record.clone())).collect()
    }

    pub(super) fn watch(&self) -> Watch {
        let mut revision = self.revision.subscribe();
        revision.mark_changed();
        Watch { entries: self.entries.clone(), revision, told: BTreeMap::new(), ready: VecDeque::new() }
    }
}

/// A view of all records that catches up with the table step by step.
///
/// It holds the keys it has told, so its size is bounded by the number of records, whatever the pace of changes.
#[derive(Debug)]
pub struct Watch {
    entries: Entries,
    revision: watch::Receiver<u64>,
    told: BTreeMap<RecordKey, u64>,
    ready: VecDeque<Change>,
}

impl Watch {
    /// The next change: first a `Put` for each record that is there, then what happens. `None` when every
    /// [`Discovery`](super::Discovery) of the store in this process is dropped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            if self.revision.changed().await.is_err() {
                self.catch_up();
                return self.ready.pop_front();
            }
            self.catch_up();
        }
    }

    /// A change that is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Change> {
        if self.ready.is_empty() && self.revision.has_changed().unwrap_or(true) {
            self.revision.mark_unchanged();
            self.catch_up();
        }
        self.ready.pop_front()
    }

    /// Writes down the difference between what was told and what is.
    fn catch_up(&mut self) {
        let entries = self.entries.lock();
        let ready = &mut self.ready;
        // Deletions first: a worker that came back under a new key should not be seen twice.
        self.told.retain(|key, _| {
            let stays = entries.contains_key(key);
            if !stays {
                ready.push_back(Change::Delete { key: key.clone() });
            }
            stays
        });
        for (key, entry) in entries.iter() {
            if self.told.get(key) != Some(&entry.revision) {
                self.told.insert(key.clone(), entry.revision);
                ready.push_back(Change::Put { key: key.clone(), record: (*entry.record).clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::discovery::{EndpointRecord, RequestTransport};
    use protocol::ids::InstanceId;

    fn endpoint(instance: u64, address: &str) -> (RecordKey, Record) {
        let record = Record::Endpoint(EndpointRecord {
            component: "backend".into(),
            endpoint: "generate".into(),
            namespace: "dynamo".into(),
            instance_id: InstanceId(instance),
            transport: RequestTransport::Tcp(address.into()),
            device_type: None,
            request_plane_codec: None,
        });
        (RecordKey::of(&record), record)
    }

    fn seen(watch: &mut Watch) -> Vec<String> {
        std::iter::from_fn(|| watch.try_next())
            .map(|change| match change {
                Change::Put { key, record: Record::Endpoint(r) } => format!("put {} {:?}", key.name, r.transport),
                Change::Put { key, .. } => format!("put {}", key.name),
                Change::Delete { key } => format!("delete {}", key.name),
            })
            .collect()
    }

    fn put(table: &Table, instance: u64, address: &str) {
        let (key, record) = endpoint(instance, address);
        table.put(key, record);
    }

    #[test]
    fn a_watch_starts_with_all_that_exists_and_goes_on_with_changes() {
        let table = Table::default();
        put(&table, 1, "a");
        let mut watch = table.watch();
        assert_eq!(seen(&mut watch), [r#"put dynamo/backend/generate/1 Tcp("a")"#]);
        put(&table, 1, "a");
        assert!(seen(&mut watch).is_empty(), "the same content is no change");
        put(&table, 1, "b");
        put(&table, 2, "c");
        table.delete(&endpoint(2, "").0);
        assert_eq!(seen(&mut watch), [r#"put dynamo/backend/generate/1 Tcp("b")"#], "2 came and went unseen");
        table.delete(&endpoint(1, "").0);
        assert_eq!(seen(&mut watch), ["delete dynamo/backend/generate/1"]);
    }

    #[test]
    fn a_watcher_that_sleeps_through_a_hundred_thousand_changes_holds_one_and_misses_no_delete() {
        let table = Table::default();
        put(&table, 1, "first");
        put(&table, 2, "stays");
        let mut watch = table.watch();
        assert_eq!(seen(&mut watch).len(), 2);
        for n in 0..100_000 {
            put(&table, 1, &n.to_string());
        }
        table.delete(&endpoint(2, "").0);
        assert_eq!(
            seen(&mut watch),
            ["delete dynamo/backend/generate/2", r#"put dynamo/backend/generate/1 Tcp("99999")"#]
        );
    }

    #[test]
    fn a_record_that_was_replaced_between_two_looks_is_told_again() {
        let table = Table::default();
        put(&table, 1, "a");
        let mut watch = table.watch();
        seen(&mut watch);
        table.delete(&endpoint(1, "").0);
        put(&table, 1, "a");
        assert_eq!(seen(&mut watch), [r#"put dynamo/backend/generate/1 Tcp("a")"#], "a worker that came back is new");
    }

    #[tokio::test]
    async fn a_watch_ends_after_the_last_change_when_the_store_is_gone() {
        let table = Table::default();
        put(&table, 1, "a");
        let mut watch = table.watch();
        drop(table);
        assert!(matches!(watch.next().await, Some(Change::Put { .. })));
        assert_eq!(watch.next().await, None);
    }
}
