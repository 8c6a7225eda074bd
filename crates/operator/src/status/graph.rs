//! A graph's status, of its components' and its update's.

use super::component::{FAILED_REASON, READY_REASON, UPDATING_REASON};
use super::condition::{Said, said};
use crds::conditions::{AVAILABLE, READY};
use crds::parts::RestartStatus;
use crds::v1beta1::{GraphStatus, ReplicaStatus, RollingUpdateStatus};
use graph::Finding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Reason of `Ready` after an update was taken back; Dynamo has no word for it.
pub const ROLLED_BACK_REASON: &str = "rolled_back";

/// What is known of one component.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Component {
    /// Name in the graph.
    pub name: String,
    /// All of its pods, of the wanted template, are ready.
    pub is_ready: bool,
    /// It serves.
    pub is_available: bool,
    /// Reason and message of its own condition.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// Its pods, all generations together.
    pub replicas: ReplicaStatus,
}

/// How an update of the workers stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// None.
    #[default]
    None,
    /// Under way; components that are done.
    Rolling(Vec<String>),
    /// Taken back, with the reason.
    RolledBack(String),
}

/// What is known of a graph.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its components, in the graph's order.
    pub components: Vec<Component>,
    /// The update.
    pub update: Update,
    /// The restart.
    pub restart: Option<RestartStatus>,
}

/// The status; `before` gives conditions their times and an update its start.
pub fn status(facts: Facts, before: Option<&GraphStatus>, generation: Option<i64>, now: &Time) -> GraphStatus {
    let ready = ready(&facts);
    let state = match ready.reason {
        READY_REASON => "successful",
        FAILED_REASON | ROLLED_BACK_REASON => "failed",
        _ => "pending",
    };
    let missing: Vec<&str> = facts.components.iter().filter(|c| !c.is_available).map(|c| c.name.as_str()).collect();
    let available = Said {
        about: AVAILABLE,
        is_true: missing.is_empty(),
        reason: if missing.is_empty() { "available" } else { "some_resources_are_not_ready" },
        message: if missing.is_empty() {
            "every component serves".to_owned()
        } else {
            format!("no pod serves of: {}", missing.join(", "))
        },
    };
    GraphStatus {
        observed_generation: generation,
        state: Some(state.to_owned()),
        conditions: Some(said(conditions_of(before), vec![available, ready], generation, now)),
        rolling_update: rolling_update(&facts, before.and_then(|before| before.rolling_update.as_ref()), now),
        components: Some(facts.components.into_iter().map(|c| (c.name, c.replicas)).collect::<BTreeMap<_, _>>()),
        restart: facts.restart,
        checkpoints: before.and_then(|before| before.checkpoints.clone()),
        placement: before.and_then(|before| before.placement.clone()),
    }
}

/// The status of a graph that is refused, or whose objects could not be written. What runs is as it was.
pub fn failed(why: String, before: Option<&GraphStatus>, generation: Option<i64>, now: &Time) -> GraphStatus {
    let condition = Said { about: READY, is_true: false, reason: FAILED_REASON, message: why };
    GraphStatus {
        observed_generation: generation,
        state: Some("failed".to_owned()),
        conditions: Some(said(conditions_of(before), vec![condition], generation, now)),
        ..before.cloned().unwrap_or_default()
    }
}

/// Findings as one sentence.
pub fn refused(findings: &[Finding]) -> String {
    let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
    format!("the graph is refused and nothing was changed: {}", all.join(" | "))
}

fn conditions_of(before: Option<&GraphStatus>) -> &[Condition] {
    before.and_then(|before| before.conditions.as_deref()).unwrap_or_default()
}

fn ready(facts: &Facts) -> Said {
    let said = |is_true, reason, message: String| Said { about: READY, is_true, reason, message };
    let waiting: Vec<&Component> = facts.components.iter().filter(|component| !component.is_ready).collect();
    let messages = || waiting.iter().map(|c| format!("{}: {}", c.name, c.message)).collect::<Vec<_>>().join(" | ");
    match &facts.update {
        Update::RolledBack(why) => {
            let remedy = "the last generation that was ready serves; change the workers to try again";
            return said(
                false,
                ROLLED_BACK_REASON,
                format!("the update of the workers was rolled back: {why}; {remedy}"),
            );
        }
        Update::Rolling(done) => {
            let mut message = format!("the workers are being updated; done: {}", join(done));
            if !waiting.is_empty() {
                message = format!("{message} | {}", messages());
            }
            return said(false, UPDATING_REASON, message);
        }
        Update::None => {}
    }
    if waiting.is_empty() {
        let message = format!("all {} components are ready", facts.components.len());
        return said(true, READY_REASON, message);
    }
    let reasons: BTreeSet<&str> = waiting.iter().map(|component| word(&component.reason)).collect();
    let reason = match reasons.iter().next() {
        Some(only) if reasons.len() == 1 => reason_of(only),
        _ if reasons.contains(FAILED_REASON) => FAILED_REASON,
        _ => "mixed_not_ready_reasons",
    };
    said(false, reason, messages())
}

fn join(done: &[String]) -> String {
    if done.is_empty() { "none yet".to_owned() } else { done.join(", ") }
}

/// Dynamo's word for a component's reason.
fn word(reason: &str) -> &str {
    match reason {
        "insufficient_capacity" | UPDATING_REASON | FAILED_REASON | "pods_not_ready" => reason,
        "crash_loop" | "image_pull_failed" | "missing_reference" | "volume_not_available" => "pods_not_ready",
        "progress_deadline_exceeded" => "pods_not_ready",
        _ => "some_resources_are_not_ready",
    }
}

fn reason_of(word: &str) -> &'static str {
    crds::conditions::READY_REASONS.iter().find(|known| **known == word).unwrap_or(&"some_resources_are_not_ready")
}

fn rolling_update(facts: &Facts, before: Option<&RollingUpdateStatus>, now: &Time) -> Option<RollingUpdateStatus> {
    let phase = |before: &RollingUpdateStatus| before.phase.clone().unwrap_or_default();
    let was = before.map(phase).unwrap_or_default();
    let start = || before.filter(|_| was == "InProgress").and_then(|before| before.start_time.clone());
    let make = |phase: &str, end_time, updated| {
        Some(RollingUpdateStatus {
            phase: Some(phase.to_owned()),
            start_time: start().or_else(|| Some(now.clone())),
            end_time,
            updated_components: updated,
        })
    };
    match &facts.update {
        Update::Rolling(done) => make("InProgress", None, Some(done.clone())),
        Update::RolledBack(_) if was == "Failed" => before.cloned(),
        Update::RolledBack(_) => make("Failed", Some(now.clone()), None),
        Update::None if was == "InProgress" => {
            let names = facts.components.iter().map(|component| component.name.clone()).collect();
            make("Completed", Some(now.clone()), Some(names))
        }
        Update::None => before.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, reason: &str) -> Component {
        Component {
            name: name.to_owned(),
            is_ready: reason == READY_REASON,
            is_available: true,
            reason: reason.to_owned(),
            message: format!("{reason} it is"),
            replicas: ReplicaStatus::default(),
        }
    }

    fn now() -> Time {
        Time("2026-01-01T00:00:00Z".parse().unwrap())
    }

    fn check(reasons: &[&str], update: Update, state: &str, ready: &str, reason: &str) -> String {
        let components = reasons.iter().enumerate().map(|(i, reason)| component(&format!("c{i}"), reason)).collect();
        let status = status(Facts { components, update, restart: None }, None, Some(1), &now());
        let conditions = status.conditions.unwrap();
        let found = conditions.iter().find(|c| c.type_ == READY).unwrap();
        assert_eq!(
            (status.state.as_deref(), found.status.as_str(), found.reason.as_str()),
            (Some(state), ready, reason)
        );
        found.message.clone()
    }

    #[test]
    fn the_table_of_a_graphs_status() {
        let (ok, none) = (READY_REASON, Update::None);
        check(&[ok, ok], none.clone(), "successful", "True", "all_resources_are_ready");
        check(&[ok, "insufficient_capacity"], none.clone(), "pending", "False", "insufficient_capacity");
        check(&[ok, "crash_loop"], none.clone(), "pending", "False", "pods_not_ready");
        check(&["insufficient_capacity", "crash_loop"], none.clone(), "pending", "False", "mixed_not_ready_reasons");
        check(&["quota_exceeded"], none.clone(), "pending", "False", "some_resources_are_not_ready");
        check(&["updating"], none.clone(), "pending", "False", "updating");
        let message = check(&[FAILED_REASON, ok], none, "failed", "False", "failed_to_reconcile_the_resources");
        assert!(message.starts_with("c0: "), "{message}");
        check(&[ok], Update::Rolling(vec![]), "pending", "False", "updating");
        let message = check(&[ok], Update::RolledBack("w: crash".into()), "failed", "False", "rolled_back");
        assert!(message.contains("rolled back: w: crash"), "{message}");
    }

    #[test]
    fn an_update_has_a_start_an_end_and_an_outcome() {
        let later = Time("2026-01-01T01:00:00Z".parse().unwrap());
        let facts = |update| Facts { components: vec![component("w", READY_REASON)], update, restart: None };
        let one = status(facts(Update::Rolling(vec![])), None, None, &now());
        let two = status(facts(Update::None), Some(&one), None, &later);
        let update = two.rolling_update.clone().unwrap();
        assert_eq!(update.phase.as_deref(), Some("Completed"));
        assert_eq!((update.start_time, update.end_time), (Some(now()), Some(later.clone())));
        let failed = status(facts(Update::RolledBack("x".into())), Some(&one), None, &later).rolling_update.unwrap();
        assert_eq!((failed.phase.as_deref(), failed.start_time), (Some("Failed"), Some(now())));
    }

    #[test]
    fn a_refused_graph_keeps_what_is_known_of_its_pods() {
        let one =
            status(Facts { components: vec![component("w", READY_REASON)], ..Facts::default() }, None, None, &now());
        let findings = [Finding::new("spec.components[0].replicas", "is -1", "give 0 or more")];
        let two = failed(refused(&findings), Some(&one), Some(2), &now());
        assert_eq!((two.state.as_deref(), two.components), (Some("failed"), one.components));
        let ready = two.conditions.unwrap().into_iter().find(|c| c.type_ == READY).unwrap();
        assert!(ready.message.contains("spec.components[0].replicas: is -1; give 0 or more"), "{}", ready.message);
    }
}
