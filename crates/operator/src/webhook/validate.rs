//! `/validate`: what is wrong with an object, with every path and remedy, while it can still be refused.
//!
//! The rules are `graph::cluster`'s, the same that the operator reports in a status when the webhook was not there.
//! A change is refused for what it brings: a fault that the object had before is a warning, so that an object that came
//! in by another way can still be repaired step by step, and can always be deleted.

mod kinds;

use super::review::{Answer, Request};
use crds::convert::{Version, convert};
use crds::v1beta1::{DynamoComponentDeployment, DynamoGraphDeployment};
use graph::Finding;
use graph::cluster::{
    Caller, check_component, check_component_update, check_update, component_warnings, read, warnings,
};
use serde_json::Value;

/// Findings in one message: more would not be read, and a status has a bound.
const FINDINGS_SHOWN_MAX: usize = 20;
/// Warnings of one answer; the API server cuts off after 4 KiB of them.
const WARNINGS_MAX: usize = 16;

/// What was found in an object.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    /// Findings that the object had before.
    old: Vec<Finding>,
    warnings: Vec<String>,
}

/// The answer to a review; `operator` is the name of the operator's own identity where it is known. Pure.
pub fn answer(request: &Request, operator: Option<&str>) -> Answer {
    if request.is_going()
        || (request.is_update()
            && request.object.get("spec") == request.old_object.get("spec")
            && request.object.pointer("/metadata/annotations") == request.old_object.pointer("/metadata/annotations"))
    {
        return Answer::default();
    }
    let caller = Caller::from_is_operator(operator.is_some() && operator == request.user_info.username.as_deref());
    let found = match request.kind.kind.as_str() {
        crds::DYNAMO_GRAPH_DEPLOYMENT => graph(request, caller),
        crds::DYNAMO_COMPONENT_DEPLOYMENT => component(request),
        crds::SCALING_ADAPTER => plain(request, kinds::adapter),
        crds::DEPLOYMENT_REQUEST => plain(request, kinds::request),
        "DynamoModel" => plain(request, kinds::model),
        other => Found { findings: vec![kinds::unknown(other)], ..Found::default() },
    };
    verdict(found)
}

fn verdict(found: Found) -> Answer {
    let (old, new): (Vec<_>, Vec<_>) = found.findings.into_iter().partition(|finding| found.old.contains(finding));
    let mut warnings: Vec<String> = old.iter().map(ToString::to_string).collect();
    warnings.extend(found.warnings);
    warnings.truncate(WARNINGS_MAX);
    Answer { refusal: refusal(&new), warnings, patch: Vec::new() }
}

/// All findings as one message, a line each.
fn refusal(findings: &[Finding]) -> Option<String> {
    let lines: Vec<String> = findings.iter().take(FINDINGS_SHOWN_MAX).map(ToString::to_string).collect();
    match findings.len() {
        0 => None,
        1 => lines.into_iter().next(),
        all if all > lines.len() => Some(format!("{all} faults, the first {}:\n{}", lines.len(), lines.join("\n"))),
        all => Some(format!("{all} faults:\n{}", lines.join("\n"))),
    }
}

fn graph(request: &Request, caller: Caller) -> Found {
    let mut found = Found::default();
    match read(&request.object) {
        Ok(graph) => found.warnings = warnings(&graph),
        Err(findings) => found.findings = findings,
    }
    if !request.is_update() {
        return found;
    }
    found.old = read(&request.old_object).err().unwrap_or_default();
    let stored = |object: &Value| as_stored::<DynamoGraphDeployment>(object);
    match (stored(&request.old_object), stored(&request.object)) {
        (Some(old), Some(new)) => found.findings.extend(check_update(&old, &new, caller)),
        // What is not readable is a finding above; what was not readable before cannot be compared.
        _ => tracing::debug!(name = %request.name, "the change of a graph cannot be compared"),
    }
    found
}

fn component(request: &Request) -> Found {
    let mut found = Found::default();
    match typed_component(&request.object) {
        Ok(component) => {
            found.findings = check_component(&component);
            found.warnings = component_warnings(&component.spec.component, "spec");
            if request.is_update()
                && let Ok(old) = typed_component(&request.old_object)
            {
                found.old = check_component(&old);
                found.findings.extend(check_component_update(&old, &component));
            }
        }
        Err(finding) => found.findings.push(finding),
    }
    found
}

fn typed_component(object: &Value) -> Result<DynamoComponentDeployment, Finding> {
    let remedy = "write the field as `kubectl explain dcd.spec` shows it";
    let failed = |problem: String| Finding::new("", problem, remedy);
    let stored = convert(object, Version::V1beta1).map_err(|error| failed(error.to_string()))?;
    serde_json::from_value(stored).map_err(|error| failed(format!("the object cannot be read: {error}")))
}

/// The object in the stored version; none when it cannot be read, which [`read`] reports.
fn as_stored<T: serde::de::DeserializeOwned>(object: &Value) -> Option<T> {
    serde_json::from_value(convert(object, Version::V1beta1).ok()?).ok()
}

/// A kind whose rules look at one object alone.
fn plain(request: &Request, check: fn(&Value) -> Vec<Finding>) -> Found {
    let old = if request.is_update() { check(&request.old_object) } else { Vec::new() };
    Found { findings: check(&request.object), old, warnings: Vec::new() }
}
