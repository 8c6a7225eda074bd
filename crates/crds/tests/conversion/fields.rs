//! One row for every field: what it is in the other version, or that only an annotation keeps it.

use super::{body, object, schema, there};
use crds::convert::{REMAINDER, Version};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Fields that both versions have: v1alpha1, v1beta1. Each row converts both ways, with nothing in an annotation.
fn service_rows() -> Vec<(Value, Value)> {
    let pod = |spec: Value| json!({ "podTemplate": { "spec": spec } });
    let main = |fields: Value| {
        let mut container = json!({ "name": "main" });
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pod(json!({ "containers": [container] }))
    };
    let same = [
        json!({"runtimeVersionOverride": "1.5.0"}),
        json!({"globalDynamoNamespace": true}),
        json!({"replicas": 3}),
        json!({"minAvailable": 1}),
        json!({"multinode": {"nodeCount": 2}}),
        json!({"roles": [{"name": "leader", "replicas": 1}]}),
        json!({"modelRef": {"name": "m", "revision": "r"}}),
        json!({"eppConfig": {"configMapRef": {"name": "c", "key": "k"}}}),
        json!({"dynamoSidecar": "side"}),
        json!({"topologyConstraint": {"packDomain": "rack"}}),
        json!({"providerOverride": {"target": "PodClique"}}),
    ];
    let mut rows: Vec<_> = same.into_iter().map(|value| (value.clone(), value)).collect();
    rows.extend([
        (json!({"componentType": "frontend"}), json!({"type": "frontend"})),
        (json!({"componentType": "worker", "subComponentType": "prefill"}), json!({"type": "prefill"})),
        (json!({"componentType": "worker", "subComponentType": "decode"}), json!({"type": "decode"})),
        (json!({"sharedMemory": {"size": "16Gi"}}), json!({"sharedMemorySize": "16Gi"})),
        (json!({"sharedMemory": {"disabled": true}}), json!({"sharedMemorySize": "0"})),
        (json!({"scalingAdapter": {"enabled": true}}), json!({"scalingAdapter": {}})),
        (
            json!({"volumeMounts": [{"name": "c", "mountPoint": "/c", "useAsCompilationCache": true}]}),
            json!({"compilationCache": {"pvcName": "c", "mountPath": "/c"}}),
        ),
        (
            json!({"gpuMemoryService": {"enabled": true, "mode": "interPod", "deviceClassName": "d"}}),
            json!({"experimental": {"gpuMemoryService": {"mode": "InterPod", "deviceClassName": "d"}}}),
        ),
        (
            json!({"failover": {"enabled": true, "mode": "intraPod", "numShadows": 1}}),
            json!({"experimental": {"failover": {"mode": "IntraPod", "numShadows": 1}}}),
        ),
        (
            json!({"checkpoint": {"enabled": true, "mode": "Auto", "checkpointRef": "r"}}),
            json!({"experimental": {"checkpoint": {"enabled": true, "mode": "Auto", "checkpointRef": "r"}}}),
        ),
        (
            json!({"extraPodMetadata": {"labels": {"l": "1"}, "annotations": {"a": "2"}}}),
            json!({"podTemplate": {"metadata": {"labels": {"l": "1"}, "annotations": {"a": "2"}}}}),
        ),
        (
            json!({"extraPodSpec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "log"}]}}),
            pod(json!({"nodeSelector": {"a": "b"}, "containers": [{"name": "log"}]})),
        ),
        (json!({"extraPodSpec": {"mainContainer": {"image": "i"}}}), main(json!({"image": "i"}))),
        (
            json!({"envs": [{"name": "A", "value": "1"}], "extraPodSpec": {"mainContainer": {}}}),
            main(json!({"env": [{"name": "A", "value": "1"}]})),
        ),
        (
            json!({"envFromSecret": "s", "extraPodSpec": {"mainContainer": {}}}),
            main(json!({"envFrom": [{"secretRef": {"name": "s"}}]})),
        ),
        (
            json!({"extraPodSpec": {"mainContainer": {}},
                "livenessProbe": {"periodSeconds": 5}, "readinessProbe": {"periodSeconds": 6}}),
            main(json!({"livenessProbe": {"periodSeconds": 5}, "readinessProbe": {"periodSeconds": 6}})),
        ),
        (
            json!({"extraPodSpec": {"mainContainer": {}}, "resources": {
                "requests": {"cpu": "1", "memory": "2Gi", "custom": {"ephemeral-storage": "2Gi"}},
                "limits": {"gpu": "2"}, "claims": [{"name": "c"}]}}),
            main(json!({"resources": {
                "requests": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "2Gi"},
                "limits": {"nvidia.com/gpu": "2"}, "claims": [{"name": "c"}]}})),
        ),
        (
            json!({"extraPodSpec": {}, "frontendSidecar": {"image": "i", "args": ["x"], "envFromSecret": "s",
                "envs": [{"name": "A", "value": "1"}]}}),
            json!({"frontendSidecar": "sidecar-frontend", "podTemplate": {"spec": {"containers": [
                {"name": "sidecar-frontend", "image": "i", "args": ["x"], "env": [{"name": "A", "value": "1"}],
                    "envFrom": [{"secretRef": {"name": "s"}}]}]}}}),
        ),
    ]);
    rows
}

/// What only v1alpha1 says, and what v1beta1 shows of it.
fn alpha_rows() -> Vec<(Value, Value)> {
    let claim = json!({"name": "p", "persistentVolumeClaim": {"claimName": "p"}});
    vec![
        (json!({"dynamoNamespace": "n"}), json!({})),
        (json!({"autoscaling": {"enabled": true, "maxReplicas": 4}}), json!({})),
        (json!({"ingress": {"enabled": true, "host": "h"}}), json!({})),
        (json!({"serviceName": "another"}), json!({})),
        (json!({"componentType": "main"}), json!({})),
        (json!({"subComponentType": "prefill"}), json!({})),
        (json!({"scalingAdapter": {"enabled": false}}), json!({})),
        (json!({"gpuMemoryService": {"enabled": false}}), json!({})),
        (json!({"sharedMemory": {}}), json!({})),
        (json!({"annotations": {"a": "1"}}), json!({"podTemplate": {"metadata": {"annotations": {"a": "1"}}}})),
        (json!({"labels": {"a": "1"}}), json!({"podTemplate": {"metadata": {"labels": {"a": "1"}}}})),
        (
            json!({"resources": {"limits": {"gpu": "1", "gpuType": "gpu.intel.com/xe"}}}),
            json!({"podTemplate": {"spec": {"containers": [
                {"name": "main", "resources": {"limits": {"gpu.intel.com/xe": "1"}}}]}}}),
        ),
        (
            json!({"volumeMounts": [{"name": "p", "mountPoint": "/p"}]}),
            json!({"podTemplate": {"spec": {"volumes": [claim], "containers": [
                {"name": "main", "volumeMounts": [{"name": "p", "mountPath": "/p"}]}]}}}),
        ),
        (
            json!({"envs": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "extraPodSpec": {"mainContainer": {"name": "x", "env": [{"name": "A", "value": "3"}]}}}),
            json!({"podTemplate": {"spec": {"containers": [
                {"name": "main", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]}]}}}),
        ),
    ]
}

/// What only v1beta1 says, and what v1alpha1 shows of it.
fn beta_rows() -> Vec<(Value, Value)> {
    vec![
        (
            json!({"experimental": {"checkpoint": {"enabled": true, "startupPolicy": "Immediate"}}}),
            json!({"checkpoint": {"enabled": true}}),
        ),
        (
            json!({"experimental": {"gpuMemoryService": {"extraClientContainers": ["a"]}}}),
            json!({"gpuMemoryService": {"enabled": true}}),
        ),
        (
            json!({"podTemplate": {"metadata": {"name": "n", "labels": {"a": "1"}}}}),
            json!({"extraPodMetadata": {"labels": {"a": "1"}}}),
        ),
        (json!({"podTemplate": {}}), json!({})),
        (json!({"frontendSidecar": "nowhere"}), json!({})),
    ]
}

fn graph_alpha(service: &Value) -> Value {
    object("DynamoGraphDeployment", Version::V1alpha1, &json!({"spec": {"services": {"A": service}}}))
}

fn graph_beta(component: &Value) -> Value {
    let mut component = component.clone();
    component["name"] = json!("A");
    object("DynamoGraphDeployment", Version::V1beta1, &json!({"spec": {"components": [component]}}))
}

fn check_kept(given: &Value, shown: &Value, to: Version) {
    let from = super::other(to);
    let converted = there(given, to);
    assert_eq!(body(&converted), body(shown));
    let kept = &converted["metadata"]["annotations"][REMAINDER];
    assert!(kept.is_string(), "nothing is kept of {given}");
    assert_eq!(&there(&converted, from), given);
}

#[test]
fn fields_that_both_versions_have_are_converted_without_an_annotation() {
    for (alpha, beta) in service_rows() {
        let (alpha, beta) = (graph_alpha(&alpha), graph_beta(&beta));
        assert_eq!(there(&alpha, Version::V1beta1), beta);
        assert_eq!(there(&beta, Version::V1alpha1), alpha);
    }
}

#[test]
fn fields_that_one_version_has_are_kept_in_the_annotation() {
    for (alpha, shown) in alpha_rows() {
        check_kept(&graph_alpha(&alpha), &graph_beta(&shown), Version::V1beta1);
    }
    for (beta, shown) in beta_rows() {
        check_kept(&graph_beta(&beta), &graph_alpha(&shown), Version::V1alpha1);
    }
}

fn names(schema: &Value, pointer: &str) -> BTreeSet<String> {
    schema.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn keys<'a>(values: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    values.into_iter().flat_map(|value| value.as_object().unwrap().keys().cloned()).collect()
}

#[test]
fn the_tables_hold_every_field_of_a_service_and_of_a_component() {
    let (rows, alpha, beta) = (service_rows(), alpha_rows(), beta_rows());
    let graph = "/properties/spec/properties";
    let services = schema("DynamoGraphDeployment", Version::V1alpha1);
    let there = names(&services, &format!("{graph}/services/additionalProperties/properties"));
    assert_eq!(keys(rows.iter().map(|r| &r.0).chain(alpha.iter().map(|r| &r.0))), there);
    let components = schema("DynamoGraphDeployment", Version::V1beta1);
    let mut there = names(&components, &format!("{graph}/components/items/properties"));
    there.remove("name");
    assert_eq!(keys(rows.iter().map(|r| &r.1).chain(beta.iter().map(|r| &r.0))), there);
}

/// Kind, v1alpha1, v1beta1: the other fields of all kinds.
fn object_rows() -> Vec<(&'static str, Value, Value)> {
    let (graph, alone) = ("DynamoGraphDeployment", "DynamoComponentDeployment");
    let (adapter, request) = ("DynamoGraphDeploymentScalingAdapter", "DynamoGraphDeploymentRequest");
    let same = [
        json!({"spec": {"annotations": {"a": "1"}, "labels": {"b": "2"}, "priorityClassName": "p",
            "backendFramework": "vllm", "restart": {"id": "1"}, "topologyConstraint": {"clusterTopologyName": "t"},
            "providerOverride": {"target": "PodCliqueSet"}, "experimental": {"kvTransferPolicy": {"domain": "z"}}}}),
        json!({"status": {"observedGeneration": 1, "state": "pending", "conditions": [], "restart": {"phase": "Pending"},
            "checkpoints": {"A": {"ready": true}}, "placement": {"score": 0.5}}}),
    ];
    let mut rows: Vec<_> = same.into_iter().map(|value| (graph, value.clone(), value)).collect();
    let group = |adapter: Value| {
        json!({"spec": {"experimental": {"componentGroups": [
            {"name": "g", "replicas": 1, "components": [], "scalingAdapter": adapter}]}}})
    };
    rows.extend([
        (graph, json!({"spec": {"envs": [{"name": "A"}]}}), json!({"spec": {"env": [{"name": "A"}]}})),
        (graph, group(json!({"enabled": true})), group(json!({}))),
        (
            graph,
            json!({"status": {"services": {"A": {"componentKind": "Deployment", "componentNames": ["o", "n"],
                "componentName": "n", "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}},
                "rollingUpdate": {"phase": "InProgress", "startTime": "t", "endTime": "u", "updatedServices": ["A"]}}}),
            json!({"status": {"components": {"A": {"componentKind": "Deployment", "componentNames": ["o", "n"],
                "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}},
                "rollingUpdate": {"phase": "InProgress", "startTime": "t", "endTime": "u", "updatedComponents": ["A"]}}}),
        ),
        (
            alone,
            json!({"spec": {"serviceName": "A", "backendFramework": "vllm", "replicas": 2},
                "status": {"observedGeneration": 1, "conditions": [],
                "service": {"componentKind": "Deployment", "replicas": 1, "updatedReplicas": 1}}}),
            json!({"spec": {"name": "A", "backendFramework": "vllm", "replicas": 2},
                "status": {"observedGeneration": 1, "conditions": [],
                "component": {"componentKind": "Deployment", "replicas": 1, "updatedReplicas": 1}}}),
        ),
        (
            adapter,
            json!({"spec": {"replicas": 2, "dgdRef": {"name": "g", "serviceName": "A"}},
                "status": {"replicas": 1, "selector": "a=b", "lastScaleTime": "t"}}),
            json!({"spec": {"replicas": 2, "dgdRef": {"name": "g", "componentName": "A"}},
                "status": {"replicas": 1, "selector": "a=b", "lastScaleTime": "t"}}),
        ),
        (
            adapter,
            json!({"spec": {"replicas": 2, "dgdRef": {"name": "g", "componentGroupName": "A"}}}),
            json!({"spec": {"replicas": 2, "dgdRef": {"name": "g", "componentGroupName": "A"}}}),
        ),
        (
            request,
            json!({"spec": {"model": "m", "backend": "vllm", "autoApply": true, "useMocker": true,
                "profilingConfig": {"profilerImage": "i"}},
                "status": {"observedGeneration": 1, "conditions": [], "state": "Ready", "deployment": {"name": "d"},
                "generatedDeployment": {"k": 1}}}),
            json!({"spec": {"model": "m", "backend": "vllm", "autoApply": true, "image": "i",
                "features": {"mocker": {"enabled": true}}},
                "status": {"observedGeneration": 1, "conditions": [], "phase": "Ready", "dgdName": "d",
                "profilingResults": {"selectedConfig": {"k": 1}}}}),
        ),
    ]);
    rows
}

#[test]
fn the_other_fields_of_every_kind_are_converted_without_an_annotation() {
    for (kind, alpha, beta) in object_rows() {
        let (alpha, beta) = (object(kind, Version::V1alpha1, &alpha), object(kind, Version::V1beta1, &beta));
        assert_eq!(there(&alpha, Version::V1beta1), beta);
        assert_eq!(there(&beta, Version::V1alpha1), alpha);
    }
}

/// Fields without a counterpart, besides those of services and components.
const ALONE: &[(&str, Version, &[&str])] = &[
    ("DynamoGraphDeployment", Version::V1alpha1, &["pvcs"]),
    ("DynamoComponentDeployment", Version::V1alpha1, &["podSelector"]),
    (
        "DynamoGraphDeploymentRequest",
        Version::V1alpha1,
        &["backend", "deploymentOverrides", "enableGpuDiscovery", "profilingResults"],
    ),
    (
        "DynamoGraphDeploymentRequest",
        Version::V1beta1,
        &[
            "deploymentInfo",
            "hardware",
            "modelCache",
            "overrides",
            "profilingJobName",
            "profilingPhase",
            "searchStrategy",
            "sla",
            "workload",
        ],
    ),
];

#[test]
fn the_tables_hold_every_field_of_spec_and_status_of_every_kind() {
    for kind in super::KINDS {
        for version in [Version::V1alpha1, Version::V1beta1] {
            let rows = object_rows();
            let of_kind = rows.iter().filter(|(row, ..)| *row == kind);
            let bodies: Vec<&Value> =
                of_kind.map(|(_, alpha, beta)| if version == Version::V1alpha1 { alpha } else { beta }).collect();
            for part in ["spec", "status"] {
                let mut held = keys(bodies.iter().filter_map(|body| body.get(part)));
                let alone = ALONE.iter().filter(|(k, v, _)| *k == kind && *v == version);
                held.extend(alone.flat_map(|(_, _, names)| names.iter().map(|name| (*name).to_owned())));
                // Held by the tables of services and components.
                if part == "spec" && kind == "DynamoComponentDeployment" {
                    held.extend(keys(service_rows().iter().flat_map(|row| [&row.0, &row.1])));
                    held.extend(keys(alpha_rows().iter().map(|row| &row.0)));
                }
                held.extend(["services".to_owned(), "components".to_owned()]);
                let schema = schema(kind, version);
                let missing: Vec<_> = names(&schema, &format!("/properties/{part}/properties"))
                    .into_iter()
                    .filter(|n| !held.contains(n))
                    .collect();
                assert!(missing.is_empty(), "{kind} {version:?} {part}: {missing:?}");
            }
        }
    }
}

#[test]
fn the_defaults_of_auto_apply_differ_and_neither_changes_its_meaning() {
    let kind = "DynamoGraphDeploymentRequest";
    let alpha = object(kind, Version::V1alpha1, &json!({"spec": {"model": "m"}}));
    let beta = there(&alpha, Version::V1beta1);
    assert_eq!(beta["spec"]["autoApply"], false);
    assert_eq!(there(&beta, Version::V1alpha1), alpha);
    let beta = object(kind, Version::V1beta1, &json!({"spec": {"model": "m"}}));
    let alpha = there(&beta, Version::V1alpha1);
    assert_eq!(alpha["spec"]["autoApply"], true);
    assert_eq!(there(&alpha, Version::V1beta1), beta);
}

#[test]
fn the_order_of_components_survives_a_map() {
    let component = |name: &str| json!({"name": name, "replicas": 1});
    let beta = object(
        "DynamoGraphDeployment",
        Version::V1beta1,
        &json!({"spec": {"components": [component("Z"), component("A"), component("M")]}}),
    );
    let mut alpha = there(&beta, Version::V1alpha1);
    // The API server hands maps on in the order of their keys.
    alpha["spec"]["services"].as_object_mut().unwrap().sort_keys();
    assert_eq!(there(&alpha, Version::V1beta1), beta);
}
