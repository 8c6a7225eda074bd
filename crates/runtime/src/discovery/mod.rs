//! Discovery: who is there, and how to reach them.
//!
//! A [`Discovery`] is one *member* of a store: it registers records, keeps them alive, withdraws them, and watches those
//! of everybody. Two stores exist: files in a shared folder (Dynamo's `DYN_FILE_KV`), and memory, for one process.
//!
//! A [`Watch`] compares states, it does not queue events: a slow watcher skips intermediate states of a record, and
//! cannot overflow, lag or miss that a record it has seen is gone.

mod file_keeper;
mod file_store;
mod file_table;
mod inotify_feed;
mod table;

use file_store::FileStore;
use parking_lot::Mutex;
use protocol::discovery::Record;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use table::Table;

pub use table::Watch;

/// The buckets of a store; each is a folder `v1/{bucket}` of the file store.
pub const BUCKETS: [&str; 4] = ["instances", "mdc", "event_channels", "event_sources"];

/// Where a record lies in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// One of [`BUCKETS`].
    pub bucket: String,
    /// The name in the bucket, unescaped: `dynamo/backend/generate/8efc80f73ac882a4`.
    pub name: String,
}

impl RecordKey {
    /// The key that a record is stored under.
    pub fn of(record: &Record) -> Self {
        let (bucket, name) = record.key();
        Self { bucket: bucket.to_owned(), name }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1/{}/{}", self.bucket, self.name)
    }
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a change is made, moved once and taken apart; a box would only add an allocation"
)]
pub enum Change {
    /// A record is there, or has a new content.
    Put {
        /// Its key.
        key: RecordKey,
        /// Its content.
        record: Record,
    },
    /// A record that was told before is gone.
    Delete {
        /// Its key.
        key: RecordKey,
    },
}

/// A store could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// A folder of the file store.
    #[error("open the discovery folder {path} (DYN_FILE_KV): create it, or give this user the right to write there")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A record.
    #[error("write the discovery record {key}: is the discovery folder writable and its disk not full?")]
    Write {
        /// Which.
        key: RecordKey,
        /// Why.
        source: std::io::Error,
    },
    /// A record.
    #[error("withdraw the discovery record {key}; it expires by itself within {} s", file_keeper::TTL.as_secs())]
    Withdraw {
        /// Which.
        key: RecordKey,
        /// Why.
        source: std::io::Error,
    },
    /// A record that cannot be written as JSON: a bug.
    #[error("encode the discovery record {key}")]
    Encode {
        /// Which.
        key: RecordKey,
        /// Why.
        source: serde_json::Error,
    },
}

/// A member of a discovery store. Clones are the same member.
///
/// Dropping the last clone withdraws the member's records as far as it can; a process that is killed leaves them, and
/// they expire after 10 s.
#[derive(Clone, Debug)]
pub struct Discovery {
    member: Arc<Member>,
}

#[derive(Clone, Debug)]
enum Store {
    File(Arc<FileStore>),
    Memory(Arc<Table>),
}

#[derive(Debug)]
struct Member {
    store: Store,
    registered: Mutex<BTreeSet<RecordKey>>,
}

impl Discovery {
    /// Joins the file store in `root` (`DYN_FILE_KV`); the folders are created when absent. When it returns, what lies
    /// there has been read.
    ///
    /// # Errors
    /// [`DiscoveryError::Open`] when the folders cannot be made or read.
    pub async fn file(root: PathBuf) -> Result<Self, DiscoveryError> {
        Ok(Self::on(Store::File(Arc::new(FileStore::open(root).await?))))
    }

    /// A new store in memory, for one process.
    pub fn memory() -> Self {
        Self::on(Store::Memory(Arc::new(Table::default())))
    }

    /// Another member of the same store, with its own set of records.
    pub fn member(&self) -> Self {
        Self::on(self.member.store.clone())
    }

    fn on(store: Store) -> Self {
        Self { member: Arc::new(Member { store, registered: Mutex::default() }) }
    }

    /// Creates or replaces a record, and keeps it alive until it is withdrawn or this member is dropped.
    ///
    /// # Errors
    /// [`DiscoveryError::Write`]; the record is then not there.
    pub async fn register(&self, record: &Record) -> Result<(), DiscoveryError> {
        let key = RecordKey::of(record);
        match &self.member.store {
            Store::File(store) => store.write(&key, record).await?,
            Store::Memory(table) => table.put(key.clone(), record.clone()),
        }
        self.member.registered.lock().insert(key);
        Ok(())
    }

    /// Removes a record. Removing one that is not there is no error.
    ///
    /// # Errors
    /// [`DiscoveryError::Withdraw`]; it is then no longer kept alive, and expires.
    pub async fn withdraw(&self, key: &RecordKey) -> Result<(), DiscoveryError> {
        self.member.registered.lock().remove(key);
        match &self.member.store {
            Store::File(store) => store.remove(vec![key.clone()]).await,
            Store::Memory(table) => {
                table.delete(key);
                Ok(())
            }
        }
    }

    /// Removes every record that this member has registered: on SIGTERM, before draining. What cannot be removed is
    /// logged and expires.
    pub async fn withdraw_all(&self) {
        let keys: Vec<_> = std::mem::take(&mut *self.member.registered.lock()).into_iter().collect();
        match &self.member.store {
            Store::File(store) => {
                if let Err(error) = store.remove(keys).await {
                    tracing::warn!(%error, cause = %source_text(&error), "a discovery record stays behind");
                }
            }
            Store::Memory(table) => keys.iter().for_each(|key| table.delete(key)),
        }
    }

    /// Watches all buckets.
    pub fn watch(&self) -> Watch {
        self.table().watch()
    }

    /// All records that are there now, by key.
    pub fn snapshot(&self) -> Vec<(RecordKey, Arc<Record>)> {
        self.table().snapshot()
    }

    fn table(&self) -> &Table {
        match &self.member.store {
            Store::File(store) => store.table(),
            Store::Memory(table) => table,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let keys: Vec<_> = std::mem::take(&mut *self.registered.lock()).into_iter().collect();
        match &self.store {
            // A few unlinks, microseconds each: not worth a thread that may not get to run at shutdown.
            Store::File(store) => store.remove_now(&keys),
            Store::Memory(table) => keys.iter().for_each(|key| table.delete(key)),
        }
    }
}

fn source_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}
