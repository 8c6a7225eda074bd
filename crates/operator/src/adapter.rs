//! Scaling adapters: who scales an adapter scales the component that it names.
//!
//! The graph's reconcile makes an adapter once, with the replicas that its component has then; from there on the adapter
//! owns them, and the webhook refuses others' edits. [`decide`] is pure: from an adapter and its graph to what the component and the adapter's
//! status must say.
//!
//! Replicas are written as a JSON patch that names the component at its place, not by server-side apply: several adapters
//! would share one field manager, and each apply would give up what the others own.
//!
//! Source: Dynamo, docs/kubernetes/autoscaling.md and docs/kubernetes/api-reference.md.

use crds::convert::Version;
use crds::parts::AdapterStatus;
use crds::v1beta1::{DynamoGraphDeployment, DynamoGraphDeploymentScalingAdapter};
use futures::StreamExt;
use graph::cluster::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An adapter is looked at again this often, whatever watches missed.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// After a failure: a conflict, or an API server that is away.
const RETRY: Duration = Duration::from_secs(2);

/// An adapter could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// An object is not of its shape.
    #[error("read {0}")]
    Shape(String, #[source] serde_json::Error),
    /// The API server refused, or is away.
    #[error("{verb} {object}")]
    Api {
        /// What was done.
        verb: &'static str,
        /// With what.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// What one look at an adapter comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// A JSON patch of the graph; none when the component has the adapter's replicas.
    pub graph_patch: Option<Value>,
    /// The adapter's status; `last_scale_time` is that of `now` where the component changes.
    pub status: AdapterStatus,
}

/// What the component of `adapter` and the adapter's status must be. A graph that is gone, or that has not opted in,
/// is left alone, and the status says that nothing is scaled.
pub fn decide(
    adapter: &DynamoGraphDeploymentScalingAdapter,
    graph: Option<&DynamoGraphDeployment>,
    now: Timestamp,
) -> Decision {
    let last = adapter.status.as_ref().and_then(|status| status.last_scale_time.clone());
    let nothing = |last| Decision {
        graph_patch: None,
        status: AdapterStatus { replicas: Some(0), selector: None, last_scale_time: last },
    };
    let wanted_name = adapter.spec.dgd_ref.component_name.as_deref().unwrap_or_default();
    let found = graph.and_then(|graph| {
        let place = graph.spec.components.iter().position(|component| component.name == wanted_name)?;
        Some((graph, place))
    });
    let Some((graph, place)) = found else { return nothing(last) };
    let component = &graph.spec.components[place];
    if component.scaling_adapter.is_none() || graph.metadata.deletion_timestamp.is_some() {
        return nothing(last);
    }
    let (name, replicas) = (component.name.as_str(), adapter.spec.replicas);
    let is_there = component.replicas.unwrap_or(1) == replicas;
    // The test keeps the patch from another component, should the list have changed meanwhile.
    let graph_patch = (!is_there).then(|| {
        json!([
            { "op": "test", "path": format!("/spec/components/{place}/name"), "value": name },
            { "op": "add", "path": format!("/spec/components/{place}/replicas"), "value": replicas },
        ])
    });
    let components = graph.status.as_ref().and_then(|status| status.components.as_ref());
    let running = components.and_then(|all| all.get(name)).map_or(0, |component| component.replicas);
    let selector = format!(
        "{}={},{}={name}",
        labels::GRAPH_NAME,
        graph.metadata.name.as_deref().unwrap_or_default(),
        labels::COMPONENT
    );
    let last_scale_time = if is_there { last } else { Some(Time(now)) };
    Decision {
        graph_patch,
        status: AdapterStatus { replicas: Some(running), selector: Some(selector), last_scale_time },
    }
}

fn kind(kind: &str, plural: &str) -> ApiResource {
    let version = Version::V1beta1.word();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(crds::GROUP, version, kind), plural)
}

fn adapter_kind() -> ApiResource {
    kind(crds::SCALING_ADAPTER, "dynamographdeploymentscalingadapters")
}

fn graph_kind() -> ApiResource {
    kind(crds::DYNAMO_GRAPH_DEPLOYMENT, "dynamographdeployments")
}

fn api(client: &Client, k8s_namespace: Option<&str>, kind: &ApiResource) -> Api<DynamicObject> {
    match k8s_namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    }
}

fn adapters(client: &Client, k8s_namespace: Option<&str>) -> Api<DynamicObject> {
    api(client, k8s_namespace, &adapter_kind())
}

struct Context {
    client: Client,
    /// No write begins once this fires.
    lost: CancellationToken,
}

/// Carries out all adapters of `watch_namespace` (of the cluster when absent) until `lost` fires. For the leader.
pub async fn run(client: Client, watch_namespace: Option<String>, lost: CancellationToken) {
    let namespace = watch_namespace.as_deref();
    let graphs = api(&client, namespace, &graph_kind());
    let controller = Controller::new_with(adapters(&client, namespace), watcher::Config::default(), adapter_kind());
    let store = controller.store();
    let of_graph = move |graph: DynamicObject| {
        let (name, k8s_namespace) = (graph.name_any(), graph.namespace());
        let of_it = |adapter: &Arc<DynamicObject>| {
            adapter.namespace() == k8s_namespace
                && adapter.data.pointer("/spec/dgdRef/name").and_then(Value::as_str) == Some(name.as_str())
        };
        let found: Vec<_> = store.state().into_iter().filter(of_it).collect();
        found.into_iter().map(|adapter| ObjectRef::from_obj_with(&*adapter, adapter_kind())).collect::<Vec<_>>()
    };
    let stop = lost.clone();
    let context = Arc::new(Context { client, lost });
    controller
        .watches_with(graphs, graph_kind(), watcher::Config::default(), of_graph)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, |adapter, error, _| on_error(&adapter, error), context)
        .for_each(|_| async {})
        .await;
}

fn on_error(adapter: &DynamicObject, error: &AdapterError) -> Action {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(adapter = %adapter.name_any(), error = %error, cause, "an adapter was not carried out; tried again");
    Action::requeue(RETRY)
}

async fn reconcile(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, AdapterError> {
    let adapter: DynamoGraphDeploymentScalingAdapter = typed(&object)?;
    let k8s_namespace = object.namespace().unwrap_or_default();
    let graphs = api(&context.client, Some(&k8s_namespace), &graph_kind());
    let graph_name = &adapter.spec.dgd_ref.name;
    let failed = |verb, what: &str, name: &str| {
        let object = format!("{what} {k8s_namespace}/{name}");
        move |source| AdapterError::Api { verb, object, source: Box::new(source) }
    };
    let found = graphs.get_opt(graph_name).await.map_err(failed("get", "the graph", graph_name))?;
    let graph = found.as_ref().map(typed::<DynamoGraphDeployment>).transpose()?;
    let decision = decide(&adapter, graph.as_ref(), Timestamp::now());
    if context.lost.is_cancelled() {
        return Ok(Action::await_change());
    }
    let parameters = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    if let Some(patch) = decision.graph_patch {
        let patch = as_json_patch(patch, graph_name)?;
        graphs.patch(graph_name, &parameters, &patch).await.map_err(failed("scale", "the graph", graph_name))?;
    }
    if adapter.status.as_ref() != Some(&decision.status) {
        let name = object.name_any();
        let status = Patch::Merge(json!({ "status": with_nulls(&decision.status) }));
        let written = adapters(&context.client, Some(&k8s_namespace)).patch_status(&name, &parameters, &status).await;
        written.map_err(failed("write the status of", "the scaling adapter", &name))?;
    }
    Ok(Action::requeue(LOOK_EVERY))
}

/// A merge keeps what it does not name.
fn with_nulls(status: &AdapterStatus) -> Value {
    json!({
        "replicas": status.replicas,
        "selector": status.selector,
        "lastScaleTime": status.last_scale_time,
    })
}

fn as_json_patch(patch: Value, name: &str) -> Result<Patch<Value>, AdapterError> {
    serde_json::from_value(patch).map(Patch::Json).map_err(|source| AdapterError::Shape(name.to_owned(), source))
}

fn typed<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, AdapterError> {
    let name = || format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let value = serde_json::to_value(object).map_err(|source| AdapterError::Shape(name(), source))?;
    serde_json::from_value(value).map_err(|source| AdapterError::Shape(name(), source))
}
