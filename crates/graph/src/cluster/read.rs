//! A manifest of either version as the graph that is stored.

use super::check::check;
use super::check_v1alpha1::check_v1alpha1;
use crate::finding::Finding;
use crate::parse::typed;
use crds::convert::{Version, convert};
use crds::{v1alpha1, v1beta1};
use serde_json::Value;

/// Reads a DynamoGraphDeployment of either version, reports keys that nothing knows, and runs [`check`].
///
/// Paths of findings are those of the version that was given, as far as it has the field.
///
/// # Errors
/// Every violation. A value of a wrong shape has one finding, at the first place that does not fit.
pub fn read(value: &Value) -> Result<v1beta1::DynamoGraphDeployment, Vec<Finding>> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != crds::DYNAMO_GRAPH_DEPLOYMENT {
        let problem = format!("`{}` is not a graph", text("kind"));
        return Err(vec![Finding::new("kind", problem, "give an object of kind DynamoGraphDeployment")]);
    }
    let Some(version) = Version::parse(text("apiVersion")) else {
        let problem = format!("`{}` is not a version of DynamoGraphDeployment", text("apiVersion"));
        return Err(vec![Finding::new("apiVersion", problem, "use nvidia.com/v1alpha1 or nvidia.com/v1beta1")]);
    };
    // A status is the operator's; a manifest out of a cluster may hold one of another release.
    let mut value = value.clone();
    if let Value::Object(object) = &mut value {
        object.shift_remove("status");
        object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let (graph, found) = match version {
        Version::V1beta1 => {
            let (graph, mut found) = typed::<v1beta1::DynamoGraphDeployment>(&value)?;
            found.extend(check(&graph));
            (graph, found)
        }
        Version::V1alpha1 => from_v1alpha1(&value)?,
    };
    if found.is_empty() { Ok(graph) } else { Err(found) }
}

type Read = (v1beta1::DynamoGraphDeployment, Vec<Finding>);

fn from_v1alpha1(value: &Value) -> Result<Read, Vec<Finding>> {
    let (alpha, mut found) = typed::<v1alpha1::DynamoGraphDeployment>(value)?;
    let stored = convert(value, Version::V1beta1)
        .map_err(|error| vec![Finding::new("", error.to_string(), "apply it as nvidia.com/v1beta1")])?;
    let (graph, _) = typed::<v1beta1::DynamoGraphDeployment>(&stored)?;
    check_v1alpha1(&alpha, &mut found);
    for finding in check(&graph) {
        let path = path_in_v1alpha1(&finding.path, &graph);
        let finding = Finding { path, ..finding };
        // What the annotation keeps was checked above as it was written.
        if !found.contains(&finding) {
            found.push(finding);
        }
    }
    Ok((graph, found))
}

/// The path of the same field in the v1alpha1 object that `graph` was converted from.
fn path_in_v1alpha1(path: &str, graph: &v1beta1::DynamoGraphDeployment) -> String {
    let Some((i, rest)) = indexed(path, "spec.components[") else {
        return match path {
            "spec.components" => "spec.services".to_owned(),
            other => other.to_owned(),
        };
    };
    let Some(component) = graph.spec.components.get(i) else { return path.to_owned() };
    let pod = component.pod_template.as_ref().and_then(|template| template.spec.as_ref());
    let rest = match indexed(rest, ".podTemplate.spec.containers[") {
        Some((i, rest)) => match pod.and_then(|pod| pod.containers.get(i)) {
            Some(main) if main.name == crds::MAIN_CONTAINER => match rest.strip_prefix(".resources") {
                Some(resource) => format!(".resources{resource}"),
                None => format!(".extraPodSpec.mainContainer{rest}"),
            },
            _ => format!(".extraPodSpec.containers{rest}"),
        },
        None => RENAMED
            .iter()
            .find_map(|(beta, alpha)| rest.strip_prefix(beta).map(|rest| format!("{alpha}{rest}")))
            .unwrap_or_else(|| rest.to_owned()),
    };
    // The name of a component is the key of its service.
    let rest = if rest == ".name" { "" } else { &rest };
    format!("spec.services.{}{rest}", component.name)
}

/// Fields of a component that have another name or place in v1alpha1.
const RENAMED: [(&str, &str); 8] = [
    (".type", ".componentType"),
    (".sharedMemorySize", ".sharedMemory.size"),
    (".compilationCache", ".volumeMounts"),
    (".experimental.gpuMemoryService", ".gpuMemoryService"),
    (".experimental.failover", ".failover"),
    (".podTemplate.metadata.annotations", ".annotations"),
    (".podTemplate.spec", ".extraPodSpec"),
    (".podTemplate", ".extraPodSpec.mainContainer"),
];

/// The number in brackets behind `prefix`, and what follows.
fn indexed<'a>(path: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = path.strip_prefix(prefix)?.split_once(']')?;
    Some((number.parse().ok()?, rest))
}
