//! A component: its objects, its pods, its status.

use super::told::{fail, refuse, tell};
use super::{Context, READY_TIME_MIN, ReconcileError, STEADY_AGAIN, WAITING_AGAIN, now, status_of, typed};
use crate::kinds::{self, COMPONENT, DEPLOYMENT, Kind, PROGRESS_DEADLINE};
use crate::status::component::{Facts, Held};
use crate::status::{Around, Cause, Trouble, component as status, is_available, is_ready, of_pod};
use crate::{apply::WriteError, pull_secrets};
use crds::v1beta1::{DeploymentStatus, DynamoComponentDeployment};
use graph::cluster::{Settings, check_component, component_objects, component_warnings, labels};
use graph::model_cache;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DynamicObject, LogParams};
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Pods of one component whose log is read in one reconcile: one tells what all say.
const LOGS_MAX: usize = 1;
/// Bytes of a log that are read for its last line.
const LOG_BYTES_MAX: i64 = 4096;
/// Characters of that line that are shown.
const LOG_LINE_MAX: usize = 300;

/// Makes the component's objects what it says, and its status what is seen.
pub(super) async fn reconcile(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    // What is about to go is left alone; the API server deletes what it owns.
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let before: Option<DeploymentStatus> = status_of(&object);
    let mut component = match typed::<DynamoComponentDeployment>(&object) {
        Ok(component) => component,
        Err(why) => return refuse(&object, &context, why, before.as_ref()).await,
    };
    let findings = check_component(&component);
    if !findings.is_empty() {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let why = format!("the component is refused and nothing was changed: {}", all.join(" | "));
        return refuse(&object, &context, why, before.as_ref()).await;
    }
    for cache in context.cache.model_caches(kinds::k8s_namespace(&object)) {
        model_cache::mount(&mut component, &cache);
    }
    let deployment = match write(&object, &component, &context).await {
        Ok(deployment) => deployment,
        Err(error) => return fail(&object, &context, error, before.as_ref()).await,
    };
    let facts = look(&object, &component, deployment.as_ref(), &context).await;
    let is_waiting = !facts.troubles.is_empty() || facts.available < facts.ready;
    let status = status::status(&facts, before.as_ref(), object.metadata.generation, &now());
    tell(&object, &context, &status, before.as_ref()).await?;
    let again = if facts.available < facts.ready { READY_TIME_MIN } else { WAITING_AGAIN };
    Ok(Action::requeue(if is_waiting { again } else { STEADY_AGAIN }))
}

/// Applies what is rendered and deletes what no longer is. Returns the Deployment as it now is.
async fn write(
    object: &DynamicObject,
    component: &DynamoComponentDeployment,
    context: &Context,
) -> Result<Option<Value>, WriteError> {
    let (k8s_namespace, name) = (kinds::k8s_namespace(object), kinds::name(object));
    let mut kept = BTreeSet::new();
    let mut deployment = None;
    for mut intent in render(object, component, context) {
        let Some(kind) = Kind::of(&intent) else { continue };
        let child_name = intent["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let live = context.cache.child(kind, k8s_namespace, &child_name);
        if kind == DEPLOYMENT && child_name == name {
            keep_logins(&mut intent, live.as_deref());
        }
        let applied = context.writes.apply(intent, live.as_deref()).await?;
        context.events.restored(object, COMPONENT, kind, &child_name, &applied.restored).await;
        if kind == DEPLOYMENT && child_name == name {
            deployment = applied.written.as_ref().or(live.as_deref()).map(kinds::value);
        }
        kept.insert((kind.kind, child_name));
    }
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    for (kind, child) in context.cache.owned_by(uid) {
        let is_ours = kinds::label(&child, labels::MANAGED_BY) == Some(labels::MANAGER);
        if is_ours && !kept.contains(&(kind.kind, kinds::name(&child).to_owned())) {
            context.writes.delete(kind, &child).await?;
        }
    }
    Ok(deployment)
}

fn render(object: &DynamicObject, component: &DynamoComponentDeployment, context: &Context) -> Vec<Value> {
    let is_off = kinds::annotation(object, labels::DISABLE_PULL_SECRETS) == Some("true");
    let secrets = if is_off { Vec::new() } else { context.cache.pull_secrets(kinds::k8s_namespace(object)) };
    let settings = Settings { image_pull_secrets: pull_secrets::by_host(&secrets), ..context.settings.clone() };
    let mut objects = component_objects(component, &settings);
    let deadline = kinds::annotation(object, PROGRESS_DEADLINE).and_then(|text| text.parse::<u32>().ok());
    if let Some(seconds) = deadline {
        for deployment in objects.iter_mut().filter(|object| object["kind"] == DEPLOYMENT.kind) {
            deployment["spec"]["progressDeadlineSeconds"] = json!(seconds);
        }
    }
    objects
}

/// A new Secret in the namespace must not restart pods that run: as long as the images are the same, the logins of a
/// Deployment stay, unless it never had enough to start.
fn keep_logins(intent: &mut Value, live: Option<&DynamicObject>) {
    let Some(live) = live.map(kinds::value) else { return };
    const IMAGES: &str = "/spec/template/spec/containers";
    let images = |object: &Value| -> Vec<Value> {
        let containers = object.pointer(IMAGES).and_then(Value::as_array);
        containers.into_iter().flatten().map(|container| container["image"].clone()).collect()
    };
    let serves = live["status"]["availableReplicas"].as_i64().unwrap_or_default() > 0;
    if !serves || images(&live) != images(intent) {
        return;
    }
    let logins = &live["spec"]["template"]["spec"]["imagePullSecrets"];
    let pod = &mut intent["spec"]["template"]["spec"];
    if logins.is_null() {
        pod.as_object_mut().map(|pod| pod.shift_remove("imagePullSecrets"));
    } else {
        pod["imagePullSecrets"] = logins.clone();
    }
}

async fn look(
    object: &DynamicObject,
    component: &DynamoComponentDeployment,
    deployment: Option<&Value>,
    context: &Context,
) -> Facts {
    let (k8s_namespace, name) = (kinds::k8s_namespace(object), kinds::name(object));
    let all = context.cache.pods_of(k8s_namespace, name);
    let has_ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods: Vec<Arc<Pod>> = all.into_iter().filter(|pod| !has_ended(pod)).collect();
    let now = now();
    let count =
        |is: &dyn Fn(&Pod) -> bool| i64::try_from(pods.iter().filter(|pod| is(pod)).count()).unwrap_or(i64::MAX);
    let spec = &component.spec.component;
    Facts {
        name: name.to_owned(),
        wanted: spec.replicas.unwrap_or(1),
        held: deployment.map(Held::of),
        is_late: deployment.is_some_and(Held::is_late),
        pods: count(&|_| true),
        ready: count(&is_ready),
        available: count(&|pod| is_available(pod, READY_TIME_MIN, &now)),
        troubles: troubles(k8s_namespace, &pods, context).await,
        not_run: spec.multinode.is_some().then(|| {
            let warnings = component_warnings(spec, "spec");
            format!("a component over several nodes is not run; remove multinode. {}", warnings.join(" | "))
        }),
    }
}

async fn troubles(k8s_namespace: &str, pods: &[Arc<Pod>], context: &Context) -> Vec<Trouble> {
    if pods.iter().all(|pod| is_ready(pod)) {
        return Vec::new();
    }
    let nodes = context.cache.nodes();
    let logins = pull_secrets::by_host(&context.cache.pull_secrets(k8s_namespace));
    let around = Around { k8s_namespace, nodes: nodes.as_deref(), pull_secrets: Some(&logins), last_log: None };
    let (mut found, mut logs) = (Vec::new(), 0);
    for pod in pods {
        let Some(mut trouble) = of_pod(pod, &around) else { continue };
        if trouble.cause == Cause::CrashLoop && logs < LOGS_MAX {
            logs += 1;
            let line = last_line(k8s_namespace, pod, context).await;
            trouble = of_pod(pod, &Around { last_log: line.as_deref(), ..around }).unwrap_or(trouble);
        }
        found.push(trouble);
    }
    // The one with the log's line is said, of those with the same cause.
    found.sort_by_key(|trouble| (trouble.cause, !trouble.message.contains("last line")));
    found
}

/// What the container that restarts most wrote last, before it ended.
async fn last_line(k8s_namespace: &str, pod: &Pod, context: &Context) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let container = statuses.iter().max_by_key(|container| container.restart_count)?;
    let pods: Api<Pod> = Api::namespaced(context.writes.client().clone(), k8s_namespace);
    let params = LogParams {
        container: Some(container.name.clone()),
        previous: container.restart_count > 0,
        tail_lines: Some(1),
        limit_bytes: Some(LOG_BYTES_MAX),
        ..LogParams::default()
    };
    let text = pods.logs(pod.metadata.name.as_deref()?, &params).await.ok()?;
    let line = text.lines().last()?.trim();
    let shown: String = line.chars().filter(|c| !c.is_control()).take(LOG_LINE_MAX).collect();
    (!shown.is_empty()).then_some(shown)
}
