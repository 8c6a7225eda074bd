//! All that `up` made, removed in the order that lets each part finish its work, and the proof that nothing is left.
//!
//! Graphs go first, while the operator is there to drain them; then the release, then what it left, the definitions if
//! this platform brought them and nobody else uses them, and at last the namespaces that it made.

use super::helm::Helm;
use super::leftovers::{self, Marks};
use super::object::Address;
use super::{Cluster, ClusterError, Progress, Tell, record, unless, up, wait};
use crds::platform::PLATFORM_LABEL;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use plan::Plan;
use serde::Serialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a graph may drain: twice the longest grace period that the operator gives a pod.
const GRAPH_TIMEOUT: Duration = Duration::from_secs(600);
/// How long what the release left may take to go.
const REST_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a namespace or a definition may take to go.
const LAST_TIMEOUT: Duration = Duration::from_secs(120);

/// What is there.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// Graphs, as `namespace/name`.
    pub graphs: Vec<String>,
    /// Whether the chart is installed, in whatever state.
    pub release: bool,
    /// Claims for data volumes: `namespace/name, 10Gi`. What is on them goes with them.
    pub claims: Vec<String>,
    /// Everything else, one line each.
    pub others: Vec<String>,
    #[serde(skip)]
    marks: Marks,
}

impl Survey {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty() && !self.release && self.claims.is_empty() && self.others.is_empty()
    }
}

/// What stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// Volumes, the secrets that open them, and the namespaces around them.
    pub data: bool,
    /// The definitions of the kinds.
    pub definitions: bool,
}

/// Looks at what there is; changes nothing.
///
/// # Errors
/// When the cluster or Helm does not tell.
pub async fn survey(cluster: &Cluster, helm: &Helm, plan: &Plan) -> Result<Survey, ClusterError> {
    let mut marks =
        Marks { platform: plan.name.clone(), k8s_namespace: plan.release.k8s_namespace.clone(), graphs: Vec::new() };
    if record::definitions_are_there(&cluster.client).await? {
        let selector = format!("{PLATFORM_LABEL}={}", plan.name);
        let listed = graphs_api(cluster).list_metadata(&ListParams::default().labels(&selector)).await;
        let listed = listed.map_err(ClusterError::api("list the graphs of the platform"))?;
        marks.graphs = listed.items.iter().map(|g| (g.namespace().unwrap_or_default(), g.name_any())).collect();
    }
    let found = leftovers::find(cluster, &marks).await?;
    let (claims, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_claim);
    let others = others.iter().filter(|address| address.kind != crds::DYNAMO_GRAPH_DEPLOYMENT);
    Ok(Survey {
        graphs: marks.graphs.iter().map(|(k8s_namespace, name)| format!("{k8s_namespace}/{name}")).collect(),
        release: helm.status(&plan.release).await?.is_some(),
        claims: sizes(cluster, &claims).await?,
        others: others.map(Address::shown).collect(),
        marks,
    })
}

/// Removes it. Safe to stop at any point and to run again.
///
/// # Errors
/// [`ClusterError::StaysThere`] with what holds something, [`ClusterError::Left`] when something is there at the end.
pub async fn run(
    at: (&Cluster, &Helm, &Plan),
    survey: &Survey,
    keep: Keep,
    tell: Tell<'_>,
    stop: &CancellationToken,
) -> Result<Vec<String>, ClusterError> {
    let (cluster, helm, plan) = at;
    unless(stop, graphs(cluster, &survey.marks, tell)).await?;
    if let Some(status) = helm.status(&plan.release).await? {
        tell(Progress::Stage(format!("uninstalling release {}", plan.release.name)));
        unless(stop, up::settle(cluster, helm, &plan.release, status, tell)).await?;
        if helm.status(&plan.release).await?.is_some() {
            helm.uninstall(&plan.release, stop).await?;
        }
        tell(Progress::Line(format!("  ✓ release {} uninstalled", plan.release.name)));
    }
    let mut kept = unless(stop, rest(cluster, &survey.marks, keep, tell)).await?;
    kept.extend(unless(stop, definitions(cluster, plan, keep, tell)).await?);
    kept.extend(unless(stop, last(cluster, plan, &survey.marks, tell)).await?);
    let left = leftovers::find(cluster, &survey.marks).await?;
    let left: Vec<_> =
        left.iter().map(Address::shown).filter(|shown| !kept.iter().any(|k| k.starts_with(shown))).collect();
    if left.is_empty() { Ok(kept) } else { Err(ClusterError::Left { objects: left }) }
}

fn graphs_api(cluster: &Cluster) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(crds::GROUP, "v1beta1", crds::DYNAMO_GRAPH_DEPLOYMENT);
    Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&kind))
}

fn is_claim(address: &Address) -> bool {
    address.kind == "PersistentVolumeClaim"
}

async fn sizes(cluster: &Cluster, claims: &[Address]) -> Result<Vec<String>, ClusterError> {
    let mut said = Vec::new();
    for claim in claims {
        let k8s_namespace = claim.k8s_namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), k8s_namespace);
        let found = api.get_opt(&claim.name).await.map_err(ClusterError::api(format!("read {}", claim.shown())))?;
        let size = found.and_then(|claim| claim.spec?.resources?.requests?.get("storage").map(|size| size.0.clone()));
        said.push(format!("{k8s_namespace}/{}, {}", claim.name, size.unwrap_or_default()));
    }
    Ok(said)
}

/// Deletes the graphs and waits until the operator has let go of them.
async fn graphs(cluster: &Cluster, marks: &Marks, tell: Tell<'_>) -> Result<(), ClusterError> {
    let kind = format!("{}/v1beta1", crds::GROUP);
    let addresses: Vec<_> = marks
        .graphs
        .iter()
        .map(|(k8s_namespace, name)| Address::new(&kind, crds::DYNAMO_GRAPH_DEPLOYMENT, Some(k8s_namespace), name))
        .collect();
    for address in &addresses {
        address.delete(&cluster.client).await?;
    }
    for address in &addresses {
        tell(Progress::Stage(format!("draining graph {}", address.name)));
        gone(cluster, address, GRAPH_TIMEOUT).await?;
        tell(Progress::Line(format!("  ✓ graph {} deleted", address.name)));
    }
    Ok(())
}

/// Waits until it is not there.
async fn gone(cluster: &Cluster, address: &Address, timeout: Duration) -> Result<(), ClusterError> {
    let mut holds = String::new();
    let waited = wait::poll(
        timeout,
        async || {
            let found = address.get(&cluster.client).await?;
            holds = found.as_ref().map(why_it_stays).unwrap_or_default();
            Ok(found.is_none().then_some(()))
        },
        || ClusterError::StaysThere { what: address.shown(), seconds: timeout.as_secs(), reason: String::new() },
    )
    .await;
    match waited {
        Err(ClusterError::StaysThere { what, seconds, .. }) => {
            Err(ClusterError::StaysThere { what, seconds, reason: holds })
        }
        other => other,
    }
}

/// Finalizers, or what the object says of itself.
fn why_it_stays(object: &serde_json::Value) -> String {
    let list = |path: &str| {
        let texts = object.pointer(path).and_then(serde_json::Value::as_array).into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let finalizers = [list("/metadata/finalizers"), list("/spec/finalizers")].concat();
    let conditions = object.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    let said = conditions.into_iter().flatten().filter(|condition| condition["status"] == "True");
    let said: Vec<_> = said.filter_map(|condition| condition["message"].as_str()).collect();
    let who = if finalizers.is_empty() {
        "nothing holds it".to_owned()
    } else {
        format!("held by {}", finalizers.join(", "))
    };
    if said.is_empty() { who } else { format!("{who}; {}", said.join("; ")) }
}

/// What the release and the graphs left: volumes, generated secrets. Gives what was kept.
async fn rest(cluster: &Cluster, marks: &Marks, keep: Keep, tell: Tell<'_>) -> Result<Vec<String>, ClusterError> {
    let stays = |address: &Address| keep.data && (is_claim(address) || address.kind == "Secret");
    let is_last = |address: &Address| address.kind == "Namespace" || address.kind == "ConfigMap";
    let mut kept = Vec::new();
    let mut waits_for = Vec::new();
    let done = wait::poll(
        REST_TIMEOUT,
        async || {
            kept.clear();
            waits_for.clear();
            for address in leftovers::find(cluster, marks).await? {
                if stays(&address) {
                    kept.push(format!("{} (--keep-data)", address.shown()));
                } else if !is_last(&address) {
                    address.delete(&cluster.client).await?;
                    waits_for.push(address.shown());
                }
            }
            if let Some(first) = waits_for.first() {
                tell(Progress::Stage(format!("deleting {first}")));
            }
            Ok(waits_for.is_empty().then_some(()))
        },
        || ClusterError::Left { objects: Vec::new() },
    )
    .await;
    match done {
        Err(ClusterError::Left { .. }) => Err(ClusterError::Left { objects: waits_for }),
        other => other.map(|()| kept),
    }
}

/// The definitions, if this platform brought them and nobody else uses them. Gives what was kept, with the reason.
async fn definitions(cluster: &Cluster, plan: &Plan, keep: Keep, tell: Tell<'_>) -> Result<Vec<String>, ClusterError> {
    let brought = record::brought_definitions(&cluster.client, &plan.release.k8s_namespace, &plan.name).await?;
    if !brought || !record::definitions_are_there(&cluster.client).await? {
        return Ok(Vec::new());
    }
    let kept = |why: &str| Ok(vec![format!("CustomResourceDefinitions of {} ({why})", crds::GROUP)]);
    if keep.definitions {
        return kept("--keep-crds");
    }
    if let Some(user) = other_user(cluster).await? {
        return kept(&format!("{user} needs them"));
    }
    let names = crds::definition::definitions(&crds::definition::ConversionService::default());
    let addresses: Vec<_> = names
        .iter()
        .filter_map(|(_, definition)| definition.pointer("/metadata/name")?.as_str())
        .map(|name| Address::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, name))
        .collect();
    for address in &addresses {
        tell(Progress::Stage(format!("deleting {}", address.shown())));
        address.delete(&cluster.client).await?;
    }
    for address in &addresses {
        gone(cluster, address, LAST_TIMEOUT).await?;
    }
    tell(Progress::Line(format!("  ✓ definitions of {} deleted", crds::GROUP)));
    Ok(Vec::new())
}

/// Another platform of ours, or a graph of somebody.
async fn other_user(cluster: &Cluster) -> Result<Option<String>, ClusterError> {
    let operators: Api<Deployment> = Api::all(cluster.client.clone());
    let labels = "app.kubernetes.io/part-of=busbar-platform";
    let found = operators.list_metadata(&ListParams::default().labels(labels).limit(1)).await;
    let found = found.map_err(ClusterError::api("list the deployments of other platforms"))?;
    if let Some(other) = found.items.first() {
        return Ok(Some(format!("Deployment {}/{}", other.namespace().unwrap_or_default(), other.name_any())));
    }
    let graphs = graphs_api(cluster).list_metadata(&ListParams::default().limit(1)).await;
    let graphs = graphs.map_err(ClusterError::api("list the graphs of others"))?;
    Ok(graphs
        .items
        .first()
        .map(|graph| format!("graph {}/{}", graph.namespace().unwrap_or_default(), graph.name_any())))
}

/// The record and the namespaces that were made. One in which somebody else has something stays.
async fn last(cluster: &Cluster, plan: &Plan, marks: &Marks, tell: Tell<'_>) -> Result<Vec<String>, ClusterError> {
    let mut kept = Vec::new();
    let found = leftovers::find(cluster, marks).await?;
    let (namespaces, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.kind == "Namespace");
    for address in others.iter().filter(|address| address.kind == "ConfigMap") {
        address.delete(&cluster.client).await?;
        // A namespace with anything in it is somebody's.
        gone(cluster, address, LAST_TIMEOUT).await?;
    }
    // The platform's own goes last: as long as it is there, another run finds what is left to do.
    let (own, graphs): (Vec<_>, Vec<_>) =
        namespaces.into_iter().partition(|address| address.name == plan.release.k8s_namespace);
    for address in graphs.iter().chain(&own) {
        let inside = leftovers::in_namespace(cluster, &address.name).await?;
        if let Some(first) = inside.first() {
            kept.push(format!("{} ({} is in it)", address.shown(), first.shown()));
            continue;
        }
        tell(Progress::Stage(format!("deleting {}", address.shown())));
        address.delete(&cluster.client).await?;
        gone(cluster, address, LAST_TIMEOUT).await?;
        tell(Progress::Line(format!("  ✓ {} deleted", address.shown())));
    }
    Ok(kept)
}
