//! From a plan to a platform that answers. Every step asks first what is there, so that a run that was cut off is gone on
//! with, and a second one changes nothing.

use super::ask::{self, Answer};
use super::diff::{self, description};
use super::helm::{Helm, RELEASE_TIMEOUT, ReleaseStatus};
use super::object::Address;
use super::{Cluster, ClusterError, Progress, Tell, apply, pods, record, unless, wait};
use plan::{Plan, Release};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// Namespaces made, releases installed or upgraded, graphs made or changed. Zero: all of it was so already.
    pub changes: usize,
    /// The answer of each graph.
    pub answers: Vec<Answer>,
}

/// How `up` goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How long the graphs may take to be ready.
    pub ready_timeout: Duration,
    /// Take fields of graphs from other managers.
    pub force_conflicts: bool,
}

/// Installs, applies, waits and asks. The image is there already.
///
/// # Errors
/// [`ClusterError`]; the cluster is left as far as it came, and another run goes on from there.
pub async fn run(
    at: (&Cluster, &Helm, &Plan),
    manner: Manner,
    tell: Tell<'_>,
    stop: &CancellationToken,
) -> Result<Done, ClusterError> {
    let (cluster, helm, plan) = at;
    let mut changes = unless(stop, apply::namespaces(cluster, plan, tell)).await?;
    unless(stop, record::write(cluster, plan)).await?;
    changes += usize::from(release(cluster, helm, plan, tell, stop).await?);
    unless(stop, apply::admission(cluster, plan, tell)).await?;
    changes += unless(stop, apply::graphs(cluster, plan, manner.force_conflicts, tell)).await?;
    unless(stop, wait::graphs(cluster, plan, manner.ready_timeout, tell)).await?;
    let answers = unless(stop, ask::ask_all(cluster, &plan.questions, tell)).await?;
    Ok(Done { changes, answers })
}

/// Brings the release to what the plan says; whether anything was to do.
async fn release(
    cluster: &Cluster,
    helm: &Helm,
    plan: &Plan,
    tell: Tell<'_>,
    stop: &CancellationToken,
) -> Result<bool, ClusterError> {
    let name = &plan.release.name;
    let mut status = helm.status(&plan.release).await?;
    if let Some(found) = status.take() {
        unless(stop, settle(cluster, helm, &plan.release, found, tell)).await?;
        status = helm.status(&plan.release).await?;
    }
    let wanted = description(plan);
    let serves = status.as_ref().is_some_and(|status| status.info.status == "deployed");
    if let Some(status) = status.filter(|status| serves && status.info.description == wanted) {
        let missing = diff::missing(cluster, &status.manifest).await?;
        let Some(first) = missing.first() else {
            tell(Progress::Line(format!("  ✓ release {name} unchanged")));
            return Ok(false);
        };
        tell(Progress::Line(format!("  {} is gone; release {name} is made whole", first.shown())));
    }
    tell(Progress::Stage(format!("release {name}")));
    let upgraded = tokio::select! {
        upgraded = helm.upgrade(&plan.release, &wanted, serves, stop) => upgraded,
        () = wait::tell_release(cluster, plan, tell) => Ok(()),
    };
    match upgraded {
        Ok(()) => {
            tell(Progress::Line(format!("  ✓ release {name} {}", if serves { "upgraded" } else { "installed" })));
            Ok(true)
        }
        Err(ClusterError::Helm { act, said }) => {
            // Helm says that it waited in vain; the pods say for what.
            let selector = format!("app.kubernetes.io/instance={name}");
            let reasons = pods::not_ready(&cluster.client, &plan.release.k8s_namespace, &selector).await;
            let reasons = reasons.unwrap_or_default();
            let said = std::iter::once(said).chain(reasons).collect::<Vec<_>>().join("\n");
            Err(ClusterError::Helm { act, said })
        }
        Err(error) => Err(error),
    }
}

/// Sees to it that no Helm is in the middle of a change. One that this machine ran and that was killed has left a
/// revision that is pending for ever: it is dropped, and the next change takes its objects over. Another's is waited for.
pub(crate) async fn settle(
    cluster: &Cluster,
    helm: &Helm,
    release: &Release,
    status: ReleaseStatus,
    tell: Tell<'_>,
) -> Result<(), ClusterError> {
    if !status.info.is_pending() {
        return Ok(());
    }
    let since = status.info.last_deployed.clone();
    let busy = status.clone();
    wait::poll(
        RELEASE_TIMEOUT,
        async || {
            let Some(status) = helm.status(release).await?.filter(|status| status.info.is_pending()) else {
                return Ok(Some(()));
            };
            if helm.was_cut_off(&release.name) == Some(true) {
                let secret = format!("sh.helm.release.v1.{}.v{}", release.name, status.version);
                let secret = Address::new("v1", "Secret", Some(&release.k8s_namespace), &secret);
                secret.delete(&cluster.client).await?;
                tell(Progress::Line(format!(
                    "  release {} was {} when helm was killed; going on",
                    release.name, status.info.status
                )));
                return Ok(Some(()));
            }
            tell(Progress::Stage(format!("another helm works on release {}", release.name)));
            Ok(None)
        },
        || ClusterError::ReleaseBusy { release: release.name.clone(), status: busy.info.status, since },
    )
    .await
}
