//! Names and ids of the runtime: who serves what.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One running instance of an endpoint. May exceed 2^53, so it is never a float; lower-case hex in keys and paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// One publisher on the event plane: random, below 2^53, one per (publisher, topic).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublisherId(pub u64);

impl fmt::Display for PublisherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// `namespace.component.name`, the address of a service without its instance.
///
/// Its JSON is `{"namespace","component","name"}`, as in event scopes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// Dynamo's namespace, `dynamo` unless told.
    pub namespace: String,
    /// The component, `backend` for workers unless told.
    pub component: String,
    /// The endpoint, `generate` for text generation.
    pub name: String,
}

impl EndpointId {
    /// An endpoint from its three names.
    pub fn new(namespace: impl Into<String>, component: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), component: component.into(), name: name.into() }
    }

    /// Reads `dyn://ns.comp.ep` or `ns.comp.ep`. `None` unless there are exactly three non-empty parts.
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix("dyn://").unwrap_or(text);
        let mut parts = bare.split('.');
        let (ns, comp, name) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && ![ns, comp, name].iter().any(|part| part.is_empty());
        whole.then(|| Self::new(ns, comp, name))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dyn://{}.{}.{}", self.namespace, self.component, self.name)
    }
}

/// A data-parallel rank of a worker: what the router chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerRank {
    /// The worker's instance.
    pub worker_id: InstanceId,
    /// Data-parallel rank, 0 for a worker with one.
    pub dp_rank: u32,
}
