//! Whether a worker may be sent requests.

use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The life of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Not yet serving.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what runs, taking nothing new.
    Draining,
}

/// Shared by the worker, which sets it, and the system server, which tells it.
#[derive(Clone, Debug)]
pub struct Health {
    started: Instant,
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug)]
struct Inner {
    state: HealthState,
    endpoints: BTreeMap<String, bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Starting, with no endpoint; the uptime counts from here.
    pub fn new() -> Self {
        let inner = Inner { state: HealthState::Starting, endpoints: BTreeMap::new() };
        Self { started: Instant::now(), inner: Arc::new(RwLock::new(inner)) }
    }

    /// The worker is not ready yet, or not any more.
    pub fn set_starting(&self) {
        self.inner.write().state = HealthState::Starting;
    }

    /// The worker serves.
    pub fn set_ready(&self) {
        self.inner.write().state = HealthState::Ready;
    }

    /// The worker takes nothing new.
    pub fn set_draining(&self) {
        self.inner.write().state = HealthState::Draining;
    }

    /// Tells of one endpoint, by its bare name (`generate`).
    pub fn endpoint(&self, name: &str, ready: bool) {
        self.inner.write().endpoints.insert(name.to_owned(), ready);
    }

    /// The worker's state.
    pub fn state(&self) -> HealthState {
        self.inner.read().state
    }

    /// Ready, with every endpoint ready.
    pub fn is_ready(&self) -> bool {
        let inner = self.inner.read();
        inner.state == HealthState::Ready && inner.endpoints.values().all(|&ready| ready)
    }

    /// Time since [`Health::new`].
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// `{"status":"ready","uptime":{"secs","nanos"},"endpoints":{"generate":"ready"}}`.
    pub(super) fn to_json(&self) -> String {
        let word = |ready| if ready { "ready" } else { "notready" };
        let endpoints: Map<String, Value> =
            self.inner.read().endpoints.iter().map(|(name, &ready)| (name.clone(), word(ready).into())).collect();
        let uptime = self.uptime();
        json!({
            "status": word(self.is_ready()),
            "uptime": { "secs": uptime.as_secs(), "nanos": uptime.subsec_nanos() },
            "endpoints": endpoints,
        })
        .to_string()
    }
}
