//! What the driver needs of a cluster. Two exist: the real one ([`super::client`]) and one in memory, for paused time.

use super::error::KubernetesError;
use futures::stream::BoxStream;
use serde_json::Value;
use std::future::Future;

/// A pod, or a container of one, that takes requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Name of the DynamoWorkerMetadata that tells what it serves.
    pub(super) object: String,
    /// UID of the pod. A pod that came back under its old name is another one.
    pub(super) pod_uid: String,
}

/// What one EndpointSlice, or one pod in container mode, says: who is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Name of the EndpointSlice or pod.
    pub(super) name: String,
    pub(super) ready: Vec<Target>,
}

/// A DynamoWorkerMetadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) uid: String,
    /// Grows with each change of `data`.
    pub(super) generation: i64,
    /// UIDs of the pods that own it; one.
    pub(super) owners: Vec<String>,
    /// `spec.data`.
    pub(super) data: Value,
}

/// What a list and the watch after it tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen<T> {
    /// All that is there.
    All(Vec<T>),
    /// It is there, or has changed.
    Put(T),
    /// The one with this name is gone.
    Gone(String),
}

/// First an [`Seen::All`], then what changes; the first error is the last item of use.
pub(super) type Feed<T> = BoxStream<'static, Result<Seen<T>, KubernetesError>>;

/// A cluster. Every call may be dropped at any time and made again: none does harm when it is done twice.
pub(super) trait Cluster: Send + Sync + 'static {
    /// Who is ready, in our Kubernetes namespace.
    fn readiness(&self) -> Feed<Readiness>;

    /// What everybody tells, in our Kubernetes namespace.
    fn objects(&self) -> Feed<Object>;

    /// Makes our object have this `spec.data`, and gives what lies there then: what another field manager wrote stays.
    fn apply(&self, data: &Value) -> impl Future<Output = Result<Object, KubernetesError>> + Send;

    /// Removes our object; one that is not there is no error.
    fn delete(&self) -> impl Future<Output = Result<(), KubernetesError>> + Send;
}
