//! What the driver needs of an etcd. Two exist: the real one ([`super::client`]) and one in memory, for paused time.

use super::error::EtcdError;
use std::future::Future;
use std::time::Duration;

/// Every key of discovery begins so.
pub(super) const PREFIX: &str = "v1/";

/// A key as it lies in etcd, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawRecord {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// All that lies under [`PREFIX`] at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) revision: i64,
    pub(super) records: Vec<RawRecord>,
    /// There was more than we are willing to hold: what is not in `records` may still be there.
    pub(super) cut: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchEvent {
    Put(RawRecord),
    Delete { key: Vec<u8> },
}

/// Changes under [`PREFIX`] in order; the first error is the last item.
pub(super) type Events = futures::stream::BoxStream<'static, Result<Vec<WatchEvent>, EtcdError>>;

/// An etcd. Every call may be dropped at any time and made again: none does harm when it is done twice.
pub(super) trait Etcd: Send + Sync + 'static {
    fn list(&self) -> impl Future<Output = Result<Listing, EtcdError>> + Send;

    /// Changes from `revision` on; resolves once the server has begun the watch.
    fn watch(&self, revision: i64) -> impl Future<Output = Result<Events, EtcdError>> + Send;

    fn grant(&self, lease: i64, ttl: Duration) -> impl Future<Output = Result<(), EtcdError>> + Send;

    fn keep_alive(&self, lease: i64) -> impl Future<Output = Result<(), EtcdError>> + Send;

    /// Ends a lease and removes its keys; one that is not there is no error.
    fn revoke(&self, lease: i64) -> impl Future<Output = Result<(), EtcdError>> + Send;

    fn put(&self, key: &str, value: &[u8], lease: i64) -> impl Future<Output = Result<(), EtcdError>> + Send;

    /// Removes a key; one that is not there is no error.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), EtcdError>> + Send;
}
