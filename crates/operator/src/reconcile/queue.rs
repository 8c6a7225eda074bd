//! Runs the control loops: who is looked at when, how many at a time, and what follows a failure.

use super::{Context, ReconcileError, components, graphs};
use crate::cache::{Reference, Triggers};
use futures::stream::{self, Stream, StreamExt};
use kube::api::DynamicObject;
use kube::runtime::controller::{Action, Config, Error};
use kube::runtime::{applier, reflector::Store};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Reconciles at a time, of each loop. Each waits for the API server most of its time; more would be throttled by it.
const CONCURRENCY: u16 = 8;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// First pause after a failure; it doubles up to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(60);

/// Runs both loops until `stop`. Reconciles under way come to their end; they write nothing more once the lease is lost.
pub async fn run_all(context: Arc<Context>, triggers: Triggers, stop: CancellationToken) {
    context.cache.wait().await;
    tracing::info!("the lists are read; reconciling");
    let graphs = Loop { name: "graph", context: context.clone(), failures: Mutex::default() };
    let components = Loop { name: "component", context: context.clone(), failures: Mutex::default() };
    let (graph_store, component_store) = (context.cache.graphs.clone(), context.cache.components.clone());
    tokio::join!(
        drive(graphs, graph_store, triggers.graphs, stop.clone(), graphs::reconcile),
        drive(components, component_store, triggers.components, stop, components::reconcile),
    );
}

/// One loop.
struct Loop {
    name: &'static str,
    context: Arc<Context>,
    /// Failures in a row, by object. An object that succeeds or is gone has no entry.
    failures: Mutex<HashMap<String, u32>>,
}

async fn drive<Done>(
    control: Loop,
    store: Store<DynamicObject>,
    triggers: mpsc::Receiver<Reference>,
    stop: CancellationToken,
    reconcile: fn(Arc<DynamicObject>, Arc<Context>) -> Done,
) where
    Done: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    let queue = references(triggers).take_until(stop.cancelled_owned()).boxed();
    let config = Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let once = move |object: Arc<DynamicObject>, control: Arc<Loop>| {
        Box::pin(async move { control.once(object, reconcile).await })
    };
    let after = |object: Arc<DynamicObject>, error: &ReconcileError, control: Arc<Loop>| control.again(&object, error);
    let results = applier(once, after, Arc::new(control), store, queue, config);
    results
        .for_each(|result| async move {
            match result {
                // What is gone needs nothing; what failed was logged where it failed.
                Ok(_) | Err(Error::ObjectNotFound(_) | Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::error!(error = %error, "a control loop is broken"),
            }
        })
        .await;
}

fn references(triggers: mpsc::Receiver<Reference>) -> impl Stream<Item = Result<Reference, Infallible>> + Send {
    stream::unfold(
        triggers,
        |mut triggers| async move { triggers.recv().await.map(|reference| (Ok(reference), triggers)) },
    )
}

impl Loop {
    async fn once<Done>(
        &self,
        object: Arc<DynamicObject>,
        reconcile: fn(Arc<DynamicObject>, Arc<Context>) -> Done,
    ) -> Result<Action, ReconcileError>
    where
        Done: Future<Output = Result<Action, ReconcileError>>,
    {
        let metrics = &self.context.metrics;
        metrics.begin(self.name);
        let begun = Instant::now();
        let result = reconcile(object.clone(), self.context.clone()).await;
        let is_error = result.as_ref().is_err_and(|error| !error.is_expected());
        metrics.end(self.name, begun.elapsed(), is_error);
        if result.is_ok() {
            self.failures.lock().remove(&key(&object));
        }
        result
    }

    fn again(&self, object: &DynamicObject, error: &ReconcileError) -> Action {
        let failures = {
            let mut all = self.failures.lock();
            let failures = all.entry(key(object)).or_default();
            *failures += 1;
            *failures
        };
        let asked = Duration::from_secs(u64::from(error.retry_after_seconds()));
        let pause = backoff(failures, random()).max(asked);
        if error.is_expected() {
            tracing::debug!(object = key(object), error = %error, "looked at again");
        } else {
            let error = super::chain(error);
            tracing::warn!(
                controller = self.name,
                object = key(object),
                error,
                pause_ms = pause.as_millis(),
                "failed; tried again"
            );
        }
        Action::requeue(pause)
    }
}

fn key(object: &DynamicObject) -> String {
    format!("{}/{}", crate::kinds::k8s_namespace(object), crate::kinds::name(object))
}

/// A number that nobody foresees, evenly spread; what spreads retries needs no more.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Doubles with each failure, then a random part between half of it and all of it, so that what failed together is not
/// tried together.
fn backoff(failures: u32, random: u64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_LAST);
    doubled / 2 + doubled / 2 * u32::try_from(random % 1000).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_is_spread_and_has_an_end() {
        let range = |failures| (backoff(failures, 0).as_millis(), backoff(failures, 999).as_millis());
        assert_eq!(range(1), (250, 499));
        assert_eq!(range(2), (500, 999));
        assert_eq!((range(30).0, range(30).1 < 60_000), (30_000, true));
    }
}
