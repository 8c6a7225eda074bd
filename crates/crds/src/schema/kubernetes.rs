//! Schemas of Kubernetes' own types inside ours, without their descriptions: with them one graph's schema is over 1 MiB.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec};
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, EnvVar, PodSpec, PodTemplateSpec, Probe, ResourceClaim, ResourceRequirements,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Containers of one pod. Kubernetes has no bound; CEL rules need one, and no pod comes near it.
const CONTAINERS_MAX: u64 = 64;
/// Bytes of a container's name: a DNS label.
const CONTAINER_NAME_BYTES_MAX: u64 = 63;
/// Lists of a pod whose entries are told apart by name, as the API server merges them.
const NAMED_LISTS: &[&str] = &["containers", "initContainers", "env", "volumes"];

/// A pod template.
pub(crate) fn pod_template(generator: &mut SchemaGenerator) -> Schema {
    bare::<PodTemplateSpec>(generator)
}

/// The pod of a v1alpha1 service: the component's container beside it, and neither has what the operator fills in.
pub(crate) fn extra_pod_spec(generator: &mut SchemaGenerator) -> Schema {
    let mut pod = bare::<PodSpec>(generator);
    let mut container = bare::<Container>(generator);
    container.remove("required");
    pod.remove("required");
    if let Some(Value::Object(properties)) = pod.get_mut("properties") {
        properties.insert("mainContainer".to_owned(), container.to_value());
    }
    pod
}

/// A probe.
pub(crate) fn probe(generator: &mut SchemaGenerator) -> Schema {
    bare::<Probe>(generator)
}

/// Environment variables.
pub(crate) fn env(generator: &mut SchemaGenerator) -> Schema {
    bare::<Vec<EnvVar>>(generator)
}

/// A key of a ConfigMap.
pub(crate) fn config_map_key(generator: &mut SchemaGenerator) -> Schema {
    bare::<ConfigMapKeySelector>(generator)
}

/// Claims of dynamic resources.
pub(crate) fn resource_claims(generator: &mut SchemaGenerator) -> Schema {
    bare::<Vec<ResourceClaim>>(generator)
}

/// Requests and limits of a container.
pub(crate) fn resource_requirements(generator: &mut SchemaGenerator) -> Schema {
    bare::<ResourceRequirements>(generator)
}

/// Tolerations.
pub(crate) fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    bare::<Vec<Toleration>>(generator)
}

/// Amounts by resource name.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } })
}

/// A Job.
pub(crate) fn job_spec(generator: &mut SchemaGenerator) -> Schema {
    bare::<JobSpec>(generator)
}

/// How an autoscaler moves.
pub(crate) fn autoscaler_behavior(generator: &mut SchemaGenerator) -> Schema {
    bare::<HorizontalPodAutoscalerBehavior>(generator)
}

/// What an autoscaler watches.
pub(crate) fn autoscaler_metrics(generator: &mut SchemaGenerator) -> Schema {
    bare::<Vec<MetricSpec>>(generator)
}

/// Conditions, told apart by type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = bare::<Vec<Condition>>(generator);
    schema.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    schema
}

/// An object that is kept as it is written.
pub(crate) fn free_form(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The schema of a Kubernetes type without descriptions.
fn bare<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<T>();
    strip(schema.ensure_object());
    schema
}

fn strip(map: &mut Map<String, Value>) {
    map.shift_remove("description");
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        // Kubernetes refuses them in a template, and their schema is that of a container once more.
        properties.shift_remove("ephemeralContainers");
        for (name, schema) in properties.iter_mut() {
            let Value::Object(schema) = schema else { continue };
            if name == "metadata" {
                *schema = embedded_metadata();
                continue;
            }
            strip(schema);
            if NAMED_LISTS.contains(&name.as_str()) {
                list_by_name(schema, name != "env" && name != "volumes");
            }
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(schema)) = map.get_mut(key) {
            strip(schema);
        }
    }
}

fn list_by_name(list: &mut Map<String, Value>, is_containers: bool) {
    list.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    list.insert("x-kubernetes-list-map-keys".to_owned(), json!(["name"]));
    if is_containers {
        list.insert("maxItems".to_owned(), json!(CONTAINERS_MAX));
        if let Some(name) = list.get_mut("items").and_then(|items| items.pointer_mut("/properties/name")) {
            name["maxLength"] = json!(CONTAINER_NAME_BYTES_MAX);
        }
    }
}

/// Metadata inside a template. Without properties the API server would prune every label.
fn embedded_metadata() -> Map<String, Value> {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let schema = json!({
        "type": "object",
        "properties": {
            "annotations": texts,
            "finalizers": { "type": "array", "items": { "type": "string" } },
            "generateName": { "type": "string" },
            "labels": texts,
            "name": { "type": "string" },
            "namespace": { "type": "string" },
        },
    });
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
