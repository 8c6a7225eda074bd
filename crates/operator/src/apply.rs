//! Every write to the API server.
//!
//! An object is written when it is not what was asked for, and not else: the hash of what was applied last stands on the
//! object, and its fields are compared with what is asked for now. What a write leaves different (the API server has its
//! own way to write some values) is remembered, so that it is no reason to write again.

mod drift;
mod gate;

pub use drift::differences;
pub use gate::{Gate, Stopped};

use crate::kinds::{self, APPLIED_HASH, Kind};
use crate::metrics::Metrics;
use graph::cluster::labels::MANAGER;
use kube::Client;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Objects whose last write is remembered. A cluster of 1,000 graphs has some 20,000; an entry has about 200 bytes.
const REMEMBERED_MAX: usize = 100_000;

/// A write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The render holds a kind that the operator does not watch, which only a bug causes.
    #[error("apply {what}: not a kind that the operator manages")]
    UnknownKind {
        /// Kind and name.
        what: String,
    },
    /// The API server refused or was not reached.
    #[error("{act} {what}")]
    Refused {
        /// `apply`, `delete` or `write the status of`.
        act: &'static str,
        /// Kind, Kubernetes namespace and name.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// This process may not write any more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl WriteError {
    /// Someone else wrote first: what was read is old, and reading anew is all there is to do.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }

    /// Seconds after which the API server asks to try again; 0 when it does not ask.
    pub fn retry_after_seconds(&self) -> u32 {
        match self {
            Self::Refused { source, .. } => match &**source {
                kube::Error::Api(status) => status.details.as_ref().map_or(0, |details| details.retry_after_seconds),
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// What applying came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The object after the write; none when nothing had to be written.
    pub written: Option<DynamicObject>,
    /// Fields that someone else had changed and that were put back.
    pub restored: Vec<String>,
}

/// What is remembered of an object's last write.
#[derive(Clone, PartialEq)]
struct Remembered {
    hash: String,
    resource_version: Option<String>,
    /// Differences that the write itself left.
    residue: Vec<String>,
}

/// The one way to write.
pub struct Writes {
    client: Client,
    gate: Gate,
    metrics: Arc<Metrics>,
    remembered: Mutex<HashMap<String, Remembered>>,
}

impl Writes {
    /// Writes through `client` for as long as `gate` is open.
    pub fn new(client: Client, gate: Gate, metrics: Arc<Metrics>) -> Self {
        Self { client, gate, metrics, remembered: Mutex::default() }
    }

    /// The client, for reading.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Applies `intent`, a whole object of ours, where `live` is not that already.
    ///
    /// Force: a field of `intent` that someone else set is taken back. Fields that `intent` does not name stay theirs.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was written then, or the answer was lost.
    pub async fn apply(&self, mut intent: Value, live: Option<&DynamicObject>) -> Result<Applied, WriteError> {
        let hash = hash(&intent);
        intent["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
        let (kind, what) = identify(&intent)?;
        let known = self.remembered.lock().get(&what).cloned();
        let found = live.map(|live| differences(&kinds::value(live), &intent));
        if let Some(found) = &found {
            let is_residue = known.as_ref().is_some_and(|known| known.hash == hash && known.residue == *found);
            if found.is_empty() || is_residue {
                return Ok(Applied::default());
            }
        }
        let written = self.patch(kind, &what, &intent, false).await?;
        let now = Remembered {
            resource_version: written.metadata.resource_version.clone(),
            residue: differences(&kinds::value(&written), &intent),
            hash: hash.clone(),
        };
        let is_news = known.as_ref().is_none_or(|known| known.resource_version != now.resource_version);
        let has_changed = live.is_some_and(|live| live.metadata.resource_version != now.resource_version);
        let was_ours = live.is_some_and(|live| kinds::annotation(live, APPLIED_HASH) == Some(hash.as_str()));
        let restored = if is_news && has_changed && was_ours { found.unwrap_or_default() } else { Vec::new() };
        self.remember(what, now);
        Ok(Applied { written: Some(written), restored })
    }

    /// Makes an object of which others own fields from then on. One that is there is left as it is.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn create(&self, intent: Value) -> Result<(), WriteError> {
        let (kind, what) = identify(&intent)?;
        let refused = |source| WriteError::Refused { act: "create", what: what.clone(), source: Box::new(source) };
        let object: DynamicObject =
            serde_json::from_value(intent).map_err(kube::Error::SerdeError).map_err(&refused)?;
        self.gate.pass()?;
        self.metrics.wrote("create");
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match kind.api(&self.client, Some(kinds::k8s_namespace(&object))).create(&params, &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(source) => Err(refused(source)),
        }
    }

    /// Writes annotations of ours onto an object of the user; those that were ours and are not named go away.
    ///
    /// # Errors
    /// As [`Self::apply`]. An object with the same name and another uid is left alone, with a conflict.
    pub async fn annotate(
        &self,
        kind: Kind,
        live: &DynamicObject,
        annotations: &[(&str, String)],
    ) -> Result<(), WriteError> {
        let mut intent = kind.intent(kinds::k8s_namespace(live), kinds::name(live));
        intent["metadata"]["uid"] = json!(live.metadata.uid);
        for (key, value) in annotations {
            intent["metadata"]["annotations"][*key] = json!(value);
        }
        let (_, what) = identify(&intent)?;
        self.patch(kind, &what, &intent, false).await.map(|_| ())
    }

    /// Writes the status where it is not that already. The version that was read goes with it, so that a status of
    /// older knowledge never replaces a newer one. Returns whether it was written.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn status(&self, kind: Kind, live: &DynamicObject, status: &Value) -> Result<bool, WriteError> {
        if live.data.get("status").is_some_and(|live| live == status) {
            return Ok(false);
        }
        let mut intent = kind.intent(kinds::k8s_namespace(live), kinds::name(live));
        intent["metadata"]["uid"] = json!(live.metadata.uid);
        intent["metadata"]["resourceVersion"] = json!(live.metadata.resource_version);
        intent["status"] = status.clone();
        let (_, what) = identify(&intent)?;
        self.patch(kind, &what, &intent, true).await.map(|_| true)
    }

    /// Deletes an object and, by the API server's own means, what it owns. One that is gone is no error.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn delete(&self, kind: Kind, live: &DynamicObject) -> Result<(), WriteError> {
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let what = describe(kind, kinds::k8s_namespace(live), kinds::name(live));
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        self.gate.pass()?;
        self.metrics.wrote("delete");
        let api = kind.api(&self.client, Some(kinds::k8s_namespace(live)));
        match api.delete(kinds::name(live), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => return Err(WriteError::Refused { act: "delete", what, source: Box::new(source) }),
        }
        self.remembered.lock().remove(&what);
        Ok(())
    }

    async fn patch(
        &self,
        kind: Kind,
        what: &str,
        intent: &Value,
        is_status: bool,
    ) -> Result<DynamicObject, WriteError> {
        self.gate.pass()?;
        self.metrics.wrote(if is_status { "status" } else { "apply" });
        let metadata = &intent["metadata"];
        let api = kind.api(&self.client, metadata["namespace"].as_str());
        let name = metadata["name"].as_str().unwrap_or_default();
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(intent));
        let (act, result) = if is_status {
            ("write the status of", api.patch_status(name, &params, &patch).await)
        } else {
            ("apply", api.patch(name, &params, &patch).await)
        };
        result.map_err(|source| WriteError::Refused { act, what: what.to_owned(), source: Box::new(source) })
    }

    fn remember(&self, what: String, now: Remembered) {
        let mut remembered = self.remembered.lock();
        // What is forgotten costs one write that changes nothing.
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(what, now);
    }
}

fn identify(intent: &Value) -> Result<(Kind, String), WriteError> {
    let metadata = &intent["metadata"];
    let (k8s_namespace, name) = (metadata["namespace"].as_str(), metadata["name"].as_str());
    match (Kind::of(intent), k8s_namespace, name) {
        (Some(kind), Some(k8s_namespace), Some(name)) => Ok((kind, describe(kind, k8s_namespace, name))),
        _ => Err(WriteError::UnknownKind { what: format!("{} {}", intent["kind"], metadata["name"]) }),
    }
}

fn describe(kind: Kind, k8s_namespace: &str, name: &str) -> String {
    format!("{} {k8s_namespace}/{name}", kind.kind)
}

/// 16 hexadecimal digits over what is asked for.
fn hash(intent: &Value) -> String {
    Sha256::digest(intent.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
