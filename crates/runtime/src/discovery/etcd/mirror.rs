//! What lies in etcd, as far as we know, brought into a [`Table`].
//!
//! A key goes when a delete of the watch names it. A key that is only absent from a list stays for a grace: an etcd that
//! came back without its data must not look like the death of every worker. The grace runs only while the watch does.
//!
//! Pure but for the table: time comes in as an argument.

use super::super::table::Table;
use super::super::{BUCKETS, RECORD_BYTES_MAX, RECORDS_MAX, RecordKey};
use super::api::{Listing, PREFIX, RawRecord, WatchEvent};
use protocol::discovery::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Grace of a key that is absent without a delete, in lease times. A process that lives has spoken to the store within
/// one; the second is for a store that everybody comes back to at once.
const GRACE_TTLS: u32 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    table: Arc<Table>,
    grace: Duration,
    /// A fingerprint of each value, so that the same bytes are neither parsed nor complained about again. Malformed
    /// records are in here too.
    known: BTreeMap<RecordKey, u64>,
    /// What was not in the last list, and when it goes.
    absent: BTreeMap<RecordKey, Instant>,
    complained: BTreeSet<String>,
}

impl Mirror {
    /// An empty mirror for members whose leases have `ttl`.
    pub(super) fn new(table: Arc<Table>, ttl: Duration) -> Self {
        Self {
            table,
            grace: ttl * GRACE_TTLS,
            known: BTreeMap::new(),
            absent: BTreeMap::new(),
            complained: BTreeSet::new(),
        }
    }

    /// Takes in all that lies there at `now`.
    pub(super) fn relist(&mut self, listing: &Listing, now: Instant) {
        let mut there = BTreeSet::new();
        for record in &listing.records {
            if let Some(key) = self.take_in(record) {
                there.insert(key);
            }
        }
        if listing.cut {
            self.complain("too many", &format!("more than {RECORDS_MAX} records in etcd; the rest is ignored"));
            return;
        }
        let gone_at = now + self.grace;
        for key in self.known.keys().filter(|key| !there.contains(*key)) {
            self.absent.entry(key.clone()).or_insert(gone_at);
        }
        if !self.absent.is_empty() {
            tracing::warn!(
                records = self.absent.len(),
                grace_secs = self.grace.as_secs(),
                "etcd came back without records that nobody deleted; they are kept until their owners had time to register again"
            );
        }
    }

    /// Takes in what changed.
    pub(super) fn apply(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Put(record) => {
                self.take_in(record);
            }
            WatchEvent::Delete { key } => {
                if let Some(key) = parse_key(key) {
                    self.forget(&key);
                }
            }
        }
    }

    /// The watch is down: nothing goes until the next list.
    pub(super) fn interrupt(&mut self) {
        self.absent.clear();
    }

    /// When [`Mirror::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.absent.values().min().copied()
    }

    /// Drops what stayed absent through its grace.
    pub(super) fn expire(&mut self, now: Instant) {
        let gone: Vec<_> = self.absent.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            tracing::info!(%key, "dropped: its owner did not register again");
            self.forget(key);
        }
    }

    fn take_in(&mut self, raw: &RawRecord) -> Option<RecordKey> {
        let Some(key) = parse_key(&raw.key) else {
            self.complain(&String::from_utf8_lossy(&raw.key), "no key of discovery; skipped");
            return None;
        };
        let fingerprint = fingerprint_of(&raw.value);
        self.absent.remove(&key);
        if self.known.get(&key) == Some(&fingerprint) {
            return Some(key);
        }
        if self.known.len() >= RECORDS_MAX && !self.known.contains_key(&key) {
            self.complain("too many", &format!("more than {RECORDS_MAX} records in etcd; the rest is ignored"));
            return None;
        }
        self.known.insert(key.clone(), fingerprint);
        match parse_record(&key, &raw.value) {
            Ok(record) => self.table.put(key.clone(), record),
            Err(why) => {
                tracing::warn!(%key, %why, "skipping a malformed discovery record");
                // A record that was good and is not any more is not the old record either.
                self.table.delete(&key);
            }
        }
        Some(key)
    }

    fn forget(&mut self, key: &RecordKey) {
        self.absent.remove(key);
        if self.known.remove(key).is_some() {
            self.table.delete(key);
        }
    }

    /// Says each complaint once in the life of the process.
    fn complain(&mut self, subject: &str, why: &str) {
        if self.complained.len() < RECORDS_MAX && self.complained.insert(subject.to_owned()) {
            tracing::warn!(subject, why, "discovery");
        }
    }
}

fn fingerprint_of(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn parse_key(key: &[u8]) -> Option<RecordKey> {
    let (bucket, name) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    let known = BUCKETS.contains(&bucket) && !name.is_empty();
    known.then(|| RecordKey { bucket: bucket.to_owned(), name: name.to_owned() })
}

fn parse_record(key: &RecordKey, value: &[u8]) -> Result<Record, String> {
    if value.len() as u64 > RECORD_BYTES_MAX {
        return Err(format!("{} bytes are more than {RECORD_BYTES_MAX}", value.len()));
    }
    let record: Record = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let bucket = record.key().0;
    if bucket == key.bucket { Ok(record) } else { Err(format!("a record of bucket {bucket} lies in {}", key.bucket)) }
}

#[cfg(test)]
mod tests {
    use super::super::super::stage::endpoint;
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn raw(instance: u64) -> RawRecord {
        let record = endpoint(instance, 1);
        RawRecord {
            key: RecordKey::of(&record).to_string().into_bytes(),
            value: serde_json::to_vec(&record).expect("a record is JSON"),
        }
    }

    fn listing(instances: &[u64]) -> Listing {
        Listing { revision: 1, records: instances.iter().map(|n| raw(*n)).collect(), cut: false }
    }

    struct Seen {
        mirror: Mirror,
        table: Arc<Table>,
        start: Instant,
    }

    impl Seen {
        fn new() -> Self {
            let table = Arc::new(Table::default());
            Self { mirror: Mirror::new(table.clone(), TTL), table, start: Instant::now() }
        }

        /// Instances in the table.
        fn check(&self, expected: &[u64]) {
            let names: Vec<_> = self.table.snapshot().into_iter().map(|(key, _)| key.name).collect();
            let expected: Vec<_> = expected.iter().map(|n| format!("dynamo/backend/generate/{n:x}")).collect();
            assert_eq!(names, expected);
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }
    }

    #[test]
    fn a_record_that_is_only_absent_stays_for_two_lease_times() {
        let mut seen = Seen::new();
        seen.mirror.relist(&listing(&[1, 2]), seen.at(0));
        seen.mirror.relist(&listing(&[2]), seen.at(10));
        assert_eq!(seen.mirror.next_expiry(), Some(seen.at(70)));
        seen.mirror.expire(seen.at(69));
        seen.check(&[1, 2]);
        seen.mirror.expire(seen.at(70));
        seen.check(&[2]);
    }

    #[test]
    fn a_delete_that_names_a_record_removes_it_at_once() {
        let mut seen = Seen::new();
        seen.mirror.relist(&listing(&[1, 2]), seen.at(0));
        seen.mirror.apply(&WatchEvent::Delete { key: raw(1).key });
        seen.check(&[2]);
    }

    #[test]
    fn an_owner_that_registers_again_within_the_grace_keeps_its_record() {
        let mut seen = Seen::new();
        seen.mirror.relist(&listing(&[1]), seen.at(0));
        seen.mirror.relist(&listing(&[]), seen.at(1));
        seen.mirror.apply(&WatchEvent::Put(raw(1)));
        assert_eq!(seen.mirror.next_expiry(), None);
        seen.check(&[1]);
    }

    #[test]
    fn the_grace_begins_anew_when_the_store_is_away_again() {
        let mut seen = Seen::new();
        seen.mirror.relist(&listing(&[1]), seen.at(0));
        seen.mirror.relist(&listing(&[]), seen.at(1));
        seen.mirror.interrupt();
        seen.mirror.expire(seen.at(10_000));
        seen.check(&[1]);
        seen.mirror.relist(&listing(&[]), seen.at(10_000));
        assert_eq!(seen.mirror.next_expiry(), Some(seen.at(10_060)));
    }

    #[test]
    fn a_list_that_was_cut_says_nothing_about_what_is_not_in_it() {
        let mut seen = Seen::new();
        seen.mirror.relist(&listing(&[1, 2]), seen.at(0));
        seen.mirror.relist(&Listing { cut: true, ..listing(&[1]) }, seen.at(1));
        assert_eq!(seen.mirror.next_expiry(), None);
        seen.check(&[1, 2]);
    }

    #[test]
    fn malformed_records_and_strange_keys_are_skipped() {
        let mut seen = Seen::new();
        let put = |key: &str, value: &[u8]| WatchEvent::Put(RawRecord { key: key.into(), value: value.into() });
        for event in [
            put("v1/instances/dynamo/backend/generate/2", b"{\"type\":\"Endpoint\","),
            put("v1/instances/", &raw(1).value),
            put("v1/strange/x", &raw(1).value),
            put("v1/mdc/dynamo/backend/generate/1", &raw(1).value),
            put("v1/instances/dynamo/backend/generate/3", &vec![b' '; RECORD_BYTES_MAX as usize + 1]),
            WatchEvent::Put(RawRecord { key: b"v1/instances/\xff".to_vec(), value: raw(1).value }),
            WatchEvent::Put(raw(1)),
        ] {
            seen.mirror.apply(&event);
        }
        seen.check(&[1]);
        // A record that turns bad is gone, and one that turns good is there.
        let key = String::from_utf8(raw(1).key).expect("a key is text");
        seen.mirror.apply(&put(&key, b"[]"));
        seen.check(&[]);
        seen.mirror.apply(&WatchEvent::Put(raw(2)));
        seen.check(&[2]);
    }
}
