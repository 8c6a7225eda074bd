//! Everything in a cluster that is there because of a platform, by its labels, whatever its kind.

use super::object::{Address, place};
use super::wait::GRAPH_LABEL;
use super::{Cluster, ClusterError};
use crds::platform::PLATFORM_LABEL;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client};
use std::collections::BTreeSet;

/// Kinds that come and go with others, or that hold nothing.
const PASSING: &[&str] = &["Event", "ComponentStatus", "EndpointSlice", "Endpoints", "PodMetrics", "NodeMetrics"];

/// How a platform's things are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The platform's name, which is also that of its release.
    pub platform: String,
    /// Where the release is.
    pub k8s_namespace: String,
    /// Namespace and name of its graphs.
    pub graphs: Vec<(String, String)>,
}

impl Marks {
    /// Label selectors, each with the namespace to look in; `None` is everywhere.
    fn selectors(&self) -> Vec<(Option<&str>, String)> {
        let release = format!("app.kubernetes.io/instance={}", self.platform);
        let mut selectors = vec![
            (None, format!("{PLATFORM_LABEL}={}", self.platform)),
            (None, format!("{release},app.kubernetes.io/part-of=busbar-platform")),
            // What the StatefulSets of the release made bears only what their selectors say.
            (Some(self.k8s_namespace.as_str()), release),
        ];
        for (k8s_namespace, graph) in &self.graphs {
            selectors.push((Some(k8s_namespace.as_str()), format!("{GRAPH_LABEL}={graph}")));
        }
        selectors
    }
}

/// Lists them, but for kinds that pass by themselves; in the order of the API's groups.
///
/// # Errors
/// [`ClusterError::Api`] when the API server does not tell its kinds or the objects of one.
pub(crate) async fn find(cluster: &Cluster, marks: &Marks) -> Result<Vec<Address>, ClusterError> {
    let discovery = Discovery::new(cluster.client.clone()).run_aggregated().await;
    let discovery = discovery.map_err(ClusterError::api("list the kinds of the cluster"))?;
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let kinds = discovery.groups_alphabetical().into_iter().flat_map(|group| group.recommended_resources());
    for (kind, capabilities) in kinds {
        if !capabilities.supports_operation(verbs::LIST) || PASSING.contains(&kind.kind.as_str()) {
            continue;
        }
        let namespaced = capabilities.scope == Scope::Namespaced;
        for (k8s_namespace, selector) in marks.selectors() {
            if k8s_namespace.is_some() && !namespaced {
                continue;
            }
            for (k8s_namespace, name) in list(&cluster.client, &kind, k8s_namespace, &selector).await? {
                if seen.insert((kind.kind.clone(), k8s_namespace.clone(), name.clone())) {
                    found.push(Address::listed(&kind, k8s_namespace, name));
                }
            }
        }
    }
    Ok(found)
}

/// Everything of a namespace but what every namespace has; tells whether it is somebody's.
pub(crate) async fn in_namespace(cluster: &Cluster, k8s_namespace: &str) -> Result<Vec<Address>, ClusterError> {
    let discovery = Discovery::new(cluster.client.clone()).run_aggregated().await;
    let discovery = discovery.map_err(ClusterError::api("list the kinds of the cluster"))?;
    let mut found = Vec::new();
    let kinds = discovery.groups_alphabetical().into_iter().flat_map(|group| group.recommended_resources());
    for (kind, capabilities) in kinds {
        let listed = capabilities.supports_operation(verbs::LIST) && capabilities.scope == Scope::Namespaced;
        // A lease holds nothing: it is what is left of a leader.
        if !listed || PASSING.contains(&kind.kind.as_str()) || kind.kind == "Lease" {
            continue;
        }
        for (k8s_namespace, name) in list(&cluster.client, &kind, Some(k8s_namespace), "").await? {
            let of_every_namespace = matches!(
                (kind.kind.as_str(), name.as_str()),
                ("ConfigMap", "kube-root-ca.crt") | ("ServiceAccount", "default")
            );
            if !of_every_namespace {
                found.push(Address::listed(&kind, k8s_namespace, name));
            }
        }
    }
    Ok(found)
}

/// Namespace and name; a kind that may not be listed, or is no longer served, has none that we could have made.
async fn list(
    client: &Client,
    kind: &ApiResource,
    k8s_namespace: Option<&str>,
    selector: &str,
) -> Result<Vec<(Option<String>, String)>, ClusterError> {
    let api: Api<DynamicObject> = match k8s_namespace {
        Some(k8s_namespace) => Api::namespaced_with(client.clone(), k8s_namespace, kind),
        None => Api::all_with(client.clone(), kind),
    };
    let params = if selector.is_empty() { ListParams::default() } else { ListParams::default().labels(selector) };
    match api.list_metadata(&params).await {
        Ok(listed) => Ok(listed.items.iter().map(place).collect()),
        Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => Ok(Vec::new()),
        Err(error) => Err(ClusterError::api(format!("list {}", kind.plural))(error)),
    }
}
