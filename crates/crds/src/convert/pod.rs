//! The pod of a component: ten fields of v1alpha1 are one native pod template in v1beta1.
//!
//! Where v1alpha1 can say a thing twice, `extraPodSpec` wins over the field of the service, as in Dynamo's operator. On the
//! way back the service's own fields are preferred, because that is where tools that read v1alpha1 look.

use super::fields::{Object, copy, insert, is_on, list, object, rename, text};
use crate::MAIN_CONTAINER;
use serde_json::{Value, json};

/// Name of the container that a v1alpha1 `frontendSidecar` becomes.
const FRONTEND_SIDECAR: &str = "sidecar-frontend";
/// Resource that `gpu` means when no `gpuType` is given.
const GPU: &str = "nvidia.com/gpu";
/// Probes that a service may give itself.
const PROBES: &[&str] = &["livenessProbe", "readinessProbe"];

/// Writes `podTemplate` and `frontendSidecar` of a component.
pub(super) fn to_beta(service: &Object, component: &mut Object) {
    let mut template = Object::new();
    insert(&mut template, "metadata", metadata_to_beta(service));
    let sidecar = object(service, "frontendSidecar").filter(|sidecar| text(sidecar, "image").is_some());
    let sidecar = sidecar.map(sidecar_container);
    insert(&mut template, "spec", pod_spec(service, sidecar.as_ref()));
    if sidecar.is_some() {
        component.insert("frontendSidecar".to_owned(), json!(FRONTEND_SIDECAR));
    }
    if !template.is_empty() {
        component.insert("podTemplate".to_owned(), Value::Object(template));
    }
}

/// Writes the ten fields of a service.
pub(super) fn to_alpha(component: &Object, service: &mut Object) {
    let Some(template) = object(component, "podTemplate") else { return };
    if let Some(metadata) = object(template, "metadata") {
        let mut kept = Object::new();
        copy(metadata, &mut kept, &["annotations", "labels"]);
        if !kept.is_empty() {
            service.insert("extraPodMetadata".to_owned(), Value::Object(kept));
        }
    }
    let Some(spec) = object(template, "spec") else { return };
    let mut extra = spec.clone();
    extra.shift_remove("containers");
    let mut containers = list(spec, "containers").cloned().unwrap_or_default();
    if let Some(main) = take_container(&mut containers, MAIN_CONTAINER) {
        extra.insert("mainContainer".to_owned(), Value::Object(main_to_alpha(main, service)));
        containers.retain(|container| container_name(container) != Some(MAIN_CONTAINER));
    }
    let sidecar = text(component, "frontendSidecar").filter(|name| *name != MAIN_CONTAINER);
    // v1alpha1 wants the sidecar's image; a container without one stays a container.
    let sidecar = sidecar.filter(|name| {
        let named = containers.iter().find(|container| container_name(container) == Some(name));
        named.and_then(Value::as_object).is_some_and(|container| text(container, "image").is_some())
    });
    if let Some(sidecar) = sidecar.and_then(|name| take_container(&mut containers, name)) {
        service.insert("frontendSidecar".to_owned(), sidecar_to_alpha(&sidecar));
        // On the way back the sidecar takes this name.
        containers.retain(|container| container_name(container) != Some(FRONTEND_SIDECAR));
    }
    if !containers.is_empty() {
        extra.insert("containers".to_owned(), Value::Array(containers));
    }
    service.insert("extraPodSpec".to_owned(), Value::Object(extra));
}

/// Annotations and labels onto the pod; those of `extraPodMetadata` win.
fn metadata_to_beta(service: &Object) -> Option<Value> {
    let extra = object(service, "extraPodMetadata");
    let mut out = Object::new();
    for key in ["annotations", "labels"] {
        let (own, extra) = (object(service, key), extra.and_then(|extra| object(extra, key)));
        if own.is_some() || extra.is_some() {
            let mut all = own.cloned().unwrap_or_default();
            all.extend(extra.cloned().unwrap_or_default());
            out.insert(key.to_owned(), Value::Object(all));
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn pod_spec(service: &Object, sidecar: Option<&Object>) -> Option<Value> {
    let extra = object(service, "extraPodSpec");
    let mut spec = extra.cloned().unwrap_or_default();
    spec.shift_remove("mainContainer");
    let others = match spec.shift_remove("containers") {
        Some(Value::Array(others)) => others,
        _ => Vec::new(),
    };
    let mut containers: Vec<Value> = main_to_beta(service).map(Value::Object).into_iter().collect();
    let is_taken = |name: &str| name == MAIN_CONTAINER || (sidecar.is_some() && name == FRONTEND_SIDECAR);
    containers.extend(others.into_iter().filter(|other| !container_name(other).is_some_and(is_taken)));
    containers.extend(sidecar.cloned().map(Value::Object));
    if !containers.is_empty() || extra.is_some() {
        // A native pod always has the list.
        spec.insert("containers".to_owned(), Value::Array(containers));
    }
    let volumes = volumes(service, &spec);
    if !volumes.is_empty() {
        spec.insert("volumes".to_owned(), Value::Array(volumes));
    }
    (extra.is_some() || !spec.is_empty()).then_some(Value::Object(spec))
}

/// The container of the component, when anything is said of it.
fn main_to_beta(service: &Object) -> Option<Object> {
    let given = object(service, "extraPodSpec").and_then(|extra| object(extra, "mainContainer"));
    let mut main = given.cloned().unwrap_or_default();
    main.shift_remove("name");
    insert(&mut main, "env", merged_env(list(service, "envs"), given.and_then(|given| list(given, "env"))));
    if let Some(secret) = text(service, "envFromSecret") {
        prepend(&mut main, "envFrom", vec![secret_source(secret)]);
    }
    let own = object(service, "resources").map(resources_to_beta);
    if let Some(mut resources) = own {
        overlay(&mut resources, given.and_then(|given| object(given, "resources")));
        main.insert("resources".to_owned(), Value::Object(resources));
    }
    let mounts: Vec<Value> = plain_mounts(service)
        .map(|mount| json!({ "name": mount.get("name"), "mountPath": mount.get("mountPoint") }))
        .collect();
    prepend(&mut main, "volumeMounts", mounts);
    for probe in PROBES.iter().filter(|probe| !given.is_some_and(|given| given.contains_key(**probe))) {
        rename(service, probe, &mut main, probe);
    }
    if given.is_none() && main.is_empty() {
        return None;
    }
    main.insert("name".to_owned(), json!(MAIN_CONTAINER));
    Some(main)
}

/// Moves what a service says itself out of the container; the rest stays.
fn main_to_alpha(mut main: Object, service: &mut Object) -> Object {
    main.shift_remove("name");
    insert(service, "envs", main.shift_remove("env"));
    if let Some(Value::Array(mut sources)) = main.shift_remove("envFrom") {
        if let Some(secret) = sources.first().and_then(plain_secret).map(str::to_owned) {
            service.insert("envFromSecret".to_owned(), json!(secret));
            sources.remove(0);
            if !sources.is_empty() {
                main.insert("envFrom".to_owned(), Value::Array(sources));
            }
        } else {
            main.insert("envFrom".to_owned(), Value::Array(sources));
        }
    }
    if let Some(Value::Object(resources)) = main.shift_remove("resources") {
        service.insert("resources".to_owned(), resources_to_alpha(&resources));
    }
    for probe in PROBES {
        insert(service, probe, main.shift_remove(*probe));
    }
    main
}

fn container_name(container: &Value) -> Option<&str> {
    container.get("name").and_then(Value::as_str)
}

fn take_container(containers: &mut Vec<Value>, name: &str) -> Option<Object> {
    let position = containers.iter().position(|container| container_name(container) == Some(name))?;
    match containers.remove(position) {
        Value::Object(container) => Some(container),
        _ => None,
    }
}

/// The graph's variables of a service, then those of the container; of one name the container's alone.
fn merged_env(own: Option<&Vec<Value>>, container: Option<&Vec<Value>>) -> Option<Value> {
    let (own, container) = match (own, container) {
        (None, container) => return container.cloned().map(Value::Array),
        (Some(own), container) => (own, container.cloned().unwrap_or_default()),
    };
    let is_overridden = |var: &Value| container.iter().any(|other| container_name(other) == container_name(var));
    let mut all: Vec<Value> = own.iter().filter(|var| !is_overridden(var)).cloned().collect();
    all.extend(container);
    Some(Value::Array(all))
}

/// Puts `first` before the list at `key`; nothing before nothing makes no list.
fn prepend(container: &mut Object, key: &str, mut first: Vec<Value>) {
    if first.is_empty() {
        return;
    }
    if let Some(Value::Array(rest)) = container.shift_remove(key) {
        first.extend(rest);
    }
    container.insert(key.to_owned(), Value::Array(first));
}

fn secret_source(name: &str) -> Value {
    json!({ "secretRef": { "name": name } })
}

/// The Secret's name when the source is all keys of one Secret and nothing else is said.
fn plain_secret(source: &Value) -> Option<&str> {
    let name = source.pointer("/secretRef/name")?.as_str().filter(|name| !name.is_empty())?;
    (*source == secret_source(name)).then_some(name)
}

/// Mounts that are no compilation cache of v1beta1: all but the first cache, and only where a place is given.
fn plain_mounts(service: &Object) -> impl Iterator<Item = &Object> {
    let mounts = list(service, "volumeMounts").into_iter().flatten().filter_map(Value::as_object);
    let mut is_first_cache = true;
    mounts.filter(move |mount| {
        if is_on(mount, "useAsCompilationCache") && std::mem::take(&mut is_first_cache) {
            return false;
        }
        text(mount, "name").is_some() && text(mount, "mountPoint").is_some()
    })
}

/// One volume for each claim that is mounted, then the pod's own; of one name the pod's own alone.
fn volumes(service: &Object, spec: &Object) -> Vec<Value> {
    let own = list(spec, "volumes").cloned().unwrap_or_default();
    let mut all: Vec<Value> = Vec::new();
    for name in plain_mounts(service).filter_map(|mount| text(mount, "name")) {
        if !own.iter().chain(&all).any(|volume| container_name(volume) == Some(name)) {
            all.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
        }
    }
    all.extend(own);
    all
}

fn resources_to_beta(resources: &Object) -> Object {
    let mut out = Object::new();
    for key in ["requests", "limits"] {
        let Some(item) = object(resources, key) else { continue };
        let mut amounts = object(item, "custom").cloned().unwrap_or_default();
        copy(item, &mut amounts, &["cpu", "memory"]);
        rename(item, "gpu", &mut amounts, text(item, "gpuType").unwrap_or(GPU));
        out.insert(key.to_owned(), Value::Object(amounts));
    }
    copy(resources, &mut out, &["claims"]);
    out
}

fn resources_to_alpha(resources: &Object) -> Value {
    let mut out = Object::new();
    for key in ["requests", "limits"] {
        let Some(amounts) = object(resources, key) else { continue };
        let (mut item, mut custom) = (Object::new(), Object::new());
        for (resource, amount) in amounts {
            match resource.as_str() {
                "cpu" | "memory" => item.insert(resource.clone(), amount.clone()),
                GPU => item.insert("gpu".to_owned(), amount.clone()),
                _ => custom.insert(resource.clone(), amount.clone()),
            };
        }
        if !custom.is_empty() {
            item.insert("custom".to_owned(), Value::Object(custom));
        }
        out.insert(key.to_owned(), Value::Object(item));
    }
    copy(resources, &mut out, &["claims"]);
    Value::Object(out)
}

/// The container's amounts over the service's.
fn overlay(resources: &mut Object, over: Option<&Object>) {
    for (key, value) in over.into_iter().flatten() {
        match (resources.get_mut(key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => {
                under.extend(over.iter().map(|(name, amount)| (name.clone(), amount.clone())));
            }
            _ => {
                resources.insert(key.clone(), value.clone());
            }
        }
    }
}

fn sidecar_container(sidecar: &Object) -> Object {
    let mut out = Object::new();
    out.insert("name".to_owned(), json!(FRONTEND_SIDECAR));
    copy(sidecar, &mut out, &["image", "args"]);
    rename(sidecar, "envs", &mut out, "env");
    insert(&mut out, "envFrom", text(sidecar, "envFromSecret").map(|name| json!([secret_source(name)])));
    out
}

fn sidecar_to_alpha(container: &Object) -> Value {
    let mut out = Object::new();
    copy(container, &mut out, &["image", "args"]);
    rename(container, "env", &mut out, "envs");
    let secret = list(container, "envFrom").and_then(|sources| sources.first()).and_then(plain_secret);
    insert(&mut out, "envFromSecret", secret.map(|name| json!(name)));
    Value::Object(out)
}
