//! Hashes that name things: of a graph's workers, and of a base model.

use super::Settings;
use super::components::{filled_in, framework_of};
use super::environment::in_order;
use super::names::{WorkerHash, is_worker, kind_of};
use crds::v1beta1::{ComponentSpec, DynamoGraphDeployment};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Hexadecimal digits of a hash in a name.
const DIGITS: usize = 8;
/// Fields of a component that change how many pods there are or who scales them, not what runs in them.
const NOT_THE_POD: [&str; 5] = ["name", "replicas", "minAvailable", "scalingAdapter", "topologyConstraint"];

/// The hash of all workers of a graph (worker, prefill and decode).
///
/// It covers what runs: their pods with the graph's environment, labels and annotations merged in, and the backend
/// framework; not replicas, scaling or ingress. The order of components, of keys and of environment variables does not
/// count. Workers of another hash are another generation, with a Dynamo namespace of its own.
///
/// The digits are ours: Dynamo hashes Go structures, which no other program can repeat.
pub fn worker_hash(graph: &DynamoGraphDeployment) -> WorkerHash {
    let workers = graph.spec.components.iter().filter(|component| is_worker(component));
    let mut workers: Vec<(String, Value)> =
        workers.map(|component| (component.name.to_lowercase(), pod_of(component, graph))).collect();
    workers.sort_by(|(a, _), (b, _)| a.cmp(b));
    let framework = graph.spec.backend_framework.as_deref().or_else(|| framework_of(graph));
    let all = json!({ "workers": workers, "backendFramework": framework });
    WorkerHash(digits(canonical(&all).to_string().as_bytes()))
}

/// Value of the label [`super::labels::BASE_MODEL_HASH`], for a model name that need not be a label's value.
///
/// Source: Dynamo, deploy/operator, headless services for models: first 8 hexadecimal digits of SHA-256.
pub fn base_model_hash(model: &str) -> String {
    digits(model.as_bytes())
}

/// What a component runs, without its name and its scale.
fn pod_of(component: &ComponentSpec, graph: &DynamoGraphDeployment) -> Value {
    // A worker takes nothing from the operator's settings.
    let mut component = filled_in(component, kind_of(component), graph, &Settings::default());
    let pod = component.pod_template.as_mut().and_then(|template| template.spec.as_mut());
    for container in pod.into_iter().flat_map(|pod| &mut pod.containers) {
        container.env = container.env.take().map(in_order);
    }
    let mut value = serde_json::to_value(component).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        for field in NOT_THE_POD {
            fields.shift_remove(field);
        }
    }
    value
}

/// The value with the keys of its objects in order, and without nulls.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            sorted.sort_by_key(|(key, _)| *key);
            Value::Object(sorted.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}
