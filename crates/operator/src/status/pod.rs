//! Why a pod is not ready, and what to do.

use super::place;
use graph::cluster::registry_host;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Restarts from which a container is in a loop: one may be a race at its start.
const LOOP_RESTARTS: i32 = 3;

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The API server lets no more pods be made.
    Quota,
    /// No node has room.
    InsufficientCapacity,
    /// A volume is missing or out of reach.
    Volume,
    /// A Secret or ConfigMap is missing.
    Reference,
    /// The image cannot be had.
    Image,
    /// The container ends again and again.
    CrashLoop,
    /// The update made no progress for too long.
    Deadline,
    /// It starts, or does not say that it is ready.
    NotReady,
}

impl Cause {
    /// The reason in a component's condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Quota => "quota_exceeded",
            Self::InsufficientCapacity => "insufficient_capacity",
            Self::Volume => "volume_not_available",
            Self::Reference => "missing_reference",
            Self::Image => "image_pull_failed",
            Self::CrashLoop => "crash_loop",
            Self::Deadline => "progress_deadline_exceeded",
            Self::NotReady => "pods_not_ready",
        }
    }

    /// Whether an update to it is to be taken back. The others may pass by themselves within the deadline.
    pub fn is_final(self) -> bool {
        matches!(self, Self::CrashLoop | Self::Deadline)
    }
}

/// Why something is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind.
    pub cause: Cause,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is known beside the pod.
#[derive(Clone, Copy, Default)]
pub struct Around<'a> {
    /// Kubernetes namespace of the pod.
    pub k8s_namespace: &'a str,
    /// Nodes of the cluster, where the operator may see them.
    pub nodes: Option<&'a [Arc<Node>]>,
    /// Secrets of the Kubernetes namespace that log in to registries, by host.
    pub pull_secrets: Option<&'a BTreeMap<String, Vec<String>>>,
    /// Last line that the container that ended had written.
    pub last_log: Option<&'a str>,
}

/// Whether the pod is ready and stays.
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && ready_since(pod).is_some()
}

/// Whether it has been ready for `time_min`.
pub fn is_available(pod: &Pod, time_min: Duration, now: &Time) -> bool {
    let held = |since: &Time| now.0.duration_since(since.0).unsigned_abs() >= time_min && now.0 >= since.0;
    is_ready(pod) && ready_since(pod).is_some_and(held)
}

fn ready_since(pod: &Pod) -> Option<&Time> {
    condition(pod, "Ready").filter(|(status, _, _)| *status == "True").and_then(|(_, _, since)| since)
}

fn condition<'a>(pod: &'a Pod, about: &str) -> Option<(&'a str, &'a str, Option<&'a Time>)> {
    let all = pod.status.as_ref()?.conditions.as_ref()?;
    let found = all.iter().find(|condition| condition.type_ == about)?;
    Some((&found.status, found.message.as_deref().unwrap_or_default(), found.last_transition_time.as_ref()))
}

/// Why the pod is not ready; none when it is, or when it is about to go.
pub fn of_pod(pod: &Pod, around: &Around<'_>) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_some() || is_ready(pod) {
        return None;
    }
    if let Some(("False", message, _)) = condition(pod, "PodScheduled") {
        return Some(place::unscheduled(pod, message, around));
    }
    let status = pod.status.as_ref();
    let containers = status.into_iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let worst = containers.filter_map(|container| of_container(container, around)).min_by_key(|trouble| trouble.cause);
    if worst.is_some() {
        return worst;
    }
    if status.and_then(|status| status.phase.as_deref()) == Some("Failed") {
        let why =
            status.and_then(|status| status.message.as_deref().or(status.reason.as_deref())).unwrap_or("no reason");
        return Some(not_ready(format!("the pod failed: {why}; look at its node, the pod is made anew")));
    }
    let message = condition(pod, "Ready").map_or("", |(_, message, _)| message);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(not_ready(if message.is_empty() {
        format!("pod {name} is starting")
    } else {
        format!("pod {name} runs and is not ready yet: {message}")
    }))
}

fn not_ready(message: String) -> Trouble {
    Trouble { cause: Cause::NotReady, message }
}

fn of_container(container: &ContainerStatus, around: &Around<'_>) -> Option<Trouble> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            Some(image(container, reason, message, around))
        }
        "CreateContainerConfigError" | "CreateContainerError" => Some(reference(container, message, around)),
        "CrashLoopBackOff" => Some(crash(container, around)),
        _ if container.restart_count >= LOOP_RESTARTS && !container.ready && ended(container).is_some() => {
            Some(crash(container, around))
        }
        _ => None,
    }
}

fn image(container: &ContainerStatus, reason: &str, message: &str, around: &Around<'_>) -> Trouble {
    let image = &container.image;
    let host = registry_host(image);
    let secrets = around.pull_secrets.and_then(|by_host| by_host.get(&host));
    let remedy = if reason == "InvalidImageName" {
        "correct the image's name".to_owned()
    } else if let Some(names) = secrets.filter(|names| !names.is_empty()) {
        format!(
            "the name and tag may be wrong, or the login in Secret `{}` does not let in to {host}",
            names.join("`, `")
        )
    } else {
        format!(
            "check the name and tag; if {host} asks for a login, no Secret of Kubernetes namespace {ns} has one: `kubectl \
             create secret docker-registry NAME --docker-server={host} --docker-username=USER --docker-password=PASSWORD \
             -n {ns}`",
            ns = around.k8s_namespace
        )
    };
    let why = if message.is_empty() { reason } else { message };
    Trouble { cause: Cause::Image, message: format!("image {image} cannot be pulled: {why}; {remedy}") }
}

fn reference(container: &ContainerStatus, message: &str, around: &Around<'_>) -> Trouble {
    let quoted = message.split('"').nth(1).unwrap_or("NAME");
    let (kind, command) = if message.to_lowercase().contains("configmap") {
        ("ConfigMap", "configmap")
    } else {
        ("Secret", "secret generic")
    };
    let ns = around.k8s_namespace;
    let remedy = if message.contains("not found") {
        format!("create the {kind}: `kubectl create {command} {quoted} --from-literal=KEY=VALUE -n {ns}`")
    } else {
        format!("correct the container, or the {kind} that it names in Kubernetes namespace {ns}")
    };
    Trouble {
        cause: Cause::Reference,
        message: format!("container {} cannot be made: {message}; {remedy}", container.name),
    }
}

/// Exit code and reason of the last time that the container ended.
fn ended(container: &ContainerStatus) -> Option<(i32, &str)> {
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    last.or(now).map(|end| (end.exit_code, end.reason.as_deref().unwrap_or_default()))
}

fn crash(container: &ContainerStatus, around: &Around<'_>) -> Trouble {
    let (code, reason) = ended(container).unwrap_or((-1, ""));
    let said = around.last_log.map_or_else(String::new, |line| format!("; its last line: {line}"));
    let remedy = match (code, reason) {
        (_, "OOMKilled") => "it used more memory than its limit: raise resources.limits.memory",
        (126 | 127, _) => "its command was not found in the image: correct command and args",
        (137, _) => "it was killed: look for memory limits and failed liveness probes in the pod's events",
        _ => "read its log with `kubectl logs --previous`",
    };
    let reason = if reason.is_empty() || reason == "Error" { String::new() } else { format!(" ({reason})") };
    Trouble {
        cause: Cause::CrashLoop,
        message: format!(
            "container {} ended {} times, the last time with exit code {code}{reason}{said}; {remedy}",
            container.name, container.restart_count
        ),
    }
}
