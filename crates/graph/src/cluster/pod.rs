//! The pod of a component: the user's template with what the operator adds.

use super::components::merged_env;
use super::container::equip;
use super::environment::{Place, in_order, injected, literal};
use super::names::service_account_name;
use super::{DiscoveryBackend, Settings, drain, labels, registry_host};
use crate::component::ComponentKind;
use crds::v1beta1::{ComponentSpec, DynamoComponentDeployment};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext,
    PodSpec, PodTemplateSpec, SeccompProfile, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeMap;

/// Group of mounted volumes; Dynamo's images and ours run as user and group 1000.
const FS_GROUP: i64 = 1000;
/// Name of the volume at [`SHARED_MEMORY_PATH`].
const SHARED_MEMORY: &str = "shared-memory";
/// Engines exchange tensors between their processes here.
const SHARED_MEMORY_PATH: &str = "/dev/shm";
/// Size of it when the component says none.
const SHARED_MEMORY_SIZE: &str = "8Gi";
/// Name of the volume of the compilation cache.
const COMPILATION_CACHE: &str = "compilation-cache";
/// Where vLLM keeps what it compiled.
pub(super) const VLLM_CACHE_PATH: &str = "/root/.cache/vllm";

/// Labels of a component's objects.
pub(super) struct Labels {
    /// Those of the DynamoComponentDeployment.
    pub(super) given: BTreeMap<String, String>,
    /// Those that tell it apart. Selectors stand on them, so they win over the user's.
    pub(super) own: BTreeMap<String, String>,
}

impl Labels {
    /// For objects other than pods.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let mut all = self.given.clone();
        all.extend(self.own.clone());
        all
    }
}

/// The pod template of a component.
pub(super) fn template(
    component: &DynamoComponentDeployment,
    place: &Place<'_>,
    told_by: &Labels,
    settings: &Settings,
) -> PodTemplateSpec {
    let given = component.spec.component.pod_template.clone().unwrap_or_default();
    let metadata = pod_metadata(component, given.metadata.unwrap_or_default(), told_by);
    let is_discovered = annotation(component, labels::DISABLE_PULL_SECRETS) != Some("true");
    let mut pod = given.spec.unwrap_or_default();
    let spec = &component.spec.component;
    add_shared_memory(&mut pod, spec);
    add_compilation_cache(&mut pod, component);
    let grace = drain::grace_seconds(main_of(&pod), place.kind);
    let grace = *pod.termination_grace_period_seconds.get_or_insert(grace);
    equip_containers(&mut pod, spec, place, &Told { settings, grace });
    map_images(&mut pod, settings);
    if is_discovered {
        add_pull_secrets(&mut pod, settings);
    }
    pod.restart_policy.get_or_insert_with(|| "Always".to_owned());
    if place.discovery == DiscoveryBackend::Kubernetes && pod.service_account_name.is_none() {
        pod.service_account_name = Some(service_account_name(place.graph));
    }
    if pod.security_context.is_none() {
        pod.security_context = Some(default_security(&pod));
    }
    PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) }
}

/// An annotation of the user: the pod template's own, else the component's.
pub(super) fn annotation<'a>(component: &'a DynamoComponentDeployment, key: &str) -> Option<&'a str> {
    let template = component.spec.component.pod_template.as_ref().and_then(|template| template.metadata.as_ref());
    let own = template.and_then(|metadata| metadata.annotations.as_ref()).and_then(|all| all.get(key));
    own.or_else(|| component.metadata.annotations.as_ref()?.get(key)).map(String::as_str)
}

fn pod_metadata(component: &DynamoComponentDeployment, given: ObjectMeta, told_by: &Labels) -> ObjectMeta {
    let mut all = told_by.given.clone();
    all.extend(given.labels.unwrap_or_default());
    all.extend(told_by.own.clone());
    if annotation(component, labels::ENABLE_METRICS) != Some("false") {
        all.insert(labels::METRICS_ENABLED.to_owned(), "true".to_owned());
    }
    let mut annotations = given.annotations.unwrap_or_default();
    // A new text here is a new pod template, and so a rolling restart.
    if let Some(at) = component.metadata.annotations.as_ref().and_then(|all| all.get(labels::RESTART_AT)) {
        annotations.insert(labels::RESTART_AT.to_owned(), at.clone());
    }
    if let Some(model) = &component.spec.component.model_ref {
        annotations.insert(labels::BASE_MODEL.to_owned(), model.name.clone());
    }
    ObjectMeta {
        labels: Some(all),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    }
}

/// What processes are told beyond their place.
struct Told<'a> {
    settings: &'a Settings,
    /// The pod's grace period, in seconds.
    grace: i64,
}

/// The container that runs Dynamo gets what its kind needs, a sidecar that is a frontend what a frontend needs.
fn equip_containers(pod: &mut PodSpec, spec: &ComponentSpec, place: &Place<'_>, told: &Told<'_>) {
    let runtime = spec.dynamo_sidecar.as_deref().unwrap_or(crds::MAIN_CONTAINER);
    let init = pod.init_containers.iter_mut().flatten();
    for container in init.chain(&mut pod.containers) {
        let kind = if container.name == runtime {
            place.kind
        } else if spec.frontend_sidecar.as_deref() == Some(container.name.as_str()) {
            Some(ComponentKind::Frontend)
        } else {
            continue;
        };
        equip(container, kind);
        let mut under = injected(place, kind, &container.name, told.settings);
        under.extend(drain::told(container, kind, told.grace));
        container.env = Some(in_order(merged_env(&under, container.env.as_deref().unwrap_or_default())));
    }
}

fn map_images(pod: &mut PodSpec, settings: &Settings) {
    for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
        container.image = container.image.take().map(|image| settings.mapped_image(&image));
    }
}

/// The secrets of the registries that the pod's images come from, behind those of the user.
fn add_pull_secrets(pod: &mut PodSpec, settings: &Settings) {
    let mut secrets = pod.image_pull_secrets.take().unwrap_or_default();
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    for image in containers.filter_map(|container| container.image.as_deref()) {
        for name in settings.image_pull_secrets.get(&registry_host(image)).into_iter().flatten() {
            if !secrets.iter().any(|secret| secret.name == *name) {
                secrets.push(LocalObjectReference { name: name.clone() });
            }
        }
    }
    pod.image_pull_secrets = (!secrets.is_empty()).then_some(secrets);
}

/// Dynamo's default, and the one thing more that the `restricted` profile asks of a pod and no image can miss. A
/// template that says anything about security is left as it is.
fn default_security(pod: &PodSpec) -> PodSecurityContext {
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let is_silent = containers.into_iter().all(|container| container.security_context.is_none());
    let seccomp = SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None };
    PodSecurityContext {
        fs_group: Some(FS_GROUP),
        seccomp_profile: is_silent.then_some(seccomp),
        ..PodSecurityContext::default()
    }
}

/// Size of the shared memory as text; none when the component wants none.
pub(super) fn shared_memory_size(spec: &ComponentSpec) -> Option<String> {
    match &spec.shared_memory_size {
        None => Some(SHARED_MEMORY_SIZE.to_owned()),
        Some(Value::String(size)) if super::Quantity::parse(size).is_some_and(|size| size.sign().is_eq()) => None,
        Some(Value::String(size)) => Some(size.clone()),
        Some(Value::Number(size)) if size.as_f64() == Some(0.0) => None,
        Some(size) => Some(size.to_string()),
    }
}

fn add_shared_memory(pod: &mut PodSpec, spec: &ComponentSpec) {
    let Some(size) = shared_memory_size(spec) else { return };
    let mounted_by_user = main_of(pod).is_some_and(|main| mounts_at(main, SHARED_MEMORY_PATH));
    if mounted_by_user || has_volume(pod, SHARED_MEMORY) {
        return;
    }
    let memory = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(Quantity(size)) };
    add_volume(pod, Volume { name: SHARED_MEMORY.to_owned(), empty_dir: Some(memory), ..Volume::default() });
    add_mount(pod, SHARED_MEMORY, SHARED_MEMORY_PATH);
}

/// Mounts the claim, and tells vLLM to use it where the path is not its own.
fn add_compilation_cache(pod: &mut PodSpec, component: &DynamoComponentDeployment) {
    let Some(cache) = &component.spec.component.compilation_cache else { return };
    let is_vllm = component.spec.backend_framework.as_deref() == Some("vllm");
    let path = cache.mount_path.as_deref().unwrap_or(VLLM_CACHE_PATH);
    if main_of(pod).is_some_and(|main| mounts_at(main, path)) {
        return;
    }
    // A template may have the claim already, under its own name.
    let claim = |volume: &Volume| volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    let own = pod.volumes.iter().flatten().find(|volume| claim(volume).as_ref() == Some(&cache.pvc_name));
    let name = own.map_or_else(|| COMPILATION_CACHE.to_owned(), |volume| volume.name.clone());
    if !has_volume(pod, &name) {
        let source = PersistentVolumeClaimVolumeSource { claim_name: cache.pvc_name.clone(), read_only: None };
        add_volume(pod, Volume { name: name.clone(), persistent_volume_claim: Some(source), ..Volume::default() });
    }
    add_mount(pod, &name, path);
    if let Some(main) = main_mut(pod).filter(|_| is_vllm) {
        let own = main.env.take().unwrap_or_default();
        main.env = Some(merged_env(&[literal("VLLM_CACHE_ROOT", path)], &own));
    }
}

fn main_of(pod: &PodSpec) -> Option<&Container> {
    pod.containers.iter().find(|container| container.name == crds::MAIN_CONTAINER)
}

fn main_mut(pod: &mut PodSpec) -> Option<&mut Container> {
    pod.containers.iter_mut().find(|container| container.name == crds::MAIN_CONTAINER)
}

fn mounts_at(container: &Container, path: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == path)
}

fn has_volume(pod: &PodSpec, name: &str) -> bool {
    pod.volumes.iter().flatten().any(|volume| volume.name == name)
}

fn add_volume(pod: &mut PodSpec, volume: Volume) {
    pod.volumes.get_or_insert_default().push(volume);
}

fn add_mount(pod: &mut PodSpec, name: &str, path: &str) {
    if let Some(main) = main_mut(pod) {
        let mount = VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() };
        main.volume_mounts.get_or_insert_default().push(mount);
    }
}
