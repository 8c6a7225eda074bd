//! Joining the store in which processes find each other.

use crate::flags::discovery::{DiscoveryBackend, EtcdFlags};
use crate::folders;
use crate::report::Failure;
use ::runtime::discovery::{Discovery, DiscoveryError};

/// Joins the store. An etcd that is away is waited for in the background; one that will not have us is a failure.
pub(super) async fn join(backend: DiscoveryBackend, etcd: &EtcdFlags) -> Result<Discovery, Failure> {
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
            let config = etcd.config(password.as_ref())?;
            tracing::info!(endpoints = config.endpoints.join(","), "joining etcd");
            Discovery::etcd(config).await.map_err(|error| refused(&error))
        }
    }
}

/// What etcd refuses once it refuses again: a supervisor need not try.
fn refused(error: &DiscoveryError) -> Failure {
    match error {
        DiscoveryError::Join(cause) => Failure::new("join etcd").chain(cause).remedy(cause.remedy()).permanent(),
        other => Failure::new("join etcd").chain(other),
    }
}
