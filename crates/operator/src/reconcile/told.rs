//! How a status is told: written where it changed, with an event for what changed in it.

use super::{Context, ReconcileError, chain, now};
use crate::apply::WriteError;
use crate::kinds::{COMPONENT, GRAPH, Kind};
use crate::status;
use crds::v1beta1::{DeploymentStatus, GraphStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde::Serialize;

/// The status of a kind that has a control loop.
pub(super) trait Told: Serialize {
    /// The kind.
    const KIND: Kind;
    /// The status of an object with which nothing could be done, for `why`.
    fn failed(why: String, before: Option<&Self>, generation: Option<i64>, now: &Time) -> Self;
    /// What it says.
    fn conditions(&self) -> &[Condition];
}

impl Told for GraphStatus {
    const KIND: Kind = GRAPH;

    fn failed(why: String, before: Option<&Self>, generation: Option<i64>, now: &Time) -> Self {
        status::graph::failed(why, before, generation, now)
    }

    fn conditions(&self) -> &[Condition] {
        self.conditions.as_deref().unwrap_or_default()
    }
}

impl Told for DeploymentStatus {
    const KIND: Kind = COMPONENT;

    fn failed(why: String, before: Option<&Self>, generation: Option<i64>, now: &Time) -> Self {
        status::component::failed(why, before, generation, now)
    }

    fn conditions(&self) -> &[Condition] {
        self.conditions.as_deref().unwrap_or_default()
    }
}

/// Writes `status`, and an event for each condition that is another than `before`.
pub(super) async fn tell<S: Told>(
    object: &DynamicObject,
    context: &Context,
    status: &S,
    before: Option<&S>,
) -> Result<(), ReconcileError> {
    let value = serde_json::to_value(status).unwrap_or_default();
    if context.writes.status(S::KIND, object, &value).await? {
        let earlier = before.map(S::conditions).unwrap_or_default();
        context.events.changed(object, S::KIND, earlier, status.conditions()).await;
    }
    Ok(())
}

/// Tells that nothing is done with an object until it is changed.
pub(super) async fn refuse<S: Told>(
    object: &DynamicObject,
    context: &Context,
    why: String,
    before: Option<&S>,
) -> Result<Action, ReconcileError> {
    let status = S::failed(why, before, object.metadata.generation, &now());
    tell(object, context, &status, before).await?;
    Ok(Action::await_change())
}

/// Tells of a write that failed, and fails with it: it is tried again. What only asks to read anew is not told.
pub(super) async fn fail<S: Told>(
    object: &DynamicObject,
    context: &Context,
    error: WriteError,
    before: Option<&S>,
) -> Result<Action, ReconcileError> {
    let error = ReconcileError::Write(error);
    if !error.is_expected() {
        let status = S::failed(chain(&error), before, object.metadata.generation, &now());
        tell(object, context, &status, before).await?;
    }
    Err(error)
}
