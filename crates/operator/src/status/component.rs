//! A component's status, of its Deployment and its pods.

use super::condition::{Said, said};
use super::pod::{Cause, Trouble};
use crds::conditions::{AVAILABLE, DYNAMO_COMPONENT_READY};
use crds::v1beta1::{DeploymentStatus, ReplicaStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

/// Reason of [`DYNAMO_COMPONENT_READY`] when all is well.
pub const READY_REASON: &str = "all_resources_are_ready";
/// Reason while pods of an earlier template are still there.
pub const UPDATING_REASON: &str = "updating";
/// Reason when the component was refused or its objects could not be written.
pub const FAILED_REASON: &str = "failed_to_reconcile_the_resources";

/// What the Deployment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its controller has seen the latest spec.
    pub is_observed: bool,
    /// Pods of the latest template.
    pub updated: i64,
    /// Pods could not be made or make no progress.
    pub trouble: Option<Trouble>,
}

impl Held {
    /// Reads a Deployment.
    pub fn of(deployment: &Value) -> Self {
        let status = &deployment["status"];
        let generation = |value: &Value| value.as_i64().unwrap_or_default();
        let is_observed =
            generation(&status["observedGeneration"]) >= generation(&deployment["metadata"]["generation"]);
        let find = |about: &str| {
            let all = status["conditions"].as_array().into_iter().flatten();
            all.into_iter().find(|condition| condition["type"] == about)
        };
        let message = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
        let refused = find("ReplicaFailure").filter(|condition| condition["status"] == "True").map(|condition| {
            let why = message(condition);
            let remedy = if why.contains("quota") {
                "raise the ResourceQuota of the Kubernetes namespace, or ask for less"
            } else {
                "correct what the API server refuses"
            };
            Trouble { cause: Cause::Quota, message: format!("pods cannot be made: {why}; {remedy}") }
        });
        let late = find("Progressing").filter(|condition| condition["reason"] == "ProgressDeadlineExceeded");
        let late = late.map(|_| Trouble {
            cause: Cause::Deadline,
            message: "no progress within the deadline; the message of its pods says why".to_owned(),
        });
        Self { is_observed, updated: status["updatedReplicas"].as_i64().unwrap_or_default(), trouble: refused.or(late) }
    }

    /// Whether the deadline is over.
    pub fn is_late(deployment: &Value) -> bool {
        let all = deployment["status"]["conditions"].as_array();
        all.is_some_and(|all| all.iter().any(|condition| condition["reason"] == "ProgressDeadlineExceeded"))
    }
}

/// What is seen of a component.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Name of the Deployment.
    pub name: String,
    /// Pods asked for.
    pub wanted: i64,
    /// The Deployment; none before it is there.
    pub held: Option<Held>,
    /// The deadline of the update is over.
    pub is_late: bool,
    /// Pods that have not ended.
    pub pods: i64,
    /// Ready pods.
    pub ready: i64,
    /// Pods that have been ready for long enough.
    pub available: i64,
    /// Why pods are not ready, a pod each.
    pub troubles: Vec<Trouble>,
    /// The component is of a kind that is not run, with the reason.
    pub not_run: Option<String>,
}

/// The status; `before` gives conditions their times.
pub fn status(
    facts: &Facts,
    before: Option<&DeploymentStatus>,
    generation: Option<i64>,
    now: &Time,
) -> DeploymentStatus {
    let held = facts.held.clone().unwrap_or_default();
    let (reason, message) = why(facts, &held);
    let is_ready = reason == READY_REASON;
    let is_available = facts.wanted == 0 || facts.available > 0;
    let available = if is_available {
        format!("{} of {} pods are available", facts.available, facts.wanted)
    } else {
        format!("none of {} pods is available: {message}", facts.wanted)
    };
    let conditions = vec![
        Said {
            about: AVAILABLE,
            is_true: is_available,
            reason: if is_available { "available" } else { reason },
            message: available,
        },
        Said { about: DYNAMO_COMPONENT_READY, is_true: is_ready, reason, message },
    ];
    DeploymentStatus {
        observed_generation: generation,
        conditions: Some(said(conditions_of(before), conditions, generation, now)),
        component: Some(ReplicaStatus {
            component_kind: "Deployment".to_owned(),
            component_names: Some(vec![facts.name.clone()]),
            replicas: facts.pods,
            updated_replicas: held.updated,
            ready_replicas: Some(facts.ready),
            available_replicas: Some(facts.available),
        }),
    }
}

/// The status of a component that was refused or could not be written. Its pods are as they were.
pub fn failed(why: String, before: Option<&DeploymentStatus>, generation: Option<i64>, now: &Time) -> DeploymentStatus {
    let condition = Said { about: DYNAMO_COMPONENT_READY, is_true: false, reason: FAILED_REASON, message: why };
    DeploymentStatus {
        observed_generation: generation,
        conditions: Some(said(conditions_of(before), vec![condition], generation, now)),
        component: before.and_then(|before| before.component.clone()),
    }
}

fn conditions_of(before: Option<&DeploymentStatus>) -> &[Condition] {
    before.and_then(|before| before.conditions.as_deref()).unwrap_or_default()
}

/// Reason and message of readiness: the worst trouble of the pods, said once for all pods that share it.
fn why(facts: &Facts, held: &Held) -> (&'static str, String) {
    if let Some(why) = &facts.not_run {
        return (FAILED_REASON, why.clone());
    }
    let is_updated =
        facts.held.is_some() && held.is_observed && held.updated >= facts.wanted && facts.pods <= facts.wanted;
    // That the time is over says less than what a pod says.
    let of_deployment = held.trouble.iter().filter(|t| t.cause != Cause::Deadline || facts.troubles.is_empty());
    let worst = facts.troubles.iter().chain(of_deployment).min_by_key(|trouble| trouble.cause);
    if is_updated && facts.available >= facts.wanted {
        return (READY_REASON, format!("all {} pods are ready", facts.wanted));
    }
    let Some(worst) = worst else {
        let counts = format!(
            "{} of {} pods are ready, {} are of the latest template",
            facts.available, facts.wanted, held.updated
        );
        let reason = if facts.ready >= facts.wanted { UPDATING_REASON } else { Cause::NotReady.reason() };
        return (reason, counts);
    };
    let same = facts.troubles.iter().filter(|trouble| trouble.cause == worst.cause).count().max(1);
    // Whoever decides about the update must see that its time is over; whoever reads must see why.
    let cause = if facts.is_late && !worst.cause.is_final() { Cause::Deadline } else { worst.cause };
    let late = if cause == Cause::Deadline { "no progress within the deadline: " } else { "" };
    (
        cause.reason(),
        format!("{} of {} pods are ready; {late}{same} of them: {}", facts.available, facts.wanted, worst.message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn held(updated: i64) -> Option<Held> {
        Some(Held { is_observed: true, updated, trouble: None })
    }

    fn trouble(cause: Cause) -> Trouble {
        Trouble { cause, message: "why; what to do".to_owned() }
    }

    fn check(facts: &Facts, ready: bool, reason: &str, available: bool) -> String {
        let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let status = status(facts, None, Some(3), &now);
        let conditions = status.conditions.unwrap();
        let find = |about: &str| conditions.iter().find(|c| c.type_ == about).unwrap().clone();
        let component = find(DYNAMO_COMPONENT_READY);
        let flag = |is_true: bool| if is_true { "True" } else { "False" };
        assert_eq!((component.status.as_str(), component.reason.as_str()), (flag(ready), reason), "{facts:?}");
        assert_eq!(find(AVAILABLE).status, flag(available), "{facts:?}");
        component.message
    }

    #[test]
    fn the_table_of_a_components_status() {
        let all = Facts { wanted: 2, held: held(2), pods: 2, ready: 2, available: 2, ..Facts::default() };
        check(&all, true, "all_resources_are_ready", true);
        check(&Facts { wanted: 0, held: held(0), ..Facts::default() }, true, "all_resources_are_ready", true);
        check(&Facts { held: None, ..all.clone() }, false, "updating", true);
        check(&Facts { held: held(1), ..all.clone() }, false, "updating", true);
        check(&Facts { pods: 3, ..all.clone() }, false, "updating", true);
        check(&Facts { available: 1, ..all.clone() }, false, "updating", true);
        check(&Facts { available: 0, ready: 0, ..all.clone() }, false, "pods_not_ready", false);
        let lacks =
            Facts { available: 1, ready: 1, troubles: vec![trouble(Cause::InsufficientCapacity)], ..all.clone() };
        let message = check(&lacks, false, "insufficient_capacity", true);
        assert_eq!(message, "1 of 2 pods are ready; 1 of them: why; what to do");
        let message = check(&Facts { is_late: true, ..lacks.clone() }, false, "progress_deadline_exceeded", true);
        assert!(message.contains("no progress within the deadline: 1 of them: why"), "{message}");
        let both = vec![trouble(Cause::NotReady), trouble(Cause::CrashLoop)];
        check(&Facts { troubles: both, is_late: true, ..lacks }, false, "crash_loop", true);
        check(
            &Facts { not_run: Some("several nodes".into()), ..all },
            false,
            "failed_to_reconcile_the_resources",
            true,
        );
    }

    #[test]
    fn a_deployment_tells_of_quota_and_of_its_deadline() {
        let deployment = json!({
            "metadata": {"generation": 3},
            "status": {"observedGeneration": 2, "updatedReplicas": 1, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "message": "pods \"a\" is forbidden: exceeded quota: q"},
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            ]}
        });
        let held = Held::of(&deployment);
        assert_eq!((held.is_observed, held.updated), (false, 1));
        let trouble = held.trouble.unwrap();
        assert_eq!(trouble.cause, Cause::Quota);
        assert!(trouble.message.contains("raise the ResourceQuota"), "{}", trouble.message);
        assert!(Held::is_late(&deployment));
    }
}
