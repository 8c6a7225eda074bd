//! Joining the store in which processes find each other.

use crate::flags::discovery::{DiscoveryBackend, EtcdFlags, KubernetesFlags};
use crate::folders;
use crate::report::Failure;
use ::runtime::discovery::{Discovery, DiscoveryError};

/// How the stores are reached, and as whom.
pub(super) struct Ways<'a> {
    pub(super) etcd: &'a EtcdFlags,
    pub(super) kubernetes: &'a KubernetesFlags,
    /// Field manager of what is written to a cluster.
    pub(super) field_manager: &'a str,
}

/// Joins the store. A store that is away is waited for in the background; one that will not have us is a failure.
pub(super) async fn join(backend: DiscoveryBackend, ways: Ways<'_>) -> Result<Discovery, Failure> {
    match backend {
        DiscoveryBackend::File => {
            let folder = folders::discovery();
            Discovery::file(folder.clone()).await.map_err(|error| {
                Failure::new(format!("open the discovery folder {}", folder.display()))
                    .chain(&error)
                    .remedy("give access to it, or set DYN_FILE_KV to another folder")
            })
        }
        DiscoveryBackend::Etcd => {
            let password = std::env::var("ETCD_AUTH_PASSWORD").ok();
            let config = ways.etcd.config(password.as_ref())?;
            tracing::info!(endpoints = config.endpoints.join(","), "joining etcd");
            Discovery::etcd(config).await.map_err(|error| refused(&error))
        }
        DiscoveryBackend::Kubernetes => {
            let config = ways.kubernetes.config(ways.field_manager)?;
            Discovery::kubernetes(config).await.map_err(|error| refused(&error))
        }
    }
}

/// What a store refuses once it refuses again: a supervisor need not try.
fn refused(error: &DiscoveryError) -> Failure {
    match error {
        DiscoveryError::Join(cause) => Failure::new("join etcd").chain(cause).remedy(cause.remedy()).permanent(),
        DiscoveryError::JoinCluster(cause) => {
            Failure::new("join the Kubernetes namespace of discovery").chain(cause).remedy(cause.remedy()).permanent()
        }
        other => Failure::new("join the store of discovery").chain(other),
    }
}
