//! Fields that only v1alpha1 has.

use super::Quantity;
use crate::finding::Finding;
use crds::v1alpha1::{DynamoGraphDeployment, Pvc, ServiceSpec};
use serde_json::Value;

/// Access modes of a volume claim.
const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// What is wrong with volume claims, mounts, ingresses and shared memory; paths are those of v1alpha1.
pub(super) fn check_v1alpha1(graph: &DynamoGraphDeployment, found: &mut Vec<Finding>) {
    let claims = graph.spec.pvcs.as_deref().unwrap_or_default();
    for (i, claim) in claims.iter().enumerate() {
        check_claim(claim, &format!("spec.pvcs[{i}]"), found);
        if claims[..i].iter().any(|earlier| earlier.name == claim.name) {
            let problem = format!("a claim named `{}` is there already", claim.name);
            found.push(Finding::new(format!("spec.pvcs[{i}].name"), problem, "give each claim a name of its own"));
        }
    }
    for (name, service) in &graph.spec.services.0 {
        let path = format!("spec.services.{name}");
        check_mounts(service, claims, &path, found);
        check_service(service, &path, found);
    }
}

fn check_claim(claim: &Pvc, path: &str, found: &mut Vec<Finding>) {
    if claim.create != Some(true) {
        return;
    }
    let text = match &claim.size {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    if Quantity::parse(&text).is_none_or(|size| !size.sign().is_gt()) {
        let problem =
            if text.is_empty() { "a claim to make needs a size".into() } else { format!("`{text}` is no size") };
        found.push(Finding::new(format!("{path}.size"), problem, "write it as `100Gi`"));
    }
    if claim.storage_class.as_deref().unwrap_or_default().is_empty() {
        let path = format!("{path}.storageClass");
        found.push(Finding::new(path, "a claim to make needs a storage class", "name one of the cluster's"));
    }
    let mode = claim.volume_access_mode.as_deref().unwrap_or_default();
    if !ACCESS_MODES.contains(&mode) {
        let remedy = format!("use one of {}", ACCESS_MODES.join(", "));
        found.push(Finding::new(format!("{path}.volumeAccessMode"), format!("`{mode}` is no access mode"), remedy));
    }
}

fn check_mounts(service: &ServiceSpec, claims: &[Pvc], path: &str, found: &mut Vec<Finding>) {
    let own = service.extra_pod_spec.as_ref().and_then(|pod| pod.pod.volumes.as_deref()).unwrap_or_default();
    for (i, mount) in service.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        let is_known = claims.iter().any(|claim| claim.name == mount.name) || own.iter().any(|v| v.name == mount.name);
        if !is_known {
            let problem = format!("no entry of spec.pvcs is named `{}`", mount.name);
            found.push(Finding::new(format!("{path}.name"), problem, "add one, or correct the name"));
        }
        let has_place = mount.mount_point.as_deref().is_some_and(|place| !place.is_empty());
        if !has_place && mount.use_as_compilation_cache != Some(true) {
            let path = format!("{path}.mountPoint");
            found.push(Finding::new(path, "the mount has no place", "give one, or set useAsCompilationCache"));
        }
    }
}

fn check_service(service: &ServiceSpec, path: &str, found: &mut Vec<Finding>) {
    if let Some(ingress) = &service.ingress
        && ingress.enabled == Some(true)
        && ingress.host.as_deref().unwrap_or_default().is_empty()
    {
        let path = format!("{path}.ingress.host");
        found.push(Finding::new(path, "an enabled ingress needs a host", "give the name before the suffix"));
    }
    if let Some(memory) = service.shared_memory.as_ref()
        && memory.disabled != Some(true)
        && memory.size.is_none()
    {
        let path = format!("{path}.sharedMemory.size");
        found.push(Finding::new(path, "shared memory that is not disabled needs a size", "write it as `8Gi`"));
    }
    if let Some(part) = service.sub_component_type.as_deref()
        && !matches!(part, "prefill" | "decode")
    {
        let problem = format!("`{part}` is no part of a worker");
        found.push(Finding::new(format!("{path}.subComponentType"), problem, "use prefill or decode"));
    }
}
