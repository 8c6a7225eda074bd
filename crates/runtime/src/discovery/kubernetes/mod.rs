//! The Kubernetes store: one DynamoWorkerMetadata a pod, joined with what EndpointSlices say of the pod's readiness, kept
//! by two loops.
//!
//! One loop keeps our object as it should be ([`registrar`]), the other follows everybody's and who is ready
//! ([`mirror`]). Neither gives up: an API server that is away leaves the last known set as it is.
//!
//! Source: Dynamo 1.6.1 against a real API server; §2.9 of the contracts; decision 0015.

mod api;
mod client;
mod config;
mod data;
mod driver;
mod error;
mod feed;
mod mirror;
mod registrar;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use super::table::Table;
use super::{DiscoveryError, RecordKey, StoreHealth};
use crate::tasks::Tasks;
use api::Cluster;
use client::Client;
use driver::{Followed, Shared};
use mirror::Mirror;
use protocol::discovery::Record;
use protocol::ids::InstanceId;
use registrar::{Registrar, Standing};
use std::sync::Arc;
use std::time::Duration;

pub use config::{KubernetesConfig, KubernetesMode};
pub use error::{KubernetesError, KubernetesFault};

/// Longest wait for a withdrawal: a process that leaves must not hang on a server that does not answer, and what stays
/// behind goes with the pod.
const FAREWELL_MAX: Duration = Duration::from_secs(4);

/// A cluster that this process has joined. Dropping it stops both loops.
#[derive(Debug)]
pub(super) struct KubernetesStore {
    table: Arc<Table>,
    shared: Arc<Shared>,
    object: String,
    instance: InstanceId,
    /// Its end is the end of both loops.
    tasks: Tasks,
}

impl KubernetesStore {
    /// Joins. When the API server answers, all that lies there has been read; when it does not, it is asked again for
    /// ever.
    pub(super) async fn open(config: KubernetesConfig) -> Result<Self, KubernetesError> {
        let client = Client::new(&config).await?;
        Self::on(Arc::new(client), &config).await
    }

    async fn on<C: Cluster>(cluster: Arc<C>, config: &KubernetesConfig) -> Result<Self, KubernetesError> {
        let object = config.object_name();
        let table = Arc::new(Table::default());
        // In a pod that lives on, a container that came back finds its own object of before, and frontends would go by
        // it until the engine is loaded. The object of a pod may be shared; it is out of use until the pod is ready.
        let stale = matches!(config.mode, KubernetesMode::Container(_));
        let shared = Arc::new(Shared::new(object.clone(), Registrar::new(stale)));
        let mut followed = Followed::begin(&*cluster, Mirror::new(table.clone()));
        if let Err(error) = followed.read(&*cluster, &shared).await
            && !error.may_heal()
        {
            return Err(error);
        }
        let tasks = Tasks::new();
        tasks.spawn("kubernetes registration", driver::keep(cluster.clone(), shared.clone()));
        tasks.spawn("kubernetes watch", driver::follow(cluster, shared.clone(), followed));
        Ok(Self { table, shared, object, instance: config.instance_id(), tasks })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// An id for a new instance: that of our object, as stock workers have it, unless an instance has it now; then a
    /// random one of the same size.
    pub(super) fn instance_id(&self) -> InstanceId {
        let taken = self.shared.ask(|registrar| registrar.has_instance(self.instance));
        if taken { InstanceId(rand::random::<u64>() >> 11) } else { self.instance }
    }

    /// Resolves once the record lies in the cluster, however long the API server is away.
    pub(super) async fn write(&self, key: &RecordKey, record: &Record) -> Result<(), DiscoveryError> {
        let value =
            serde_json::to_value(record).map_err(|source| DiscoveryError::Encode { key: key.clone(), source })?;
        let mut moved = self.shared.moved();
        self.shared.change(|registrar| registrar.want(key.clone(), value));
        loop {
            match self.shared.ask(|registrar| registrar.standing(key)) {
                // Withdrawn meanwhile: nobody waits for it any more.
                Standing::Written | Standing::Nobody => return Ok(()),
                Standing::Refused(source) => {
                    return Err(DiscoveryError::RegisterInCluster { key: key.clone(), source });
                }
                Standing::Waiting => {}
            }
            // The sender lives in `shared`, as long as we do.
            let _ = moved.changed().await;
        }
    }

    /// Removes records. Those that the API server does not take back in time go on being removed, and at last with the
    /// pod.
    pub(super) async fn remove(&self, keys: &[RecordKey]) -> Result<(), DiscoveryError> {
        let Some(first) = keys.first() else { return Ok(()) };
        self.remove_later(keys);
        if self.settles(Registrar::is_leaving).await {
            Ok(())
        } else {
            Err(DiscoveryError::StaysInCluster { key: first.clone(), object: self.object.clone() })
        }
    }

    /// Like [`KubernetesStore::remove`] without waiting.
    pub(super) fn remove_later(&self, keys: &[RecordKey]) {
        self.shared.change(|registrar| keys.iter().for_each(|key| registrar.unwant(key)));
    }

    /// Removes what is ours, and ends both loops. Gives up when the API server does not answer.
    pub(super) async fn leave(&self) {
        self.shared.change(Registrar::close);
        if !self.settles(|registrar| !registrar.has_ended()).await {
            tracing::debug!(object = self.object, "our object could not be removed; it goes with the pod");
        }
        self.tasks.cancel();
    }

    /// Waits until `pending` is over; `false` if the API server does not answer.
    async fn settles(&self, pending: impl Fn(&Registrar) -> bool) -> bool {
        let mut moved = self.shared.moved();
        let over = async {
            loop {
                match self.shared.ask(|registrar| (pending(registrar), registrar.is_reachable())) {
                    (false, _) => return true,
                    (true, false) => return false,
                    (true, true) => {}
                }
                let _ = moved.changed().await;
            }
        };
        tokio::time::timeout(FAREWELL_MAX, over).await.unwrap_or(false)
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
