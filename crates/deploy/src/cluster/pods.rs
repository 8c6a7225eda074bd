//! Why pods are not ready, in the cluster's own words.

use super::ClusterError;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

/// Reasons that are told at once: enough to act on, few enough to read.
const REASONS_MAX: usize = 6;
/// Letters of one reason.
const REASON_CHARS_MAX: usize = 300;
/// Events of one pod that are read.
const EVENTS_MAX: u32 = 20;

/// A sentence for each pod behind `selector` that is not ready, the first [`REASONS_MAX`].
///
/// # Errors
/// [`ClusterError::Api`] when the pods cannot be listed.
pub async fn not_ready(client: &Client, k8s_namespace: &str, selector: &str) -> Result<Vec<String>, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), k8s_namespace);
    let found = pods.list(&ListParams::default().labels(selector)).await;
    let found = found.map_err(ClusterError::api(format!("list the pods of {k8s_namespace}")))?;
    let mut reasons = Vec::new();
    for pod in found.items.iter().filter(|pod| !is_ready(pod)) {
        if reasons.len() == REASONS_MAX {
            reasons.push("…".to_owned());
            break;
        }
        let said = match reason(pod) {
            Some(reason) => reason,
            None => last_warning(client, k8s_namespace, &pod.name_any()).await.unwrap_or_else(|| "starting".to_owned()),
        };
        let said: String =
            said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(REASON_CHARS_MAX).collect();
        reasons.push(format!("pod {k8s_namespace}/{}: {said}", pod.name_any()));
    }
    Ok(reasons)
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let done = status.and_then(|status| status.phase.as_deref()) == Some("Succeeded");
    done || conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What the pod itself says: not scheduled and why, a container that waits or ended.
fn reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if let Some(unscheduled) = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False") {
        let message = unscheduled.message.clone().unwrap_or_default();
        return Some(format!("not scheduled: {message}"));
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let main = status.container_statuses.as_deref().unwrap_or_default();
    init.iter().chain(main).find_map(container)
}

fn container(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        let ended = last.map_or(String::new(), |last| {
            let said = last.message.as_deref().unwrap_or_default().trim();
            format!(", ended with code {} {said}", last.exit_code)
        });
        return Some(format!("container {}: {reason} {message}{ended}", status.name));
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let said = ended.message.as_deref().or(ended.reason.as_deref()).unwrap_or_default();
    Some(format!("container {} ended with code {}: {said}", status.name, ended.exit_code))
}

/// The newest warning about a pod; best effort, since it only explains.
async fn last_warning(client: &Client, k8s_namespace: &str, pod: &str) -> Option<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), k8s_namespace);
    let fields = format!("involvedObject.name={pod},type=Warning");
    let found = events.list(&ListParams::default().fields(&fields).limit(EVENTS_MAX)).await.ok()?;
    let newest = found.items.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
    Some(format!("{}: {}", newest.reason.unwrap_or_default(), newest.message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(status: &serde_json::Value, expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap();
        assert_eq!(reason(&pod).as_deref(), expected);
    }

    #[test]
    fn a_pod_says_why_it_is_not_scheduled_not_pulled_or_crashes() {
        check(
            &json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu"}]}),
            Some("not scheduled: 0/3 nodes: 3 Insufficient nvidia.com/gpu"),
        );
        let container = |state: serde_json::Value, last: serde_json::Value| json!({"containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last}]});
        check(
            &container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}), json!({})),
            Some("container main: ImagePullBackOff not found"),
        );
        check(
            &container(
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
                json!({"terminated": {"exitCode": 2, "message": "error: no model"}}),
            ),
            Some("container main: CrashLoopBackOff back-off, ended with code 2 error: no model"),
        );
        check(&container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({})), None);
        check(&container(json!({"running": {}}), json!({})), None);
    }
}
