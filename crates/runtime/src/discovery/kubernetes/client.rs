//! A real cluster, by kube's client: the kubeconfig that there is, or the service account of our pod.

use super::api::{Cluster, Feed, Object, Readiness, Seen, Target};
use super::config::{KubernetesConfig, KubernetesMode, object_name};
use super::error::{KubernetesError, KubernetesFault};
use crds::v1alpha1::{DynamoWorkerMetadata, WorkerMetadataSpec};
use futures::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Config, ResourceExt};
use serde_json::Value;
use std::time::Duration;

/// What the EndpointSlices of graphs have, and in container mode their pods.
///
/// Source: Dynamo 1.6.1, the list that its mocker asks for.
const SELECTOR: &str = "nvidia.com/dynamo-discovery-enabled=true";

const GROUP: &str = "nvidia.com";
const VERSION: &str = "v1alpha1";
const KIND: &str = "DynamoWorkerMetadata";
const PLURAL: &str = "dynamoworkermetadatas";

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Seconds after which a watch is begun anew where the last one ended. So long a server that vanished without a word,
/// with its machine, may go unnoticed; a process costs it two such calls in this time.
const WATCH_SECONDS: u32 = 60;

/// See the module.
pub(super) struct Client {
    objects: Api<DynamicObject>,
    slices: Api<EndpointSlice>,
    /// In container mode.
    pods: Option<Api<Pod>>,
    k8s_namespace: String,
    object: String,
    owner: OwnerReference,
    field_manager: String,
}

impl Client {
    /// Reads how to reach the API server; does not call it.
    pub(super) async fn new(config: &KubernetesConfig) -> Result<Self, KubernetesError> {
        let wrong = |cause: String| KubernetesError::new(KubernetesFault::Config, "find the API server", cause);
        let mut way = Config::infer().await.map_err(|error| wrong(chain(&error)))?;
        way.connect_timeout = Some(CONNECT_MAX);
        let k8s_namespace = config.k8s_namespace.clone().unwrap_or_else(|| way.default_namespace.clone());
        tracing::info!(
            server = %way.cluster_url, k8s_namespace, object = config.object_name(), instance = %config.instance_id(),
            "joining the discovery of a Kubernetes namespace"
        );
        let client = kube::Client::try_from(way).map_err(|error| wrong(chain(&error)))?;
        let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
        let kind = ApiResource::from_gvk_with_plural(&kind, PLURAL);
        let by_container = matches!(config.mode, KubernetesMode::Container(_));
        Ok(Self {
            objects: Api::namespaced_with(client.clone(), &k8s_namespace, &kind),
            slices: Api::namespaced(client.clone(), &k8s_namespace),
            pods: by_container.then(|| Api::namespaced(client, &k8s_namespace)),
            k8s_namespace,
            object: config.object_name(),
            owner: OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: config.pod_name.clone(),
                uid: config.pod_uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(false),
            },
            field_manager: config.field_manager.clone(),
        })
    }

    fn act(&self, verb: &str, resource: &str) -> String {
        format!("{verb} {resource} in namespace {}", self.k8s_namespace)
    }
}

impl Cluster for Client {
    fn readiness(&self) -> Feed<Readiness> {
        let config = watcher::Config::default().labels(SELECTOR).timeout(WATCH_SECONDS);
        match &self.pods {
            Some(pods) => feed(watcher(pods.clone(), config), self.act("list and watch", "pods"), of_pod),
            None => {
                let act = self.act("list and watch", "endpointslices.discovery.k8s.io");
                feed(watcher(self.slices.clone(), config), act, of_slice)
            }
        }
    }

    fn objects(&self) -> Feed<Object> {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let act = self.act("list and watch", &format!("{PLURAL}.{GROUP}"));
        feed(watcher(self.objects.clone(), config), act, of_object)
    }

    async fn apply(&self, data: &Value) -> Result<Object, KubernetesError> {
        let object = DynamoWorkerMetadata {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: KIND.to_owned(),
            metadata: ObjectMeta {
                name: Some(self.object.clone()),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: WorkerMetadataSpec { data: data.clone() },
        };
        let params = PatchParams::apply(&self.field_manager).force();
        let written = self.objects.patch(&self.object, &params, &Patch::Apply(&object)).await;
        let act = || self.act("create and patch", &format!("{PLURAL}.{GROUP}"));
        written.map(of_object).map_err(|error| error_of(act(), &error))
    }

    async fn delete(&self) -> Result<(), KubernetesError> {
        match self.objects.delete(&self.object, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error_of(self.act("delete", &format!("{PLURAL}.{GROUP}")), &error)),
        }
    }
}

/// A watcher's events as lists and changes.
fn feed<K, T>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    act: String,
    of: impl Fn(K) -> T + Send + 'static,
) -> Feed<T>
where
    K: ResourceExt + Send + 'static,
    T: Send + 'static,
{
    let mut listed = Vec::new();
    let seen = events.filter_map(move |event| {
        future::ready(match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(one)) => {
                listed.push(of(one));
                None
            }
            Ok(watcher::Event::InitDone) => Some(Ok(Seen::All(std::mem::take(&mut listed)))),
            Ok(watcher::Event::Apply(one)) => Some(Ok(Seen::Put(of(one)))),
            Ok(watcher::Event::Delete(one)) => Some(Ok(Seen::Gone(one.name_any()))),
            Err(error) => Some(Err(watch_error(act.clone(), &error))),
        })
    });
    seen.boxed()
}

/// Who is ready by an EndpointSlice. A pod that ends takes no new work, even behind a Service that publishes it still.
fn of_slice(slice: EndpointSlice) -> Readiness {
    let name = slice.name_any();
    let ready = slice.endpoints.into_iter().filter_map(|endpoint| {
        let conditions = endpoint.conditions.unwrap_or_default();
        // Absent means unknown, and is to be taken for ready (Kubernetes, EndpointConditions).
        if !conditions.ready.unwrap_or(true) || conditions.terminating.unwrap_or(false) {
            return None;
        }
        let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"))?;
        Some(Target { object: pod.name?, pod_uid: pod.uid? })
    });
    let ready = ready.collect();
    Readiness { name, ready }
}

/// Which containers of a pod are ready.
fn of_pod(pod: Pod) -> Readiness {
    let name = pod.name_any();
    let ends = pod.metadata.deletion_timestamp.is_some();
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let uid = pod.metadata.uid.unwrap_or_default();
    let ready = statuses.into_iter().filter(|status| status.ready && !ends);
    let ready = ready.map(|status| Target { object: object_name(&name, &status.name), pod_uid: uid.clone() }).collect();
    Readiness { name, ready }
}

fn of_object(mut object: DynamicObject) -> Object {
    let data = object.data.pointer_mut("/spec/data").map(Value::take).unwrap_or_default();
    let owners = object.metadata.owner_references.take().unwrap_or_default();
    Object {
        name: object.name_any(),
        uid: object.metadata.uid.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        owners: owners.into_iter().filter(|owner| owner.kind == "Pod").map(|owner| owner.uid).collect(),
        data,
    }
}

fn watch_error(act: String, error: &watcher::Error) -> KubernetesError {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => error_of(act, cause),
        watcher::Error::WatchError(status) => KubernetesError::new(fault_of(status), act, &*status.message),
        watcher::Error::NoResourceVersion => {
            KubernetesError::new(KubernetesFault::Refused, act, "the answer has no resourceVersion")
        }
    }
}

fn error_of(act: String, error: &kube::Error) -> KubernetesError {
    let fault = match error {
        kube::Error::Api(status) => return KubernetesError::new(fault_of(status), act, &*status.message),
        kube::Error::Auth(_) | kube::Error::InferConfig(_) | kube::Error::InferKubeconfig(_) => KubernetesFault::Config,
        kube::Error::BuildRequest(_) => KubernetesFault::Refused,
        other if is_of_tls(other) => KubernetesFault::Tls,
        _ => KubernetesFault::Unavailable,
    };
    KubernetesError::new(fault, act, chain(error))
}

fn fault_of(status: &kube::core::Status) -> KubernetesFault {
    let of_namespace = status.details.as_ref().is_some_and(|details| details.kind == "namespaces");
    match status.code {
        401 => KubernetesFault::Login,
        403 => KubernetesFault::Denied,
        404 if !of_namespace => KubernetesFault::Unknown,
        400 | 404 | 413 | 415 | 422 => KubernetesFault::Refused,
        // Among them 409, 410 and 429: the next try, or a new list, does it.
        _ => KubernetesFault::Unavailable,
    }
}

/// A certificate that does not fit, and not merely a connection that broke.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let wrapped = inside.is_some_and(|inside| inside.is::<rustls::Error>());
        if wrapped || error.is::<rustls::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error and its causes; a cause that only repeats is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
