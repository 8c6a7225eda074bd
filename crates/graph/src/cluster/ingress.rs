//! The ingress of a frontend.

use super::environment::HTTP_PORT;
use super::names::{graph_child, kind_of, name_of};
use super::{Settings, labels};
use crate::component::ComponentKind;
use crds::v1alpha1::Ingress as Wanted;
use crds::v1beta1::{ComponentSpec, DynamoGraphDeployment};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use std::collections::BTreeMap;

/// End of host names when nothing gives one, as in Dynamo.
const HOST_SUFFIX: &str = "local";

/// The ingress of `component`, whose Service is `target`: for a frontend that asks for one, and for every frontend when
/// the operator has a class and the frontend does not decline.
///
/// Host: `{hostPrefix}{host}.{hostSuffix}`, the graph's name and the operator's suffix where the frontend says nothing.
/// A VirtualService of Istio is not made; [`super::warnings`] says so.
pub(super) fn of(
    component: &ComponentSpec,
    wanted: Option<&Wanted>,
    target: String,
    graph: &DynamoGraphDeployment,
    settings: &Settings,
) -> Option<Ingress> {
    let is_frontend = kind_of(component) == Some(ComponentKind::Frontend);
    let is_enabled = match wanted {
        Some(wanted) => wanted.enabled == Some(true) && wanted.use_virtual_service != Some(true),
        None => settings.ingress.class.is_some(),
    };
    if !is_frontend || !is_enabled {
        return None;
    }
    let wanted = wanted.cloned().unwrap_or_default();
    let host = host(&wanted, name_of(&graph.metadata), settings);
    let class = wanted.ingress_controller_class_name.or_else(|| settings.ingress.class.clone());
    let secret = wanted.tls.and_then(|tls| tls.secret_name).or_else(|| settings.ingress.tls_secret.clone());
    let own = BTreeMap::from([(labels::COMPONENT.to_owned(), component.name.clone())]);
    let mut metadata = graph_child(graph, target.clone(), own);
    for (key, value) in wanted.labels.into_iter().flatten() {
        metadata.labels.get_or_insert_default().entry(key).or_insert(value);
    }
    metadata.annotations.get_or_insert_default().extend(wanted.annotations.unwrap_or_default());
    metadata.annotations = metadata.annotations.filter(|annotations| !annotations.is_empty());
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: class,
            rules: Some(vec![rule(host.clone(), target)]),
            tls: secret.map(|secret| vec![IngressTLS { hosts: Some(vec![host]), secret_name: Some(secret) }]),
            default_backend: None,
        }),
        status: None,
    })
}

fn host(wanted: &Wanted, graph: &str, settings: &Settings) -> String {
    let given = wanted.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(graph);
    let suffix = wanted.host_suffix.as_deref().or(settings.ingress.host_suffix.as_deref()).unwrap_or(HOST_SUFFIX);
    format!("{}{given}.{suffix}", wanted.host_prefix.as_deref().unwrap_or_default())
}

/// Everything at `host` to the frontend's Service.
fn rule(host: String, service: String) -> IngressRule {
    let port = ServiceBackendPort { number: Some(HTTP_PORT), name: None };
    let path = HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend { name: service, port: Some(port) }),
            resource: None,
        },
    };
    IngressRule { host: Some(host), http: Some(HTTPIngressRuleValue { paths: vec![path] }) }
}
