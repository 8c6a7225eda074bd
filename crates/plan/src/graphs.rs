//! The graphs of a platform: each manifest as it is applied, and what it asks of the cluster.

use crate::plan::GIVEN_IMAGE_WORD;
use crds::platform::{GRAPH_K8S_NAMESPACE, GraphEntry, PART_OF, PART_OF_LABEL, PLATFORM_LABEL};
use crds::v1beta1::{ComponentSpec, DynamoGraphDeployment};
use graph::{ComponentKind, Finding, Graph, cluster};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Port of every frontend's Service. Source: Dynamo, deploy/operator (the port is part of what its users port-forward).
pub(crate) const FRONTEND_PORT: u16 = 8000;
/// The resource by which pods ask for GPUs.
const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// A manifest's text and where it is from.
#[derive(Clone, Debug)]
pub struct GraphText {
    /// Where findings say that they are: a file's name, or `graphs[0].graph`.
    pub source: String,
    /// One DynamoGraphDeployment as YAML or JSON.
    pub text: String,
}

/// A graph as it is applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedGraph {
    /// `metadata.name`.
    pub name: String,
    /// Where it goes.
    #[serde(rename = "k8s_namespace")]
    pub k8s_namespace: String,
    /// The version in which it is applied, as written.
    pub api_version: String,
    /// Its components, in the order of the file.
    pub components: Vec<PlannedComponent>,
    /// Name of the first frontend's Service.
    pub service: String,
    /// Port of that Service.
    pub port: u16,
    /// GPUs that all its pods ask for together.
    pub gpus: u64,
    /// The object, labelled, its image chosen.
    pub manifest: Value,
}

/// What a component asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedComponent {
    /// Its name, as written.
    pub name: String,
    /// `frontend`, `worker` and so on.
    pub kind: &'static str,
    /// Replicas.
    pub replicas: u32,
    /// GPUs of one replica, over all its nodes.
    pub gpus: u64,
}

/// What a graph is planned with.
pub(crate) struct Context<'a> {
    /// The platform's name.
    pub(crate) platform: &'a str,
    /// The platform's image.
    pub(crate) image: &'a str,
}

/// Plans one graph.
pub(crate) fn plan_graph(
    entry: &GraphEntry,
    given: &GraphText,
    context: &Context<'_>,
) -> Result<PlannedGraph, Vec<Finding>> {
    let at = |finding: Finding| Finding { path: place(&given.source, &finding.path), ..finding };
    let graph = graph::parse(&given.text).map_err(|found| found.into_iter().map(at).collect::<Vec<_>>())?;
    // It was parsed a moment ago.
    let mut manifest: Value = serde_saphyr::from_str(&given.text)
        .map_err(|error| vec![at(Finding::new("", error.to_string(), "correct that line"))])?;
    let k8s_namespace = namespace(entry, &manifest).map_err(|finding| vec![at(finding)])?;
    if let Value::Object(object) = &mut manifest {
        object.shift_remove("status");
    }
    place_in(&mut manifest, &k8s_namespace, context.platform);
    choose_image(&mut manifest, context.image);
    // What the operator's webhook would refuse is told here already.
    let stored = cluster::read(&manifest).map_err(|found| found.into_iter().map(at).collect::<Vec<_>>())?;
    Ok(described(&graph, k8s_namespace, &stored, manifest))
}

fn described(graph: &Graph, k8s_namespace: String, stored: &DynamoGraphDeployment, manifest: Value) -> PlannedGraph {
    let spec_of = |name: &str| stored.spec.components.iter().find(|spec| spec.name == name);
    let components: Vec<_> = graph
        .components
        .iter()
        .map(|component| PlannedComponent {
            name: component.name.clone(),
            kind: component.kind.word(),
            replicas: component.replicas,
            gpus: spec_of(&component.name).map_or(0, gpus),
        })
        .collect();
    let frontend = graph.components.iter().find(|component| component.kind == ComponentKind::Frontend);
    let hash = cluster::worker_hash(stored);
    let service = frontend.and_then(|component| spec_of(&component.name));
    let service = service.map(|spec| cluster::service_name(&cluster::component_name(&graph.name, spec, &hash)));
    PlannedGraph {
        name: graph.name.clone(),
        k8s_namespace,
        api_version: graph.api_version.clone(),
        service: service.unwrap_or_default(),
        port: FRONTEND_PORT,
        gpus: components.iter().map(|component| u64::from(component.replicas) * component.gpus).sum(),
        components,
        manifest,
    }
}

/// `source: path`, or `source.path` where the source is itself a path.
fn place(source: &str, path: &str) -> String {
    match (path.is_empty(), source.starts_with("graphs[")) {
        (true, _) => source.to_owned(),
        (false, true) => format!("{source}.{path}"),
        (false, false) => format!("{source}: {path}"),
    }
}

fn namespace(entry: &GraphEntry, manifest: &Value) -> Result<String, Finding> {
    let written = manifest.pointer("/metadata/namespace").and_then(Value::as_str);
    match (entry.k8s_namespace.as_deref(), written) {
        (Some(asked), Some(written)) if asked != written => Err(Finding::new(
            "metadata.namespace",
            format!("the manifest says `{written}` and the platform file `{asked}`"),
            "leave one of them out",
        )),
        (asked, written) => Ok(asked.or(written).unwrap_or(GRAPH_K8S_NAMESPACE).to_owned()),
    }
}

/// Gives the object its namespace and the labels by which it is found again.
fn place_in(manifest: &mut Value, k8s_namespace: &str, platform: &str) {
    let metadata = &mut manifest["metadata"];
    metadata["namespace"] = json!(k8s_namespace);
    if !metadata["labels"].is_object() {
        metadata["labels"] = Value::Object(Map::new());
    }
    metadata["labels"][PART_OF_LABEL] = json!(PART_OF);
    metadata["labels"][PLATFORM_LABEL] = json!(platform);
}

/// An image that is called `busbar` and nothing more is the platform's own.
fn choose_image(value: &mut Value, image: &str) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object.iter_mut() {
                if key == "image" && inner == GIVEN_IMAGE_WORD {
                    *inner = json!(image);
                } else {
                    choose_image(inner, image);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| choose_image(item, image)),
        _ => {}
    }
}

/// GPUs of one replica: what its containers ask for, times the nodes that it spans.
fn gpus(component: &ComponentSpec) -> u64 {
    let pod = component.pod_template.as_ref().and_then(|template| template.spec.as_ref());
    let of_pod: u64 = pod
        .into_iter()
        .flat_map(|pod| &pod.containers)
        .filter_map(|container| container.resources.as_ref()?.limits.as_ref()?.get(GPU_RESOURCE)?.0.parse::<u64>().ok())
        .sum();
    // A multinode component spans two where it does not say.
    let nodes = component.multinode.as_ref().map(|multinode| multinode.node_count.unwrap_or(2));
    of_pod * nodes.and_then(|nodes| u64::try_from(nodes).ok()).unwrap_or(1)
}
