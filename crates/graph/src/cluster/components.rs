//! A graph as its components, each a DynamoComponentDeployment.

use super::labels::{self, PASSED_DOWN};
use super::names::{component_name, dynamo_namespace, graph_child, is_worker, k8s_namespace, kind_of, name_of};
use super::{Settings, worker_hash};
use crate::component::ComponentKind;
use crate::parse::command_line;
use crds::v1beta1::{ComponentSpec, DeploymentSpec, DynamoComponentDeployment, DynamoGraphDeployment};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Module of a worker's command to the framework that it is.
const FRAMEWORK_MODULES: [(&str, &str); 3] =
    [("dynamo.vllm", "vllm"), ("dynamo.sglang", "sglang"), ("dynamo.trtllm", "trtllm")];

/// One DynamoComponentDeployment for each component, in the graph's order.
///
/// Each says all there is to say of its component: the graph's environment, labels and annotations are merged in (the
/// component's own win), the type is filled in where only the command tells it, and so is the image of a frontend that
/// has none. Workers carry the worker hash in name and label. The image map is not applied yet: the stored object keeps
/// the image that the user wrote.
pub fn components(graph: &DynamoGraphDeployment, settings: &Settings) -> Vec<DynamoComponentDeployment> {
    let hash = worker_hash(graph);
    let framework = graph.spec.backend_framework.clone().or_else(|| framework_of(graph).map(str::to_owned));
    let graph_name = name_of(&graph.metadata);
    let render = |component: &ComponentSpec| {
        let is_global = component.global_dynamo_namespace == Some(true);
        let dynamo_namespace = dynamo_namespace(k8s_namespace(&graph.metadata), graph_name, is_global);
        let kind = kind_of(component);
        let mut own = component_labels(&component.name, kind, dynamo_namespace);
        if is_worker(component) {
            own.insert(labels::WORKER_HASH.to_owned(), hash.to_string());
        }
        let name = component_name(graph_name, component, &hash);
        let mut metadata = graph_child(graph, name, own);
        metadata.annotations = annotations(graph);
        DynamoComponentDeployment {
            api_version: crds::convert::Version::V1beta1.api_version(),
            kind: crds::DYNAMO_COMPONENT_DEPLOYMENT.to_owned(),
            metadata,
            spec: DeploymentSpec {
                backend_framework: framework.clone(),
                component: filled_in(component, kind, graph, settings),
            },
            status: None,
        }
    };
    graph.spec.components.iter().map(render).collect()
}

/// Labels that tell a component apart; on its DynamoComponentDeployment and on all below it.
pub(super) fn component_labels(
    name: &str,
    kind: Option<ComponentKind>,
    dynamo_namespace: String,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        (labels::COMPONENT.to_owned(), name.to_owned()),
        (labels::DYNAMO_NAMESPACE.to_owned(), dynamo_namespace),
        (labels::COMPONENT_TYPE.to_owned(), type_word(kind).to_owned()),
    ]);
    if let Some(part @ (ComponentKind::Prefill | ComponentKind::Decode)) = kind {
        all.insert(labels::SUB_COMPONENT_TYPE.to_owned(), part.word().to_owned());
    }
    if matches!(kind, Some(ComponentKind::Worker | ComponentKind::Prefill | ComponentKind::Decode)) {
        all.insert(labels::COMPONENT_CLASS.to_owned(), ComponentKind::Worker.word().to_owned());
    }
    all
}

/// The word of a kind; Dynamo says `default` where there is none.
pub(super) fn type_word(kind: Option<ComponentKind>) -> &'static str {
    kind.map_or("default", ComponentKind::word)
}

/// The engine that the workers' commands start; none when none does.
pub(super) fn framework_of(graph: &DynamoGraphDeployment) -> Option<&'static str> {
    graph.spec.components.iter().filter(|component| is_worker(component)).find_map(framework_of_component)
}

/// The engine that a component's command starts.
pub(super) fn framework_of_component(component: &ComponentSpec) -> Option<&'static str> {
    let line = command_line(super::names::main_container(component)?);
    let starts = |module: &str| line.iter().any(|word| word.split_whitespace().any(|part| part == module));
    FRAMEWORK_MODULES.iter().find(|(module, _)| starts(module)).map(|(_, framework)| *framework)
}

/// Annotations that go down: those of the graph's metadata that speak of components, then `spec.annotations`.
fn annotations(graph: &DynamoGraphDeployment) -> Option<BTreeMap<String, String>> {
    let given = graph.metadata.annotations.iter().flatten();
    let mut all: BTreeMap<String, String> = given
        .filter(|(key, _)| PASSED_DOWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    all.extend(graph.spec.annotations.clone().unwrap_or_default());
    (!all.is_empty()).then_some(all)
}

/// The component with what the graph says merged in.
pub(super) fn filled_in(
    component: &ComponentSpec,
    kind: Option<ComponentKind>,
    graph: &DynamoGraphDeployment,
    settings: &Settings,
) -> ComponentSpec {
    let mut component = component.clone();
    component.component_type = kind.map(|kind| kind.word().to_owned());
    let template = component.pod_template.get_or_insert_default();
    merge_metadata(template, graph);
    let pod = template.spec.get_or_insert_default();
    let position = pod.containers.iter().position(|container| container.name == crds::MAIN_CONTAINER);
    let position = position.unwrap_or_else(|| {
        pod.containers.insert(0, Container { name: crds::MAIN_CONTAINER.to_owned(), ..Container::default() });
        0
    });
    let main = &mut pod.containers[position];
    if main.image.as_deref().unwrap_or_default().is_empty() && kind == Some(ComponentKind::Frontend) {
        main.image.clone_from(&settings.frontend_image);
    }
    let env = merged_env(&graph.spec.env, main.env.as_deref().unwrap_or_default());
    main.env = (!env.is_empty()).then_some(env);
    component
}

/// The graph's labels and annotations under those of the pod template.
fn merge_metadata(template: &mut PodTemplateSpec, graph: &DynamoGraphDeployment) {
    let under = |graph: &Option<BTreeMap<String, String>>, own: &mut Option<BTreeMap<String, String>>| {
        let mut all = graph.clone().unwrap_or_default();
        all.extend(own.take().unwrap_or_default());
        *own = (!all.is_empty()).then_some(all);
    };
    let metadata = template.metadata.get_or_insert_default();
    under(&graph.spec.labels, &mut metadata.labels);
    under(&graph.spec.annotations, &mut metadata.annotations);
    if *metadata == ObjectMeta::default() {
        template.metadata = None;
    }
}

/// `under`, then `over`; of one name the last one of `over`.
pub(super) fn merged_env(under: &[EnvVar], over: &[EnvVar]) -> Vec<EnvVar> {
    let all: Vec<&EnvVar> = under.iter().chain(over).collect();
    let is_last = |i: usize, var: &EnvVar| !all[i + 1..].iter().any(|later| later.name == var.name);
    all.iter().enumerate().filter(|(i, var)| is_last(*i, var)).map(|(_, var)| (*var).clone()).collect()
}
