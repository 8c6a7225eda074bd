//! Discovery: who is there, and how to reach them.
//!
//! A [`Discovery`] is one *member* of a store: it registers records, keeps them alive, withdraws them, and watches those
//! of everybody. Four stores exist: files in a shared folder (Dynamo's `DYN_FILE_KV`), an etcd, a Kubernetes namespace, and
//! memory, for one process. A store that is away is never taken for the death of those who registered in it.
//!
//! A [`Watch`] compares states, it does not queue events: a slow watcher skips intermediate states of a record, and
//! cannot overflow, lag or miss that a record it has seen is gone.

mod backoff;
mod etcd;
mod file_keeper;
mod file_store;
mod file_table;
mod inotify_feed;
mod kubernetes;
mod outage;
#[cfg(test)]
mod stage;
mod table;

use crate::world::World;
use etcd::EtcdStore;
use file_store::FileStore;
use kubernetes::KubernetesStore;
use parking_lot::Mutex;
use protocol::discovery::Record;
use protocol::ids::InstanceId;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use table::Table;

pub use etcd::{EtcdConfig, EtcdError, EtcdFault, EtcdTls, EtcdUser};
pub use kubernetes::{KubernetesConfig, KubernetesError, KubernetesFault, KubernetesMode};
pub use table::Watch;

/// The buckets of a store; each is a folder `v1/{bucket}` of the file store.
pub const BUCKETS: [&str; 4] = ["instances", "mdc", "event_channels", "event_sources"];

/// Bytes of one record. The largest in use, a model card, has about 4 KB; etcd takes 1.5 MiB a request.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Records of one store: 8 a worker, so some 8,000 workers. More is a fault, not a fleet.
const RECORDS_MAX: usize = 65_536;

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
    /// An etcd that will not have us, or cannot be asked with these settings. Time alone does not heal it.
    #[error("join the etcd of discovery")]
    Join(#[source] EtcdError),
    /// A record that etcd will not have.
    #[error("write the discovery record {key}")]
    Register {
        /// Which.
        key: RecordKey,
        /// Why.
        source: EtcdError,
    },
    /// A record that etcd could not take back, because it does not answer.
    #[error("withdraw the discovery record {key}: etcd does not answer; it goes with our lease within {ttl_secs} s")]
    Stays {
        /// Which.
        key: RecordKey,
        /// Time of the lease.
        ttl_secs: u64,
    },
    /// An API server that will not have us, or no way to one. Time alone does not heal it.
    #[error("join the Kubernetes namespace of discovery")]
    JoinCluster(#[source] KubernetesError),
    /// A record that an API server will not have.
    #[error("write the discovery record {key}")]
    RegisterInCluster {
        /// Which.
        key: RecordKey,
        /// Why.
        source: KubernetesError,
    },
    /// A record that could not be taken back, because the API server does not answer.
    #[error(
        "withdraw the discovery record {key}: the API server does not answer; DynamoWorkerMetadata {object} goes with the pod"
    )]
    StaysInCluster {
        /// Which.
        key: RecordKey,
        /// The object that has it.
        object: String,
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

/// How a store is, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// It tells us of changes at this moment.
    pub connected: bool,
    /// How often it stopped to.
    pub interruptions: u64,
    /// How often it dropped our records while we lived: a lease of etcd, an object of Kubernetes.
    pub leases_lost: u64,
}

impl StoreHealth {
    /// A store that cannot be away.
    const ALWAYS: Self = Self { connected: true, interruptions: 0, leases_lost: 0 };
}

/// A member of a discovery store. Clones are the same member.
///
/// Dropping the last clone withdraws the member's records as far as it can; a process that is killed leaves them, and
/// they expire: files after 10 s, keys of etcd with their lease; an object of Kubernetes counts no more once its pod is not
/// ready, and goes with it.
#[derive(Clone, Debug)]
pub struct Discovery {
    member: Arc<Member>,
}

#[derive(Clone, Debug)]
enum Store {
    File(Arc<FileStore>),
    Etcd(Arc<EtcdStore>),
    Kubernetes(Arc<KubernetesStore>),
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

    /// Joins an etcd. When it answers, what lies there has been read when this returns, within seconds; when it does not,
    /// it is asked again for ever, and the log says why and what to do.
    ///
    /// # Errors
    /// [`DiscoveryError::Join`] when it answers that it will not have us (login, rights, certificates), or the settings
    /// cannot be used.
    pub async fn etcd(config: EtcdConfig) -> Result<Self, DiscoveryError> {
        Ok(Self::on(Store::Etcd(Arc::new(EtcdStore::open(config).await.map_err(DiscoveryError::Join)?))))
    }

    /// Joins the discovery of a Kubernetes namespace. When the API server answers, what lies there has been read when this
    /// returns, within seconds; when it does not, it is asked again for ever, and the log says why and what to do.
    ///
    /// # Errors
    /// [`DiscoveryError::JoinCluster`] when there is no way to an API server, or it answers that it will not have us.
    pub async fn kubernetes(config: KubernetesConfig) -> Result<Self, DiscoveryError> {
        let store = KubernetesStore::open(config).await.map_err(DiscoveryError::JoinCluster)?;
        Ok(Self::on(Store::Kubernetes(Arc::new(store))))
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

    /// An id for a new instance on the machine of `world`. Random, but for the first of a process in etcd, which has
    /// the id of the lease, and in Kubernetes, where it follows from the name of the pod.
    pub fn instance_id(&self, world: &World) -> InstanceId {
        match &self.member.store {
            Store::Etcd(store) => store.instance_id(),
            Store::Kubernetes(store) => store.instance_id(),
            Store::File(_) | Store::Memory(_) => InstanceId(world.random()),
        }
    }

    /// Creates or replaces a record, and keeps it alive until it is withdrawn or this member is dropped.
    ///
    /// With etcd and Kubernetes it resolves once the record is there, which is as late as they are: a caller that has no time drops the
    /// future and withdraws the record.
    ///
    /// # Errors
    /// [`DiscoveryError::Write`], [`DiscoveryError::Register`] or [`DiscoveryError::RegisterInCluster`]; the record is then
    /// not there.
    pub async fn register(&self, record: &Record) -> Result<(), DiscoveryError> {
        let key = RecordKey::of(record);
        // Before it is written: a member that is dropped while it waits withdraws it.
        self.member.registered.lock().insert(key.clone());
        let written = match &self.member.store {
            Store::File(store) => store.write(&key, record).await,
            Store::Etcd(store) => store.write(&key, record).await,
            Store::Kubernetes(store) => store.write(&key, record).await,
            Store::Memory(table) => {
                table.put(key.clone(), record.clone());
                Ok(())
            }
        };
        if written.is_err() {
            self.member.registered.lock().remove(&key);
        }
        written
    }

    /// Removes a record. Removing one that is not there is no error.
    ///
    /// # Errors
    /// [`DiscoveryError::Withdraw`], [`DiscoveryError::Stays`] or [`DiscoveryError::StaysInCluster`]; it is then no longer
    /// kept alive, and expires.
    pub async fn withdraw(&self, key: &RecordKey) -> Result<(), DiscoveryError> {
        self.member.registered.lock().remove(key);
        match &self.member.store {
            Store::File(store) => store.remove(vec![key.clone()]).await,
            Store::Etcd(store) => store.remove(std::slice::from_ref(key)).await,
            Store::Kubernetes(store) => store.remove(std::slice::from_ref(key)).await,
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
        let removed = match &self.member.store {
            Store::File(store) => store.remove(keys).await,
            Store::Etcd(store) => store.remove(&keys).await,
            Store::Kubernetes(store) => store.remove(&keys).await,
            Store::Memory(table) => {
                keys.iter().for_each(|key| table.delete(key));
                Ok(())
            }
        };
        if let Err(error) = removed {
            tracing::warn!(%error, cause = %source_text(&error), "a discovery record stays behind");
        }
    }

    /// Leaves the store with all members of this process, at its end: the lease of etcd is revoked, our object in
    /// Kubernetes removed. Nothing can be registered after it. Bounded in time; the other stores have nothing to do.
    pub async fn leave(&self) {
        match &self.member.store {
            Store::Etcd(store) => store.leave().await,
            Store::Kubernetes(store) => store.leave().await,
            Store::File(_) | Store::Memory(_) => {}
        }
    }

    /// How the store is.
    pub fn health(&self) -> StoreHealth {
        match &self.member.store {
            Store::Etcd(store) => store.health(),
            Store::Kubernetes(store) => store.health(),
            Store::File(_) | Store::Memory(_) => StoreHealth::ALWAYS,
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
            Store::Etcd(store) => store.table(),
            Store::Kubernetes(store) => store.table(),
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
            Store::Etcd(store) => store.remove_later(&keys),
            Store::Kubernetes(store) => store.remove_later(&keys),
            Store::Memory(table) => keys.iter().for_each(|key| table.delete(key)),
        }
    }
}

fn source_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}
