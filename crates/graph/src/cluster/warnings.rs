//! What is accepted and not done, in sentences for the user.

use super::check_pod::gpus;
use super::graph_objects::as_v1alpha1;
use super::image::{has_version, tag};
use super::labels;
use super::names::{kind_of, main_container};
use crate::component::ComponentKind;
use crds::v1alpha1;
use crds::v1beta1::{ComponentSpec, DynamoGraphDeployment};

/// What the graph asks for and does not get, or gets although it is deprecated. Each sentence begins with the path.
pub fn warnings(graph: &DynamoGraphDeployment) -> Vec<String> {
    let mut all = Vec::new();
    for (key, what) in [(labels::ENABLE_GROVE, "Grove"), (labels::ENABLE_DISAGGREGATED_SET, "DisaggregatedSet")] {
        if graph.metadata.annotations.as_ref().and_then(|all| all.get(key)).is_some_and(|value| value == "true") {
            all.push(format!("metadata.annotations[{key}]: Busbar makes Deployments, no {what} objects"));
        }
    }
    let spec = &graph.spec;
    let graph_fields = [
        ("topologyConstraint", spec.topology_constraint.is_some()),
        ("providerOverride", spec.provider_override.is_some()),
    ];
    all.extend(without_effect("spec", &graph_fields));
    if let Some(features) = &spec.experimental {
        let fields = [
            ("kvTransferPolicy", features.kv_transfer_policy.is_some()),
            ("componentGroups", features.component_groups.is_some()),
        ];
        all.extend(without_effect("spec.experimental", &fields));
    }
    for (i, component) in spec.components.iter().enumerate() {
        all.extend(component_warnings(component, &format!("spec.components[{i}]")));
    }
    if let Some(alpha) = as_v1alpha1(graph) {
        for (name, service) in &alpha.spec.services.0 {
            all.extend(service_warnings(service, &format!("spec.services.{name}")));
        }
    }
    all
}

/// The same for one component at `path`.
pub fn component_warnings(component: &ComponentSpec, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    match kind_of(component) {
        Some(ComponentKind::Planner) => all.push(format!(
            "{path}: type planner runs as its template says, but Busbar's image holds no planner, and the pod gets no \
             rights to scale the graph"
        )),
        Some(ComponentKind::Epp) => all.push(format!(
            "{path}: type epp runs as its template says; InferencePool, routes and the ConfigMap of eppConfig are not made"
        )),
        None => all.push(format!(
            "{path}: there is no type and the command does not tell it, so it gets no ports, no probes and no worker's \
             environment"
        )),
        Some(_) => {}
    }
    let features = component.experimental.as_ref();
    let fields = [
        ("topologyConstraint", component.topology_constraint.is_some()),
        ("providerOverride", component.provider_override.is_some()),
        ("roles", component.roles.is_some()),
        ("experimental.gpuMemoryService", features.is_some_and(|f| f.gpu_memory_service.is_some())),
        ("experimental.failover", features.is_some_and(|f| f.failover.is_some())),
        (
            "experimental.checkpoint",
            features.and_then(|f| f.checkpoint.as_ref()).is_some_and(|checkpoint| checkpoint.enabled),
        ),
    ];
    all.extend(without_effect(path, &fields));
    if component.epp_config.is_some() {
        all.push(format!("{path}.eppConfig: deprecated"));
    }
    all.extend(image_warning(component, path));
    all
}

fn without_effect(path: &str, fields: &[(&str, bool)]) -> Vec<String> {
    let given = fields.iter().filter(|(_, is_given)| *is_given);
    given.map(|(field, _)| format!("{path}.{field}: accepted, and has no effect")).collect()
}

/// Dynamo's newer operators refuse an image whose tag is no version; here it says only that nobody can tell.
fn image_warning(component: &ComponentSpec, path: &str) -> Option<String> {
    let main = main_container(component)?;
    if component.runtime_version_override.is_some() || gpus(main).is_none() {
        return None;
    }
    let image = main.image.as_deref()?;
    let tag = tag(image).unwrap_or_default();
    (!has_version(tag)).then(|| {
        format!(
            "{path}: the tag of `{image}` is no version, so two runs may not be the same; use a released tag or set \
             runtimeVersionOverride"
        )
    })
}

/// Fields of v1alpha1 that are deprecated or not done.
fn service_warnings(service: &v1alpha1::ServiceSpec, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (field, is_given) in
        [("dynamoNamespace", service.dynamo_namespace.is_some()), ("autoscaling", service.autoscaling.is_some())]
    {
        if is_given {
            all.push(format!("{path}.{field}: deprecated and ignored"));
        }
    }
    if service.ingress.as_ref().is_some_and(|ingress| ingress.use_virtual_service == Some(true)) {
        all.push(format!("{path}.ingress.useVirtualService: Busbar makes Ingresses, no VirtualService; none is made"));
    }
    all
}
