//! Names of a graph, of its components, and of what is made of them.

use super::names::{NAME_LENGTH_MAX, component_name, dynamo_namespace, k8s_namespace, model_service_name, name_of};
use super::worker_hash;
use crate::finding::Finding;
use crds::v1beta1::{ComponentSpec, DynamoGraphDeployment};

/// The graph's name, each component's, and the names that follow from both.
pub(super) fn check_names(graph: &DynamoGraphDeployment, found: &mut Vec<Finding>) {
    let name = name_of(&graph.metadata);
    if !is_graph_name(name) {
        found.push(Finding::new(
            "metadata.name",
            format!("`{name}` is no name of a graph"),
            "use lower-case letters, digits and `-`, a letter first: Services are named after it",
        ));
    }
    let namespace = dynamo_namespace(k8s_namespace(&graph.metadata), name, false);
    if namespace.len() > NAME_LENGTH_MAX {
        found.push(Finding::new(
            "metadata.name",
            format!("the Dynamo namespace would be `{namespace}`, {} characters long", namespace.len()),
            format!("shorten the graph's name or that of the Kubernetes namespace; {NAME_LENGTH_MAX} are allowed"),
        ));
    }
    let hash = worker_hash(graph);
    for (i, component) in graph.spec.components.iter().enumerate() {
        let path = format!("spec.components[{i}]");
        check_name(component, &path, found);
        let earlier = &graph.spec.components[..i];
        if earlier.iter().any(|earlier| earlier.name.eq_ignore_ascii_case(&component.name)) {
            found.push(Finding::new(
                format!("{path}.name"),
                format!("a component named `{}` is there already", component.name),
                "give each component a name of its own; upper and lower case do not count",
            ));
        }
        let object = component_name(name, component, &hash);
        let longest = if component.model_ref.is_some() { model_service_name(&object) } else { object };
        if longest.len() > NAME_LENGTH_MAX {
            found.push(Finding::new(
                format!("{path}.name"),
                format!("its objects would be named `{longest}`, {} characters long", longest.len()),
                format!("shorten the name of the component or of the graph; {NAME_LENGTH_MAX} are allowed"),
            ));
        }
    }
}

/// The name of one component.
pub(super) fn check_name(component: &ComponentSpec, path: &str, found: &mut Vec<Finding>) {
    let name = component.name.as_str();
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = name.len() <= NAME_LENGTH_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && is_edge(name.chars().next())
        && is_edge(name.chars().next_back());
    if !valid {
        found.push(Finding::new(
            format!("{path}.name"),
            format!("`{name}` is no name of a component"),
            "use 1 to 63 letters, digits and `-`, a letter or digit at both ends",
        ));
    }
}

/// A DNS label or several with dots between, whose first character is a letter.
fn is_graph_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_plain) && label.ends_with(is_plain) && label.chars().all(|c| is_plain(c) || c == '-')
    };
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('.').all(is_label)
}
