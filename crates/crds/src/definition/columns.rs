//! What `kubectl get` prints of each kind.

use serde::Serialize;

/// A column.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Column {
    name: &'static str,
    #[serde(rename = "type")]
    value_type: &'static str,
    json_path: &'static str,
}

const fn text(name: &'static str, json_path: &'static str) -> Column {
    Column { name, value_type: "string", json_path }
}

const fn integer(name: &'static str, json_path: &'static str) -> Column {
    Column { name, value_type: "integer", json_path }
}

const fn age(name: &'static str) -> Column {
    Column { name, value_type: "date", json_path: ".metadata.creationTimestamp" }
}

pub(super) const GRAPH: &[Column] = &[
    text("Ready", ".status.conditions[?(@.type=='Ready')].status"),
    text("Backend", ".spec.backendFramework"),
    age("Age"),
];

pub(super) const COMPONENT: &[Column] = &[
    text("Available", ".status.conditions[?(@.type=='Available')].status"),
    text("Backend", ".spec.backendFramework"),
    age("Age"),
];

pub(super) const ADAPTER_V1ALPHA1: &[Column] = &[
    text("DGD", ".spec.dgdRef.name"),
    text("SERVICE", ".spec.dgdRef.serviceName"),
    integer("REPLICAS", ".status.replicas"),
    age("AGE"),
];

pub(super) const ADAPTER_V1BETA1: &[Column] = &[
    text("DGD", ".spec.dgdRef.name"),
    text("COMPONENT", ".spec.dgdRef.componentName"),
    integer("REPLICAS", ".status.replicas"),
    age("AGE"),
];

pub(super) const REQUEST_V1ALPHA1: &[Column] = &[
    text("Model", ".spec.model"),
    text("Backend", ".status.backend"),
    text("State", ".status.state"),
    text("DGD-State", ".status.deployment.state"),
    age("Age"),
];

pub(super) const REQUEST_V1BETA1: &[Column] = &[
    text("Model", ".spec.model"),
    text("Backend", ".spec.backend"),
    text("Phase", ".status.phase"),
    text("Profiling", ".status.profilingPhase"),
    text("Reason", ".status.conditions[?(@.type=='Succeeded')].reason"),
    text("Message", ".status.conditions[?(@.type=='Succeeded')].message"),
    text("DGD", ".status.dgdName"),
    age("Age"),
];

pub(super) const MODEL: &[Column] = &[
    text("BaseModel", ".spec.baseModelName"),
    text("Type", ".spec.modelType"),
    integer("Ready", ".status.readyEndpoints"),
    integer("Total", ".status.totalEndpoints"),
    age("Age"),
];
