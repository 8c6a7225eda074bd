//! The two control loops: graphs and components.

mod components;
mod generations;
mod graphs;
mod queue;
mod report;
mod told;

pub use queue::run_all;

use crate::apply::{WriteError, Writes};
use crate::cache::Cache;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::revision::Revisions;
use graph::cluster::Settings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// A pod must have been ready for so long before an update goes on: a worker that dies on its first request shows it.
const READY_TIME_MIN: Duration = Duration::from_secs(5);
/// An object that waits for something outside of what is watched (a node, a Secret, a claim) is looked at again.
const WAITING_AGAIN: Duration = Duration::from_secs(20);
/// Everything is looked at again once in so long, should an event have been lost.
const STEADY_AGAIN: Duration = Duration::from_secs(600);

/// What both loops share.
pub struct Context {
    /// What is seen.
    pub cache: Cache,
    /// The one way to write.
    pub writes: Writes,
    /// What the operator was told.
    pub settings: Settings,
    /// For people.
    pub events: Events,
    /// For monitoring.
    pub metrics: Arc<Metrics>,
    /// Which specs are kept.
    pub revisions: Revisions,
}

/// A reconcile did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ReconcileError {
    /// Someone wrote first, or this operator no longer leads: nothing to tell anyone.
    fn is_expected(&self) -> bool {
        let Self::Write(error) = self;
        error.is_conflict() || matches!(error, WriteError::Stopped(_))
    }

    /// Seconds after which the API server asks to try again; 0 when it does not ask.
    fn retry_after_seconds(&self) -> u32 {
        let Self::Write(error) = self;
        error.retry_after_seconds()
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::now())
}

/// The object as its type; the text says which field does not fit.
fn typed<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, String> {
    serde_json::from_value(crate::kinds::value(object))
        .map_err(|error| format!("the object cannot be read: {error}; correct it and apply it again"))
}

/// The status as its type; one that cannot be read (of another release) is none.
fn status_of<T: DeserializeOwned>(object: &DynamicObject) -> Option<T> {
    serde_json::from_value(object.data.get("status")?.clone()).ok()
}
