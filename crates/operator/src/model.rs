//! Models: brought to their claim once, and where they are served.
//!
//! A `DynamoModel` with a cache ([`graph::model_cache`]) gets its claim and a Job that fills it; condition [`CACHED`] says
//! how far that is and what to do when it fails. Every model's status lists the endpoints of its base model.

mod conditions;

pub use conditions::{CACHED, CacheState, ENDPOINTS_READY, JobState, cached_condition, endpoints_condition};

use crate::apply::WriteError;
use crate::kinds::{self, ENDPOINT_SLICE, JOB, Kind, MODEL, PERSISTENT_VOLUME_CLAIM};
use crate::reconcile::Context;
use crds::v1alpha1::{DynamoModel, ModelEndpoint, ModelStatus};
use futures::StreamExt;
use graph::cluster::{base_model_hash, labels};
use graph::model_cache;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looked at again without an event: endpoints change without one that is watched here.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a failure; doubled by nothing, because the watch brings what heals most of them.
const RETRY: Duration = Duration::from_secs(5);
/// Models that are looked at together.
const CONCURRENCY: u16 = 4;
/// Port of the system server of a worker, where adapters are loaded.
const SYSTEM_PORT: u16 = 9090;
/// Lines of a failed fetch that are told: its last one is its error.
const LOG_LINES: i64 = 1;

/// What the models are looked after with.
pub struct Models {
    /// What all loops share.
    pub context: Arc<Context>,
    /// The Kubernetes namespace; all when absent.
    pub k8s_namespace: Option<String>,
    /// Busbar's image, whose `model fetch` the Job runs. Without it nothing can be fetched, which the status says.
    pub image: Option<String>,
}

/// A model could not be looked after now.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Reading failed.
    #[error("read the objects of a model")]
    Read(#[from] kube::Error),
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Looks after all models until `stop`.
pub async fn run(models: Models, stop: CancellationToken) {
    let client = models.context.writes.client().clone();
    let k8s_namespace = models.k8s_namespace.clone();
    let all = |kind: Kind| kind.api(&client, k8s_namespace.as_deref());
    let made_here = watcher::Config::default().labels(model_cache::MODEL_LABEL);
    Controller::new_with(all(MODEL), watcher::Config::default(), MODEL.resource())
        .owns_with(all(JOB), JOB.resource(), made_here)
        .with_config(kube::runtime::controller::Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, |_, error: &ModelError, _| on_error(error), Arc::new(models))
        .for_each(|_| std::future::ready(()))
        .await;
}

fn on_error(error: &ModelError) -> Action {
    tracing::warn!(%error, cause = std::error::Error::source(error).map(ToString::to_string), "a model is tried again");
    Action::requeue(RETRY)
}

async fn reconcile(live: Arc<DynamicObject>, models: Arc<Models>) -> Result<Action, ModelError> {
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // The API server has checked it against the schema, which comes from this type.
    let Ok(model) = serde_json::from_value::<DynamoModel>(kinds::value(&live)) else {
        return Ok(Action::await_change());
    };
    let state = bring(&model, &models).await?;
    let endpoints = endpoints(&model, models.context.writes.client()).await?;
    let status = status(&model, state.as_ref(), endpoints);
    models.context.writes.status(MODEL, &live, &status).await?;
    Ok(Action::requeue(LOOK_AGAIN))
}

/// Makes claim and Job where they are not there, and says how far the fetch is; `None` where none is asked for.
async fn bring(model: &DynamoModel, models: &Models) -> Result<Option<CacheState>, ModelError> {
    let cache = match model_cache::cache_of(model) {
        Ok(Some(cache)) => cache,
        Ok(None) => return Ok(None),
        Err(findings) => return Ok(Some(CacheState::Invalid(findings))),
    };
    let Some(image) = &models.image else { return Ok(Some(CacheState::NoImage)) };
    let client = models.context.writes.client();
    let k8s_namespace = model.metadata.namespace.as_deref();
    let claim = PERSISTENT_VOLUME_CLAIM.api(client, k8s_namespace).get_opt(&cache.claim).await?;
    match (&claim, model_cache::claim(model, &cache)) {
        (None, Some(intent)) => drop(models.context.writes.apply(intent, None).await?),
        (None, None) => return Ok(Some(CacheState::NoClaim(cache))),
        // One that is there is taken as it is: most fields of a claim cannot be changed.
        (Some(_), _) => {}
    }
    let name = model_cache::job_name(model.metadata.name.as_deref().unwrap_or_default(), &cache);
    let Some(job) = JOB.api(client, k8s_namespace).get_opt(&name).await? else {
        models.context.writes.apply(model_cache::job(model, &cache, image), None).await?;
        return Ok(Some(CacheState::Fetching { cache, job: JobState::default() }));
    };
    let mut state = JobState::read(&kinds::value(&job));
    if state.failure.is_some() || state.pods_failed > 0 {
        state.last_line = last_line(client, k8s_namespace.unwrap_or("default"), &name).await;
    }
    Ok(Some(CacheState::Fetching { cache, job: state }))
}

/// What the fetch said last. Only an explanation: that it cannot be had is no failure.
async fn last_line(client: &Client, k8s_namespace: &str, job: &str) -> Option<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), k8s_namespace);
    let found = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"))).await.ok()?;
    let failed = found
        .items
        .into_iter()
        .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed"));
    let last = failed.max_by_key(|pod| pod.metadata.creation_timestamp.clone())?;
    let wanted = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
    let text = pods.logs(last.metadata.name.as_deref()?, &wanted).await.ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The pods behind the headless Services of the base model.
async fn endpoints(model: &DynamoModel, client: &Client) -> Result<Vec<ModelEndpoint>, ModelError> {
    let wanted = format!("{}={}", labels::BASE_MODEL_HASH, base_model_hash(&model.spec.base_model_name));
    let api = ENDPOINT_SLICE.api(client, model.metadata.namespace.as_deref());
    let slices = api.list(&ListParams::default().labels(&wanted)).await?;
    let mut found: Vec<ModelEndpoint> = slices.items.iter().flat_map(of_slice).collect();
    found.sort_by(|a, b| a.pod_name.cmp(&b.pod_name).then_with(|| a.address.cmp(&b.address)));
    found.dedup_by(|a, b| a.address == b.address);
    Ok(found)
}

fn of_slice(slice: &DynamicObject) -> Vec<ModelEndpoint> {
    let none = Vec::new();
    let all = slice.data["endpoints"].as_array().unwrap_or(&none);
    let of = |endpoint: &Value| {
        let address = endpoint["addresses"][0].as_str()?;
        Some(ModelEndpoint {
            address: format!("http://{address}:{SYSTEM_PORT}"),
            pod_name: endpoint["targetRef"]["name"].as_str().map(str::to_owned),
            ready: Some(endpoint["conditions"]["ready"].as_bool().unwrap_or(false)),
        })
    };
    all.iter().filter_map(of).collect()
}

fn status(model: &DynamoModel, state: Option<&CacheState>, endpoints: Vec<ModelEndpoint>) -> Value {
    let old: &[Condition] = model.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let generation = model.metadata.generation;
    let ready = endpoints.iter().filter(|endpoint| endpoint.ready == Some(true)).count();
    let mut conditions: Vec<Condition> =
        state.map(|state| cached_condition(state, old, generation)).into_iter().collect();
    conditions.push(endpoints_condition(&model.spec, ready, endpoints.len(), (old, generation)));
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let status = ModelStatus {
        ready_endpoints: Some(count(ready)),
        total_endpoints: Some(count(endpoints.len())),
        endpoints: Some(endpoints),
        conditions: Some(conditions),
    };
    // Holds texts and numbers only.
    serde_json::to_value(status).unwrap_or_else(|_| json!({}))
}
