//! The etcd store: Dynamo's keys and values on one lease per process, kept by two loops.
//!
//! One loop keeps our lease and our records where they should be ([`registrar`]), the other follows everybody's
//! ([`mirror`]). Neither gives up: an etcd that is away leaves the last known set as it is, new records wait, and
//! when it is back, with or without its data, everything finds together again by itself.
//!
//! Source: Dynamo 1.6.1 on the wire, §2.3; decision 0003.

mod api;
mod client;
mod config;
mod connect;
mod driver;
mod error;
mod mirror;
mod registrar;
mod rpc;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use super::table::Table;
use super::{DiscoveryError, RecordKey, StoreHealth};
use crate::tasks::Tasks;
use api::Etcd;
use client::Client;
use driver::Shared;
use mirror::Mirror;
use protocol::discovery::Record;
use protocol::ids::InstanceId;
use registrar::Standing;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

pub use config::{EtcdConfig, EtcdTls, EtcdUser};
pub use error::{EtcdError, EtcdFault};

/// Longest wait for a withdrawal or the end of the lease: a process that leaves must not hang on a store that does not
/// answer, and what stays behind goes with the lease.
const FAREWELL_MAX: Duration = Duration::from_secs(4);

/// An etcd that this process has joined. Dropping it stops the keep-alive.
#[derive(Debug)]
pub(super) struct EtcdStore {
    table: Arc<Table>,
    shared: Arc<Shared>,
    lease: i64,
    lease_id_given: AtomicBool,
    ttl: Duration,
    /// Its end is the end of both loops.
    tasks: Tasks,
}

impl EtcdStore {
    /// Joins. When etcd answers, all that lies there has been read; when it does not, it is asked again for ever.
    pub(super) async fn open(config: EtcdConfig) -> Result<Self, EtcdError> {
        let ttl = config.lease_ttl;
        Self::on(Arc::new(Client::new(config)), ttl).await
    }

    async fn on<E: Etcd>(etcd: Arc<E>, ttl: Duration) -> Result<Self, EtcdError> {
        // Random like etcd's own ids, and positive: 0 would ask the server to choose.
        let lease = (rand::random::<i64>() & i64::MAX).max(1);
        let table = Arc::new(Table::default());
        let mut mirror = Mirror::new(table.clone(), ttl);
        let shared = Arc::new(Shared::new(lease, ttl));
        let first = match driver::list(&*etcd).await {
            Ok(listing) => {
                mirror.relist(&listing, Instant::now());
                Ok(listing)
            }
            Err(error) if error.may_heal() => Err(error),
            Err(error) => return Err(error),
        };
        let tasks = Tasks::new();
        tasks.spawn("etcd registration", driver::keep(etcd.clone(), shared.clone()));
        tasks.spawn("etcd watch", driver::follow(etcd, shared.clone(), mirror, first));
        Ok(Self { table, shared, lease, lease_id_given: AtomicBool::new(false), ttl, tasks })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// An id for a new instance: the lease's own, as stock workers have it, for the first; random ones after it.
    pub(super) fn instance_id(&self) -> InstanceId {
        let given = self.lease_id_given.swap(true, Ordering::Relaxed);
        InstanceId(if given { rand::random() } else { self.lease.unsigned_abs() })
    }

    /// Resolves once the record lies in etcd, however long etcd is away.
    pub(super) async fn write(&self, key: &RecordKey, record: &Record) -> Result<(), DiscoveryError> {
        let value = serde_json::to_vec(record).map_err(|source| DiscoveryError::Encode { key: key.clone(), source })?;
        let name = key.to_string();
        let mut moved = self.shared.moved();
        self.shared.change(|registrar| registrar.want(name.clone(), value));
        loop {
            match self.shared.ask(|registrar| registrar.standing(&name)) {
                // Withdrawn meanwhile: nobody waits for it any more.
                Standing::Written | Standing::Unknown => return Ok(()),
                Standing::Refused(source) => return Err(DiscoveryError::Register { key: key.clone(), source }),
                Standing::Waiting => {}
            }
            // The sender lives in `shared`, as long as we do.
            let _ = moved.changed().await;
        }
    }

    /// Removes records. One that etcd does not take back in time goes on being removed, and at last with the lease.
    pub(super) async fn remove(&self, keys: &[RecordKey]) -> Result<(), DiscoveryError> {
        let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let mut moved = self.shared.moved();
        self.shared.change(|registrar| names.iter().for_each(|name| registrar.unwant(name)));
        let all_gone = async {
            loop {
                let stays = |r: &mut registrar::Registrar| names.iter().position(|name| r.is_leaving(name));
                match self.shared.ask(|registrar| (stays(registrar), registrar.is_reachable())) {
                    (None, _) => return None,
                    (stays, false) => return stays,
                    (Some(_), true) => {}
                }
                let _ = moved.changed().await;
            }
        };
        match tokio::time::timeout(FAREWELL_MAX, all_gone).await {
            Ok(None) => Ok(()),
            Ok(Some(index)) => Err(DiscoveryError::Stays { key: keys[index].clone(), ttl_secs: self.ttl.as_secs() }),
            Err(_) => Err(DiscoveryError::Stays { key: keys[0].clone(), ttl_secs: self.ttl.as_secs() }),
        }
    }

    /// Like [`EtcdStore::remove`] without waiting.
    pub(super) fn remove_later(&self, keys: &[RecordKey]) {
        self.shared.change(|registrar| keys.iter().for_each(|key| registrar.unwant(&key.to_string())));
    }

    /// Ends the lease, and with it all records of this process. Gives up when etcd does not answer.
    pub(super) async fn leave(&self) {
        let mut moved = self.shared.moved();
        self.shared.change(registrar::Registrar::close);
        let ended = async {
            while self.shared.ask(|registrar| !registrar.has_ended() && registrar.is_reachable()) {
                let _ = moved.changed().await;
            }
        };
        if tokio::time::timeout(FAREWELL_MAX, ended).await.is_err() {
            tracing::debug!(ttl_secs = self.ttl.as_secs(), "the lease could not be revoked; it ends by itself");
        }
        self.tasks.cancel();
    }

    /// Stops without a word, as a killed process does.
    #[cfg(test)]
    fn die(&self) {
        self.tasks.cancel();
    }

    pub(super) fn health(&self) -> StoreHealth {
        self.shared.health()
    }
}
