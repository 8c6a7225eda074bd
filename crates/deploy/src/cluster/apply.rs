//! Namespaces and graphs, server-side.

use super::object::{Address, Applied, Manner};
use super::{Cluster, ClusterError, Progress, Tell};
use plan::Plan;
use serde_json::json;
use std::time::Duration;

/// How long the API server may take to serve a kind whose definition was just applied, and to reach its webhooks.
const SERVED_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the namespaces that are missing, and gives how many there were. One that is there is left as it is: it is
/// somebody's, and `down` must not take it for ours.
pub(crate) async fn namespaces(cluster: &Cluster, plan: &Plan, tell: Tell<'_>) -> Result<usize, ClusterError> {
    let mut made = 0;
    for object in &plan.k8s_namespaces {
        let address = Address::of(object);
        if address.get(&cluster.client).await?.is_none() {
            address.apply(&cluster.client, object, Manner::default()).await?;
            tell(Progress::Line(format!("  ✓ {} made", address.shown())));
            made += 1;
        }
    }
    Ok(made)
}

/// Waits until the API server reaches the operator's webhooks: pods that are ready are endpoints of their Service a moment
/// later, and who applies a graph by hand in that moment would be refused. Asked with a graph that is never made; whatever
/// the answer is, it is one. Where the definitions are not installed there is nothing to wait for.
pub(crate) async fn admission(cluster: &Cluster, plan: &Plan, tell: Tell<'_>) -> Result<(), ClusterError> {
    let probe = json!({
        "apiVersion": "nvidia.com/v1beta1",
        "kind": crds::DYNAMO_GRAPH_DEPLOYMENT,
        "metadata": { "name": "busbar-admission", "namespace": plan.release.k8s_namespace },
        "spec": { "components": [{ "name": "Frontend", "type": "frontend", "replicas": 0 }] },
    });
    let address = Address::of(&probe);
    let manner = Manner { force: false, dry_run: true };
    super::wait::poll(
        SERVED_TIMEOUT,
        async || match address.apply(&cluster.client, &probe, manner).await {
            Err(error) if is_webhook_away(&error) => {
                tell(Progress::Stage("the operator's webhooks do not answer yet".to_owned()));
                Ok(None)
            }
            _ => Ok(Some(())),
        },
        || ClusterError::NotReady {
            what: "admission of graphs".to_owned(),
            seconds: SERVED_TIMEOUT.as_secs(),
            reasons: vec!["the API server does not reach the operator's webhooks; see the operator's log".to_owned()],
        },
    )
    .await
}

/// Applies the graphs in their order, and gives how many were made or changed.
pub(crate) async fn graphs(cluster: &Cluster, plan: &Plan, force: bool, tell: Tell<'_>) -> Result<usize, ClusterError> {
    let mut changed = 0;
    for graph in &plan.graphs {
        let address = Address::of(&graph.manifest);
        let manner = Manner { force, dry_run: false };
        let (applied, _) = super::wait::poll(
            SERVED_TIMEOUT,
            async || match address.apply(&cluster.client, &graph.manifest, manner).await {
                Err(error) if is_settling(&error) => {
                    tell(Progress::Stage(format!("graph {}: the operator's webhooks do not answer yet", graph.name)));
                    Ok(None)
                }
                done => done.map(Some),
            },
            || ClusterError::NotReady {
                what: format!("the API for {}", address.shown()),
                seconds: SERVED_TIMEOUT.as_secs(),
                reasons: vec!["the operator's webhooks do not answer; see its log".to_owned()],
            },
        )
        .await?;
        let said = match applied {
            Applied::Made => "made",
            Applied::Changed => "changed",
            Applied::Unchanged => "unchanged",
        };
        tell(Progress::Line(format!("  ✓ graph {}/{} {said}", graph.k8s_namespace, graph.name)));
        changed += usize::from(applied != Applied::Unchanged);
    }
    Ok(changed)
}

/// An answer that another moment may change: the kind is not served yet, or a webhook behind it has no endpoint.
fn is_settling(error: &ClusterError) -> bool {
    is_webhook_away(error) || matches!(code(error), Some(404 | 503))
}

/// The API server could not ask a webhook.
fn is_webhook_away(error: &ClusterError) -> bool {
    let ClusterError::Api { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if status.code == 500 && status.message.contains("webhook"))
}

fn code(error: &ClusterError) -> Option<u16> {
    let ClusterError::Api { source, .. } = error else { return None };
    match source.as_ref() {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
