//! What the operator sees of the cluster: one watch a kind, kept in memory, and who is to be looked at again after a change.
//!
//! Nothing is asked for on a timer. Watches select by label where they can, drop what nobody reads, and come back by
//! themselves with a growing pause.

use crate::kinds::{self, CHILDREN, COMPONENT, GRAPH, Kind, MODEL};
use crds::v1alpha1::DynamoModel;
use futures::{Stream, StreamExt};
use graph::cluster::labels::{MANAGED_BY, MANAGER, SELECTOR};
use graph::model_cache::{self, ModelCache};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// References that wait to be queued. The queue itself holds each object once; this only carries them there.
const TRIGGERS_MAX: usize = 1024;
/// Type of Secrets that log in to registries.
const PULL_SECRET: &str = "kubernetes.io/dockerconfigjson";

/// A reference to an object of any kind.
pub type Reference = ObjectRef<DynamicObject>;

/// What is seen.
pub struct Cache {
    /// Graphs.
    pub graphs: Store<DynamicObject>,
    /// Components.
    pub components: Store<DynamicObject>,
    models: Store<DynamicObject>,
    children: Vec<(Kind, Store<DynamicObject>)>,
    pods: Store<Pod>,
    nodes: Option<Store<Node>>,
    pull_secrets: Store<Secret>,
}

/// References to be looked at.
pub struct Triggers {
    /// Graphs.
    pub graphs: mpsc::Receiver<Reference>,
    /// Components.
    pub components: mpsc::Receiver<Reference>,
}

/// Senders of [`Triggers`].
#[derive(Clone)]
struct Queues {
    graphs: mpsc::Sender<Reference>,
    components: mpsc::Sender<Reference>,
}

impl Cache {
    /// Starts the watches as tasks of `tasks`, over one Kubernetes namespace or all. Nodes are watched with all only:
    /// one namespace's rights do not reach them.
    pub fn start(client: &Client, k8s_namespace: Option<&str>, tasks: &mut JoinSet<()>) -> (Self, Triggers) {
        let (graphs_out, graphs_in) = mpsc::channel(TRIGGERS_MAX);
        let (components_out, components_in) = mpsc::channel(TRIGGERS_MAX);
        let queues = Queues { graphs: graphs_out, components: components_out };
        let dynamic = |kind: Kind| kind.api(client, k8s_namespace);
        let ours = || watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        let all = watcher::Config::default;

        let graphs = watch(dynamic(GRAPH), all(), GRAPH.resource(), tasks, {
            let queues = queues.clone();
            move |graph: DynamicObject| send_all(queues.clone(), vec![(GRAPH, reference_to(GRAPH, &graph))])
        });
        let components = watch(dynamic(COMPONENT), all(), COMPONENT.resource(), tasks, {
            let queues = queues.clone();
            move |component: DynamicObject| {
                let mut found = owners(&component.metadata);
                found.push((COMPONENT, reference_to(COMPONENT, &component)));
                send_all(queues.clone(), found)
            }
        });
        let models = watch(dynamic(MODEL), all(), MODEL.resource(), tasks, {
            let (queues, components) = (queues.clone(), components.clone());
            move |model: DynamicObject| send_all(queues.clone(), users_of(&model, &components))
        });
        let child = |kind: Kind, tasks: &mut JoinSet<()>| {
            let queues = queues.clone();
            let seen = move |child: DynamicObject| send_all(queues.clone(), owners(&child.metadata));
            (kind, watch(dynamic(kind), ours(), kind.resource(), tasks, seen))
        };
        let children = CHILDREN.iter().map(|kind| child(*kind, tasks)).collect();
        let pods = watch(typed(client, k8s_namespace), all().labels(SELECTOR), (), tasks, {
            let queues = queues.clone();
            move |pod: Pod| send_all(queues.clone(), holder_of(&pod))
        });
        let secrets = all().fields(&format!("type={PULL_SECRET}"));
        let pull_secrets =
            watch(typed::<Secret>(client, k8s_namespace), secrets, (), tasks, |_| std::future::ready(()));
        let nodes = k8s_namespace
            .is_none()
            .then(|| watch(Api::<Node>::all(client.clone()), all(), (), tasks, |_| std::future::ready(())));
        let cache = Self { graphs, components, models, children, pods, nodes, pull_secrets };
        (cache, Triggers { graphs: graphs_in, components: components_in })
    }

    /// Waits until every first list is there. Nodes and Secrets are only for messages and logins; an operator that may
    /// not see them works without.
    pub async fn wait(&self) {
        let lists = [&self.graphs, &self.components, &self.models]
            .into_iter()
            .chain(self.children.iter().map(|(_, store)| store));
        for store in lists {
            // A writer that is gone belongs to a task that was ended, and so is whoever waits here.
            let _ = store.wait_until_ready().await;
        }
        let _ = self.pods.wait_until_ready().await;
    }

    /// One object of the operator's own.
    pub fn child(&self, kind: Kind, k8s_namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let store =
            if kind == COMPONENT { &self.components } else { &self.children.iter().find(|(k, _)| *k == kind)?.1 };
        store.get(&kind.reference(k8s_namespace, name))
    }

    /// All objects of the operator's own that the one with this uid owns, components of a graph apart.
    pub fn owned_by(&self, uid: &str) -> Vec<(Kind, Arc<DynamicObject>)> {
        let of = |(kind, store): &(Kind, Store<DynamicObject>)| {
            let found = store.state_filter(|object| kinds::is_owned_by(object, uid));
            found.into_iter().map(|object| (*kind, object)).collect::<Vec<_>>()
        };
        self.children.iter().flat_map(of).collect()
    }

    /// Components that the graph with this uid owns.
    pub fn components_of(&self, uid: &str) -> Vec<Arc<DynamicObject>> {
        self.components.state_filter(|component| kinds::is_owned_by(component, uid))
    }

    /// Pods of a component.
    pub fn pods_of(&self, k8s_namespace: &str, component: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            pod.metadata.namespace.as_deref() == Some(k8s_namespace)
                && labels.and_then(|labels| labels.get(SELECTOR)).is_some_and(|holder| holder == component)
        })
    }

    /// Caches of the models of a Kubernetes namespace, in the order of the models' names. One that makes no sense is none:
    /// the model's own status says so.
    pub fn model_caches(&self, k8s_namespace: &str) -> Vec<ModelCache> {
        let mut models = self.models.state_filter(|model| kinds::k8s_namespace(model) == k8s_namespace);
        models.sort_by_key(|model| kinds::name(model).to_owned());
        let typed = |model: Arc<DynamicObject>| serde_json::from_value::<DynamoModel>(kinds::value(&model)).ok();
        models.into_iter().filter_map(typed).filter_map(|model| model_cache::cache_of(&model).ok().flatten()).collect()
    }

    /// Nodes, where they may be seen.
    pub fn nodes(&self) -> Option<Vec<Arc<Node>>> {
        self.nodes.as_ref().map(Store::state)
    }

    /// Secrets of a Kubernetes namespace that log in to registries.
    pub fn pull_secrets(&self, k8s_namespace: &str) -> Vec<Arc<Secret>> {
        self.pull_secrets.state_filter(|secret| secret.metadata.namespace.as_deref() == Some(k8s_namespace))
    }
}

fn typed<K>(client: &Client, k8s_namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match k8s_namespace {
        Some(name) => Api::namespaced(client.clone(), name),
        None => Api::all(client.clone()),
    }
}

/// A watch as a task; `seen` is called with every object that came, changed or went.
fn watch<K, Seen, Done>(
    api: Api<K>,
    config: watcher::Config,
    dynamic: K::DynamicType,
    tasks: &mut JoinSet<()>,
    seen: Seen,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Debug + Unpin + Send + Sync,
    Seen: Fn(K) -> Done + Send + Sync + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    let kind = K::kind(&dynamic).into_owned();
    let writer = Writer::new(dynamic);
    let store = writer.as_reader();
    let events = watcher(api, config).default_backoff().modify(slim).reflect(writer).touched_objects();
    tasks.spawn(follow(kind, events, seen));
    store
}

async fn follow<K, Seen, Done>(kind: String, events: impl Stream<Item = watcher::Result<K>> + Send, seen: Seen)
where
    Seen: Fn(K) -> Done + Send + Sync,
    Done: Future<Output = ()> + Send,
{
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(object) => seen(object).await,
            Err(error) => tracing::warn!(kind, error = %error, "the watch broke; it starts again"),
        }
    }
}

/// Drops who wrote which field: nobody here reads it, and it is half of an object.
fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn reference_to(kind: Kind, object: &DynamicObject) -> Reference {
    kind.reference(kinds::k8s_namespace(object), kinds::name(object))
}

/// Graphs and components that own an object.
fn owners(metadata: &ObjectMeta) -> Vec<(Kind, Reference)> {
    let k8s_namespace = metadata.namespace.as_deref().unwrap_or_default();
    let kind_of = |name: &str| [GRAPH, COMPONENT].into_iter().find(|kind| kind.kind == name);
    let owners = metadata.owner_references.iter().flatten();
    owners
        .filter_map(|owner| Some((kind_of(&owner.kind)?, owner)))
        .map(|(kind, owner)| (kind, kind.reference(k8s_namespace, &owner.name)))
        .collect()
}

/// Components that serve the base model of a model: what is known of its cache is mounted into their pods.
fn users_of(model: &DynamicObject, components: &Store<DynamicObject>) -> Vec<(Kind, Reference)> {
    let base = &model.data["spec"]["baseModelName"];
    let found = components.state_filter(|component| {
        kinds::k8s_namespace(component) == kinds::k8s_namespace(model)
            && component.data["spec"]["modelRef"]["name"] == *base
    });
    found.iter().map(|component| (COMPONENT, reference_to(COMPONENT, component))).collect()
}

/// The component that a pod belongs to.
fn holder_of(pod: &Pod) -> Vec<(Kind, Reference)> {
    let labels = pod.metadata.labels.iter().flatten();
    let name = labels.into_iter().find(|(key, _)| *key == SELECTOR).map(|(_, name)| name);
    let k8s_namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    name.map(|name| (COMPONENT, COMPONENT.reference(k8s_namespace, name))).into_iter().collect()
}

async fn send_all(queues: Queues, found: Vec<(Kind, Reference)>) {
    for (kind, reference) in found {
        let queue = if kind == GRAPH { &queues.graphs } else { &queues.components };
        // A receiver that is gone belongs to a term that is over.
        let _ = queue.send(reference).await;
    }
}
