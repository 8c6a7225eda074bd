//! Everything that is wrong with a graph, at once.

use super::check_names::{check_name, check_names};
use super::check_pod::check_pod;
use super::check_v1alpha1::check_v1alpha1;
use super::components::framework_of_component;
use super::graph_objects::as_v1alpha1;
use super::names::{NAME_LENGTH_MAX, kind_of, main_container, model_service_name, name_of};
use super::{DiscoveryBackend, Quantity, Settings, labels};
use crate::component::ComponentKind;
use crate::finding::Finding;
use crate::parse::{COMPONENTS_MAX, REPLICAS_MAX};
use crds::v1beta1::{ComponentSpec, DynamoComponentDeployment, DynamoGraphDeployment};
use serde_json::Value;
use std::collections::BTreeMap;

/// Every violation of a stored graph, each with its path and remedy; empty when there is none.
///
/// The rules are those of Dynamo's webhook that concern graphs of plain components, and what Kubernetes would refuse
/// only later, in an object that the operator makes. Pure; needs no schema to have run before.
///
/// Source: Dynamo, deploy/operator, validating webhooks.
pub fn check(graph: &DynamoGraphDeployment) -> Vec<Finding> {
    let mut found = Vec::new();
    check_names(graph, &mut found);
    let components = &graph.spec.components;
    if components.is_empty() {
        found.push(Finding::new(
            "spec.components",
            "the graph has no component",
            "add at least a frontend and a worker",
        ));
    }
    if components.len() > COMPONENTS_MAX {
        let problem = format!("{} components are more than {COMPONENTS_MAX}", components.len());
        found.push(Finding::new("spec.components", problem, "split the graph"));
    }
    check_frameworks(graph, &mut found);
    check_restart(graph, &mut found);
    check_annotations(graph.metadata.annotations.as_ref(), "metadata.annotations", &mut found);
    check_annotations(graph.spec.annotations.as_ref(), "spec.annotations", &mut found);
    if graph.spec.priority_class_name.is_some() {
        found.push(only_grove("spec.priorityClassName", "give priorityClassName in the podTemplate of each component"));
    }
    let epps = components.iter().enumerate().filter(|(_, c)| kind_of(c) == Some(ComponentKind::Epp));
    for (i, _) in epps.skip(1) {
        let path = format!("spec.components[{i}].type");
        found.push(Finding::new(path, "the graph has an epp already", "keep one component of type epp"));
    }
    let framework = graph.spec.backend_framework.as_deref().or_else(|| super::components::framework_of(graph));
    for (i, component) in components.iter().enumerate() {
        check_spec(component, &format!("spec.components[{i}]"), framework, &mut found);
    }
    check_kept(graph, &mut found);
    found
}

/// Every violation of a component that stands alone or was made for a graph.
pub fn check_component(component: &DynamoComponentDeployment) -> Vec<Finding> {
    let mut found = Vec::new();
    let spec = &component.spec.component;
    let name = name_of(&component.metadata);
    let longest = if spec.model_ref.is_some() { model_service_name(name) } else { name.to_owned() };
    if longest.len() > NAME_LENGTH_MAX {
        let problem = format!("the Service would be named `{longest}`, {} characters long", longest.len());
        found.push(Finding::new(
            "metadata.name",
            problem,
            format!("shorten it; at most {NAME_LENGTH_MAX} are allowed"),
        ));
    }
    if !spec.name.is_empty() {
        check_name(spec, "spec", &mut found);
    }
    check_annotations(component.metadata.annotations.as_ref(), "metadata.annotations", &mut found);
    let framework = component.spec.backend_framework.as_deref().or_else(|| framework_of_component(spec));
    check_framework(component.spec.backend_framework.as_deref(), &mut found);
    check_spec(spec, "spec", framework, &mut found);
    found
}

/// What is wrong with a graph for an operator that was told `settings`: a frontend without an image, etcd asked for and
/// not there.
pub fn check_settings(graph: &DynamoGraphDeployment, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for (i, component) in graph.spec.components.iter().enumerate() {
        let image = main_container(component).and_then(|main| main.image.as_deref()).unwrap_or_default();
        if image.is_empty() && settings.frontend_image.is_none() && kind_of(component) == Some(ComponentKind::Frontend)
        {
            found.push(Finding::new(
                format!("spec.components[{i}].podTemplate"),
                "the frontend has no image, and the operator has no default",
                "set the image of its container main",
            ));
        }
    }
    let given = [("metadata.annotations", &graph.metadata.annotations), ("spec.annotations", &graph.spec.annotations)];
    for (path, annotations) in given {
        let wanted = annotations.as_ref().and_then(|all| all.get(labels::DISCOVERY_BACKEND));
        if wanted.map(String::as_str) == Some(DiscoveryBackend::Etcd.word()) && settings.etcd_endpoints.is_empty() {
            found.push(Finding::new(
                format!("{path}[{}]", labels::DISCOVERY_BACKEND),
                "the operator knows no etcd",
                "give the operator --etcd-endpoints, or remove the annotation",
            ));
        }
    }
    found
}

/// What one component says, but for its name.
fn check_spec(component: &ComponentSpec, path: &str, framework: Option<&str>, found: &mut Vec<Finding>) {
    if let Some(word) = component.component_type.as_deref() {
        found.extend(ComponentKind::parse(word, &format!("{path}.type")).err());
    }
    let replicas = component.replicas.unwrap_or(1);
    if !(0..=REPLICAS_MAX).contains(&replicas) {
        let problem = format!("{replicas} is no replica count");
        found.push(Finding::new(format!("{path}.replicas"), problem, format!("use 0 to {REPLICAS_MAX}")));
    }
    if component.min_available.is_some() {
        found.push(only_grove(&format!("{path}.minAvailable"), "remove it"));
    }
    if component.multinode.is_some() {
        let problem = "a replica over several nodes needs LeaderWorkerSet or Grove objects, which Busbar does not make";
        let remedy = "use a node that holds the whole replica and remove multinode";
        found.push(Finding::new(format!("{path}.multinode"), problem, remedy));
    }
    check_epp(component, path, found);
    check_sizes(component, path, framework, found);
    check_experimental(component, path, found);
    check_pod(component, path, found);
    let template = component.pod_template.as_ref().and_then(|template| template.metadata.as_ref());
    let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
    check_annotations(annotations, &format!("{path}.podTemplate.metadata.annotations"), found);
}

fn only_grove(path: &str, remedy: &str) -> Finding {
    Finding::new(path, "works only where Grove schedules the pods, and Busbar makes no Grove objects", remedy)
}

fn check_epp(component: &ComponentSpec, path: &str, found: &mut Vec<Finding>) {
    let is_epp = kind_of(component) == Some(ComponentKind::Epp);
    if let Some(config) = &component.epp_config {
        if !is_epp {
            found.push(Finding::new(format!("{path}.eppConfig"), "is for type epp only", "remove it or set the type"));
        }
        if config.config.is_some() == config.config_map_ref.is_some() {
            let problem = "needs exactly one of configMapRef and config";
            found.push(Finding::new(format!("{path}.eppConfig"), problem, "give one of them"));
        }
    }
    if is_epp && component.replicas.unwrap_or(1) != 1 {
        let path = format!("{path}.replicas");
        found.push(Finding::new(path, "an endpoint picker runs as exactly one replica", "set it to 1"));
    }
}

fn check_sizes(component: &ComponentSpec, path: &str, framework: Option<&str>, found: &mut Vec<Finding>) {
    if let Some(size) = &component.shared_memory_size {
        let text = match size {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if Quantity::parse(&text).is_none_or(|size| size.sign().is_lt()) {
            let path = format!("{path}.sharedMemorySize");
            found.push(Finding::new(path, format!("`{text}` is no size"), "write it as `8Gi`, or `0` for none"));
        }
    }
    if let Some(cache) = &component.compilation_cache {
        if cache.pvc_name.is_empty() {
            let path = format!("{path}.compilationCache.pvcName");
            found.push(Finding::new(path, "names no claim", "give the name of a PersistentVolumeClaim"));
        }
        if cache.mount_path.is_none() && framework != Some("vllm") {
            found.push(Finding::new(
                format!("{path}.compilationCache.mountPath"),
                "has a default for vllm only",
                "say where the engine keeps what it compiles",
            ));
        }
    }
}

fn check_experimental(component: &ComponentSpec, path: &str, found: &mut Vec<Finding>) {
    let Some(features) = &component.experimental else { return };
    let path = format!("{path}.experimental");
    if features.gpu_memory_service.is_some() {
        let has_gpu = main_container(component).is_some_and(|main| super::check_pod::gpus(main).unwrap_or(0) > 0);
        if !super::is_worker(component) || !has_gpu {
            let problem = "is for workers with at least one GPU";
            found.push(Finding::new(
                format!("{path}.gpuMemoryService"),
                problem,
                "remove it, or give the worker a GPU",
            ));
        }
    }
    if let Some(failover) = &features.failover {
        let mode = features.gpu_memory_service.as_ref().map(|service| service.mode.clone());
        if mode != Some(failover.mode.clone()) {
            let problem = "needs a gpuMemoryService of the same mode";
            found.push(Finding::new(format!("{path}.failover"), problem, "add it, or remove failover"));
        }
    }
}

fn check_restart(graph: &DynamoGraphDeployment, found: &mut Vec<Finding>) {
    let Some(restart) = &graph.spec.restart else { return };
    if restart.id.is_empty() {
        found.push(Finding::new("spec.restart.id", "is empty", "give any text; another text asks for another restart"));
    }
    let Some(strategy) = &restart.strategy else { return };
    let word = strategy.strategy_type.as_deref().unwrap_or("Sequential");
    if !matches!(word, "Sequential" | "Parallel") {
        let problem = format!("`{word}` is no strategy");
        found.push(Finding::new("spec.restart.strategy.type", problem, "use Sequential or Parallel"));
    }
    let Some(order) = strategy.order.as_ref().filter(|order| !order.is_empty()) else { return };
    let path = "spec.restart.strategy.order";
    if word == "Parallel" {
        found.push(Finding::new(path, "has no meaning for a Parallel restart", "remove it"));
    }
    let names: Vec<&str> = graph.spec.components.iter().map(|component| component.name.as_str()).collect();
    let remedy = format!("name each of {} once", names.join(", "));
    for (i, name) in order.iter().enumerate() {
        if !names.contains(&name.as_str()) {
            let problem = format!("`{name}` is no component of the graph");
            found.push(Finding::new(format!("{path}[{i}]"), problem, remedy.clone()));
        } else if order[..i].contains(name) {
            found.push(Finding::new(format!("{path}[{i}]"), format!("`{name}` is there already"), remedy.clone()));
        }
    }
    let missing: Vec<&str> = names.into_iter().filter(|name| !order.iter().any(|given| given == name)).collect();
    if !missing.is_empty() {
        found.push(Finding::new(path, format!("leaves out {}", missing.join(", ")), remedy));
    }
}

fn check_framework(word: Option<&str>, found: &mut Vec<Finding>) {
    if let Some(word) = word.filter(|word| !crds::BACKEND_FRAMEWORKS.contains(word)) {
        let problem = format!("`{word}` is no framework");
        let remedy = format!("use one of {}", crds::BACKEND_FRAMEWORKS.join(", "));
        found.push(Finding::new("spec.backendFramework", problem, remedy));
    }
}

/// All workers of a graph run one engine, the one that the graph names.
fn check_frameworks(graph: &DynamoGraphDeployment, found: &mut Vec<Finding>) {
    let said = graph.spec.backend_framework.as_deref();
    check_framework(said, found);
    // A word that is none of the engines has its finding; workers are then compared with each other.
    let mut first = said.filter(|word| crds::BACKEND_FRAMEWORKS.contains(word));
    for (i, component) in graph.spec.components.iter().enumerate().filter(|(_, c)| super::is_worker(c)) {
        let Some(own) = framework_of_component(component) else { continue };
        if *first.get_or_insert(own) != own {
            found.push(Finding::new(
                format!("spec.components[{i}].podTemplate"),
                format!("its command starts {own}, the graph's workers run {}", first.unwrap_or_default()),
                "use one engine in a graph",
            ));
        }
    }
}

/// Values of the annotations that the operator reads.
fn check_annotations(annotations: Option<&BTreeMap<String, String>>, path: &str, found: &mut Vec<Finding>) {
    let Some(annotations) = annotations else { return };
    let words = [
        (labels::EXECUTOR_BACKEND, ["mp", "ray"]),
        (labels::DISCOVERY_BACKEND, ["kubernetes", "etcd"]),
        (labels::KUBE_DISCOVERY_MODE, ["pod", "container"]),
    ];
    for (key, [one, other]) in words {
        if let Some(word) = annotations.get(key).filter(|word| *word != one && *word != other) {
            let problem = format!("`{word}` is not known");
            found.push(Finding::new(format!("{path}[{key}]"), problem, format!("use {one} or {other}")));
        }
    }
    let amounts = [labels::MAX_SURGE, labels::MAX_UNAVAILABLE].map(|key| (key, annotations.get(key)));
    for (key, text) in amounts {
        if let Some(text) = text.filter(|text| amount(text).is_none()) {
            let problem = format!("`{text}` is neither a count nor a percentage");
            found.push(Finding::new(format!("{path}[{key}]"), problem, "write it as `1` or `25%`"));
        }
    }
    if amounts.iter().all(|(_, text)| text.is_some_and(|text| amount(text) == Some(0))) {
        let problem = "surge and unavailability of 0 leave an update no way to go on";
        found.push(Finding::new(format!("{path}[{}]", labels::MAX_SURGE), problem, "raise one of them"));
    }
}

/// A count or a percentage, as its number.
fn amount(text: &str) -> Option<u32> {
    text.strip_suffix('%').unwrap_or(text).parse().ok()
}

/// What the annotation of kept fields holds of v1alpha1.
fn check_kept(graph: &DynamoGraphDeployment, found: &mut Vec<Finding>) {
    let kept = graph.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(crds::convert::REMAINDER));
    if !kept {
        return;
    }
    match as_v1alpha1(graph) {
        Some(alpha) => check_v1alpha1(&alpha, found),
        None => found.push(Finding::new(
            format!("metadata.annotations[{}]", crds::convert::REMAINDER),
            "cannot be read: it was changed by hand",
            "remove it and apply the v1alpha1 manifest again",
        )),
    }
}
