//! What belongs to a graph as a whole.

use super::component_objects::json;
use super::names::{component_name, graph_child, k8s_namespace, name_of, service_account_name, service_name};
use super::{Settings, ingress, labels, scaling_adapter_name, worker_hash};
use crds::convert::{Version, convert};
use crds::v1alpha1::{self, Pvc};
use crds::v1beta1::{DynamoGraphDeployment, DynamoGraphDeploymentScalingAdapter, ScaledComponent, ScalingAdapterSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, ServiceAccount, VolumeResourceRequirements,
};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeMap;

/// API group of roles.
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// What belongs to the graph as a whole, with the graph as owner: the rights that discovery needs, volume claims that
/// the graph asks to make, an ingress for each frontend that has one, scaling adapters.
///
/// Claims and ingresses exist in `v1alpha1` alone; what a stored graph keeps of them in its annotation is read back.
/// A scaling adapter's `spec.replicas` is its first value only: whoever applies must leave the field out once the
/// adapter is there, or an autoscaler's choice is undone.
pub fn graph_objects(graph: &DynamoGraphDeployment, settings: &Settings) -> Vec<Value> {
    let name = name_of(&graph.metadata);
    let child = |name: String| graph_child(graph, name, BTreeMap::new());
    let mut objects = discovery_rights(name, k8s_namespace(&graph.metadata), child).to_vec();
    let services = as_v1alpha1(graph).map(|graph| graph.spec).unwrap_or_default();
    let claims = services.pvcs.iter().flatten().filter(|claim| claim.create == Some(true));
    objects.extend(claims.map(|claim| json(&volume_claim(claim, child(claim.name.clone())))));
    let hash = worker_hash(graph);
    for component in &graph.spec.components {
        let own = services.services.0.iter().find(|(name, _)| *name == component.name);
        let own = own.and_then(|(_, service)| service.ingress.as_ref());
        let target = service_name(&component_name(name, component, &hash));
        objects.extend(ingress::of(component, own, target, graph, settings).map(|ingress| json(&ingress)));
        if component.scaling_adapter.is_some() {
            objects.push(json(&scaling_adapter(graph, &component.name, component.replicas)));
        }
    }
    objects
}

/// The graph as v1alpha1 shows it; none when its annotation of kept fields was spoilt, which [`super::check`] reports.
pub(super) fn as_v1alpha1(graph: &DynamoGraphDeployment) -> Option<v1alpha1::DynamoGraphDeployment> {
    let stored = serde_json::to_value(graph).ok()?;
    serde_json::from_value(convert(&stored, Version::V1alpha1).ok()?).ok()
}

/// ServiceAccount, Role and RoleBinding of the pods: they watch EndpointSlices and pods, and keep their own
/// DynamoWorkerMetadata. The operator itself must hold these rights, or the API server refuses the Role.
pub(super) fn discovery_rights(graph: &str, k8s_namespace: &str, child: impl Fn(String) -> ObjectMeta) -> [Value; 3] {
    let account = service_account_name(graph);
    let role = format!("{account}-role");
    let metadata = |name: &str| {
        let mut metadata = child(name.to_owned());
        metadata.labels.get_or_insert_default().insert("app.kubernetes.io/component".to_owned(), "rbac".to_owned());
        metadata
    };
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(|resource| (*resource).to_owned()).collect()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let read = ["get", "list", "watch"];
    let rules = vec![
        rule("", &["pods"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule(crds::GROUP, &["dynamoworkermetadatas"], &["create", "delete", "get", "list", "patch", "update", "watch"]),
    ];
    let subject = Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.clone(),
        namespace: Some(k8s_namespace.to_owned()),
        api_group: None,
    };
    let binding = RoleBinding {
        metadata: metadata(&format!("{account}-binding")),
        role_ref: RoleRef { api_group: RBAC_GROUP.to_owned(), kind: "Role".to_owned(), name: role.clone() },
        subjects: Some(vec![subject]),
    };
    [
        json(&ServiceAccount { metadata: metadata(&account), ..ServiceAccount::default() }),
        json(&Role { metadata: metadata(&role), rules: Some(rules) }),
        json(&binding),
    ]
}

/// A claim of `pvcs` with `create`. It goes when the graph goes.
fn volume_claim(claim: &Pvc, metadata: ObjectMeta) -> PersistentVolumeClaim {
    let size = match &claim.size {
        Some(Value::String(size)) => size.clone(),
        Some(size) => size.to_string(),
        None => String::new(),
    };
    let resources = VolumeResourceRequirements {
        requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
        limits: None,
    };
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: claim.volume_access_mode.clone().map(|mode| vec![mode]),
            resources: Some(resources),
            storage_class_name: claim.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn scaling_adapter(
    graph: &DynamoGraphDeployment,
    component: &str,
    replicas: Option<i64>,
) -> DynamoGraphDeploymentScalingAdapter {
    let name = name_of(&graph.metadata);
    let own = BTreeMap::from([(labels::COMPONENT.to_owned(), component.to_owned())]);
    DynamoGraphDeploymentScalingAdapter {
        api_version: Version::V1beta1.api_version(),
        kind: crds::SCALING_ADAPTER.to_owned(),
        metadata: graph_child(graph, scaling_adapter_name(name, component), own),
        spec: ScalingAdapterSpec {
            replicas: replicas.unwrap_or(1),
            dgd_ref: ScaledComponent {
                name: name.to_owned(),
                component_name: Some(component.to_owned()),
                component_group_name: None,
            },
        },
        status: None,
    }
}
