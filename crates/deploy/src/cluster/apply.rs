//! Namespaces and graphs, server-side.

use super::object::{Address, Applied, Manner};
use super::{Cluster, ClusterError, Progress, Tell};
use plan::Plan;
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
    let ClusterError::Api { source, .. } = error else { return false };
    match source.as_ref() {
        kube::Error::Api(status) => {
            status.code == 404 || (status.code == 500 && status.message.contains("webhook")) || status.code == 503
        }
        _ => false,
    }
}
