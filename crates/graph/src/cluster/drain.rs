//! How long a pod may finish its streams: the pod's grace period and what the process in it is told.
//!
//! A process that stops before its grace period is over cuts streams that had time left; one that stops after it is
//! killed in the middle. So the two follow from each other.

use super::check_pod::{value_of, words};
use super::environment::literal;
use crate::component::ComponentKind;
use k8s_openapi::api::core::v1::{Container, EnvVar};

/// Grace period when nothing says otherwise, as in Dynamo, in seconds.
const GRACE_SECONDS: i64 = 60;
/// The endpoint picker's, as in Dynamo.
const EPP_GRACE_SECONDS: i64 = 130;
/// Between the end of the last stream and the kill: to leave discovery, flush logs and exit.
const MARGIN_SECONDS: i64 = 10;
/// Longest drain that a manifest may ask for: a day. Anything longer is a slip of the finger.
const DRAIN_SECONDS_MAX: f64 = 86_400.0;

/// Variable and flag of a process that say how long its streams may take, in seconds.
fn knob(kind: Option<ComponentKind>) -> Option<(&'static str, &'static str)> {
    match kind? {
        ComponentKind::Frontend => Some(("DYN_HTTP_GRACEFUL_SHUTDOWN_TIMEOUT_SECS", "--graceful-shutdown-secs")),
        ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode => {
            Some(("DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT", "--drain-timeout-secs"))
        }
        ComponentKind::Planner | ComponentKind::Epp => None,
    }
}

/// The grace period of a pod whose template gives none: the default, or longer when its container `main` drains longer.
pub(super) fn grace_seconds(main: Option<&Container>, kind: Option<ComponentKind>) -> i64 {
    let default = if kind == Some(ComponentKind::Epp) { EPP_GRACE_SECONDS } else { GRACE_SECONDS };
    let wanted = main.and_then(|main| drain_of(main, kind)).and_then(|text| text.parse::<f64>().ok());
    let wanted = wanted.filter(|seconds| (0.0..=DRAIN_SECONDS_MAX).contains(seconds));
    wanted.map_or(default, |seconds| default.max(seconds.ceil() as i64 + MARGIN_SECONDS))
}

/// What the process in `container` is told of a pod that has `grace` seconds; nothing when the manifest tells it.
pub(super) fn told(container: &Container, kind: Option<ComponentKind>, grace: i64) -> Option<EnvVar> {
    let (variable, _) = knob(kind)?;
    let is_told = drain_of(container, kind).is_some() || has_variable(container, variable);
    (!is_told).then(|| literal(variable, &(grace - MARGIN_SECONDS).max(1).to_string()))
}

fn has_variable(container: &Container, name: &str) -> bool {
    container.env.iter().flatten().any(|var| var.name == name)
}

/// The drain that the manifest asks for, as written; the variable outranks the flag, as in the process.
fn drain_of(container: &Container, kind: Option<ComponentKind>) -> Option<String> {
    let (variable, flag) = knob(kind)?;
    let given = container.env.iter().flatten().find(|var| var.name == variable);
    let words = words(container);
    given.and_then(|var| var.value.clone()).or_else(|| value_of(&words, &[flag]).map(|(_, text)| text.to_owned()))
}
