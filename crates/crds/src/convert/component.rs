//! A service of v1alpha1 is a component of v1beta1, in a graph or alone as a DynamoComponentDeployment.

use super::fields::{Object, copy, insert, is_on, list, object, parts, rename, text};
use super::pod;
use serde_json::{Value, json};

/// Fields that both versions write the same way.
const SHARED: &[&str] = &[
    "runtimeVersionOverride",
    "globalDynamoNamespace",
    "replicas",
    "minAvailable",
    "multinode",
    "roles",
    "modelRef",
    "eppConfig",
    "dynamoSidecar",
    "topologyConstraint",
    "providerOverride",
];
/// Fields of a checkpoint that v1alpha1 has too.
const CHECKPOINT_SHARED: &[&str] = &["mode", "checkpointRef", "identity"];
/// Fields of a status that both versions write the same way.
const STATUS_SHARED: &[&str] = &["observedGeneration", "conditions"];
/// Fields of a replica status that both versions write the same way.
const REPLICAS_SHARED: &[&str] =
    &["componentKind", "componentNames", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
/// Modes of the GPU memory service, v1alpha1 and v1beta1.
const MODES: &[(&str, &str)] = &[("intraPod", "IntraPod"), ("interPod", "InterPod")];

pub(super) fn to_beta(body: &Value, name: &str) -> Value {
    let spec = |spec: &Object| {
        let mut out = spec_to_beta(spec, text(spec, "serviceName").unwrap_or(name));
        copy(spec, &mut out, &["backendFramework"]);
        out
    };
    let status = |status: &Object| {
        let mut out = Object::new();
        copy(status, &mut out, STATUS_SHARED);
        insert(&mut out, "component", object(status, "service").map(|s| Value::Object(replicas_to_beta(s))));
        out
    };
    parts(body, spec, status)
}

pub(super) fn to_alpha(body: &Value, _name: &str) -> Value {
    let spec = |spec: &Object| {
        let mut out = spec_to_alpha(spec);
        rename(spec, "name", &mut out, "serviceName");
        copy(spec, &mut out, &["backendFramework"]);
        out
    };
    let status = |status: &Object| {
        let mut out = Object::new();
        copy(status, &mut out, STATUS_SHARED);
        insert(&mut out, "service", object(status, "component").map(|s| Value::Object(replicas_to_alpha(s))));
        out
    };
    parts(body, spec, status)
}

/// A service under its name as a component.
pub(super) fn spec_to_beta(service: &Object, name: &str) -> Object {
    let mut out = Object::new();
    out.insert("name".to_owned(), json!(name));
    insert(&mut out, "type", type_to_beta(service).map(|word| json!(word)));
    copy(service, &mut out, SHARED);
    insert(&mut out, "sharedMemorySize", object(service, "sharedMemory").and_then(shared_memory_to_beta));
    insert(&mut out, "compilationCache", compilation_cache(service));
    if object(service, "scalingAdapter").is_some_and(|adapter| is_on(adapter, "enabled")) {
        out.insert("scalingAdapter".to_owned(), json!({}));
    }
    insert(&mut out, "experimental", experimental_to_beta(service));
    pod::to_beta(service, &mut out);
    out
}

/// A component as a service, without its name.
pub(super) fn spec_to_alpha(component: &Object) -> Object {
    let mut out = Object::new();
    match text(component, "type") {
        Some(part @ ("prefill" | "decode")) => {
            out.insert("componentType".to_owned(), json!("worker"));
            out.insert("subComponentType".to_owned(), json!(part));
        }
        _ => rename(component, "type", &mut out, "componentType"),
    }
    copy(component, &mut out, SHARED);
    let size = component.get("sharedMemorySize").filter(|size| !size.is_null());
    insert(&mut out, "sharedMemory", size.map(shared_memory_to_alpha));
    insert(&mut out, "volumeMounts", object(component, "compilationCache").map(cache_mount));
    if object(component, "scalingAdapter").is_some() {
        out.insert("scalingAdapter".to_owned(), json!({ "enabled": true }));
    }
    if let Some(features) = object(component, "experimental") {
        experimental_to_alpha(features, &mut out);
    }
    pod::to_alpha(component, &mut out);
    out
}

/// v1beta1 has one closed set of types; other words of v1alpha1 (`main`, `default`) mean none.
fn type_to_beta(service: &Object) -> Option<&str> {
    let word = text(service, "componentType")?;
    match text(service, "subComponentType") {
        Some(part @ ("prefill" | "decode")) if word == "worker" => Some(part),
        _ => crate::COMPONENT_TYPES.contains(&word).then_some(word),
    }
}

fn shared_memory_to_beta(memory: &Object) -> Option<Value> {
    let size = memory.get("size").filter(|size| !size.is_null());
    if is_on(memory, "disabled") || size.is_some_and(is_none) {
        return Some(json!("0"));
    }
    size.cloned()
}

fn shared_memory_to_alpha(size: &Value) -> Value {
    if is_none(size) { json!({ "disabled": true }) } else { json!({ "size": size }) }
}

/// No shared memory at all, as a text or a number.
fn is_none(size: &Value) -> bool {
    size == "0" || *size == 0
}

/// The first mount that is the compilation cache; v1beta1 has one.
fn compilation_cache(service: &Object) -> Option<Value> {
    let mounts = list(service, "volumeMounts")?.iter().filter_map(Value::as_object);
    let cache = mounts.into_iter().find(|mount| is_on(mount, "useAsCompilationCache"))?;
    let mut out = Object::new();
    rename(cache, "name", &mut out, "pvcName");
    rename(cache, "mountPoint", &mut out, "mountPath");
    Some(Value::Object(out))
}

fn cache_mount(cache: &Object) -> Value {
    let mut mount = Object::new();
    rename(cache, "pvcName", &mut mount, "name");
    rename(cache, "mountPath", &mut mount, "mountPoint");
    mount.insert("useAsCompilationCache".to_owned(), json!(true));
    json!([mount])
}

fn experimental_to_beta(service: &Object) -> Option<Value> {
    let mut out = Object::new();
    for (key, others) in [("gpuMemoryService", "deviceClassName"), ("failover", "numShadows")] {
        let Some(feature) = object(service, key).filter(|feature| is_on(feature, "enabled")) else { continue };
        let mut kept = Object::new();
        copy(feature, &mut kept, &[others]);
        insert(&mut kept, "mode", mode(feature, |(alpha, beta)| (alpha, beta)));
        out.insert(key.to_owned(), Value::Object(kept));
    }
    if let Some(checkpoint) = object(service, "checkpoint") {
        let mut kept = Object::new();
        kept.insert("enabled".to_owned(), json!(is_on(checkpoint, "enabled")));
        copy(checkpoint, &mut kept, CHECKPOINT_SHARED);
        out.insert("checkpoint".to_owned(), Value::Object(kept));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn experimental_to_alpha(features: &Object, out: &mut Object) {
    for (key, others) in [("gpuMemoryService", "deviceClassName"), ("failover", "numShadows")] {
        let Some(feature) = object(features, key) else { continue };
        let mut kept = Object::new();
        kept.insert("enabled".to_owned(), json!(true));
        copy(feature, &mut kept, &[others]);
        insert(&mut kept, "mode", mode(feature, |(alpha, beta)| (beta, alpha)));
        out.insert(key.to_owned(), Value::Object(kept));
    }
    if let Some(checkpoint) = object(features, "checkpoint") {
        let mut kept = Object::new();
        kept.insert("enabled".to_owned(), json!(is_on(checkpoint, "enabled")));
        copy(checkpoint, &mut kept, CHECKPOINT_SHARED);
        out.insert("checkpoint".to_owned(), Value::Object(kept));
    }
}

type ModePair = (&'static str, &'static str);

fn mode(feature: &Object, direction: impl Fn(ModePair) -> ModePair) -> Option<Value> {
    let word = text(feature, "mode")?;
    let (_, new) = MODES.iter().map(|pair| direction(*pair)).find(|(old, _)| *old == word)?;
    Some(json!(new))
}

/// v1alpha1 also names the last object alone.
pub(super) fn replicas_to_beta(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, REPLICAS_SHARED);
    if list(status, "componentNames").is_none_or(Vec::is_empty)
        && let Some(name) = text(status, "componentName")
    {
        out.insert("componentNames".to_owned(), json!([name]));
    }
    out
}

pub(super) fn replicas_to_alpha(status: &Object) -> Object {
    let mut out = Object::new();
    copy(status, &mut out, REPLICAS_SHARED);
    insert(&mut out, "componentName", list(status, "componentNames").and_then(|names| names.last().cloned()));
    out
}
