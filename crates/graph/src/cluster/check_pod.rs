//! The pod template of a component: containers, amounts, volumes, and GPUs against the engine's flags.

use super::Quantity;
use super::names::kind_of;
use crate::component::ComponentKind;
use crate::finding::Finding;
use crate::parse::command_line;
use crds::v1beta1::ComponentSpec;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use std::collections::BTreeMap;

/// End of the resource names of GPUs: `nvidia.com/gpu`, `amd.com/gpu`.
const GPU_SUFFIX: &str = "/gpu";
/// Flags of the engines that split a model over GPUs; the product of their values is what one replica needs.
const SPLITS: [(&str, &[&str]); 2] = [
    ("tensor parallel size", &["--tensor-parallel-size", "-tp", "--tp-size", "--tp"]),
    ("pipeline parallel size", &["--pipeline-parallel-size", "-pp", "--pp-size", "--pp"]),
];

/// What is wrong with the component's pod template.
pub(super) fn check_pod(component: &ComponentSpec, path: &str, found: &mut Vec<Finding>) {
    let may_lack_image = kind_of(component) == Some(ComponentKind::Frontend);
    let Some(template) = &component.pod_template else {
        // A frontend runs without: command, ports and probes have defaults, and the operator may have an image.
        if !may_lack_image {
            let problem = "there is no podTemplate, so nothing says what to run";
            found.push(Finding::new(format!("{path}.podTemplate"), problem, "add one with a container named main"));
        }
        return;
    };
    let path = format!("{path}.podTemplate.spec");
    let empty = PodSpec::default();
    let pod = template.spec.as_ref().unwrap_or(&empty);
    let main = pod.containers.iter().position(|container| container.name == crds::MAIN_CONTAINER);
    match main {
        None if may_lack_image && pod.containers.is_empty() => {}
        None => found.push(Finding::new(
            format!("{path}.containers"),
            "no container is named `main`",
            "name the container that runs the component `main`",
        )),
        Some(i) => {
            let main = &pod.containers[i];
            if main.image.as_deref().unwrap_or_default().is_empty() && !may_lack_image {
                let path = format!("{path}.containers[{i}].image");
                found.push(Finding::new(path, "the container has no image", "give the image of the engine"));
            }
            check_splits(main, &format!("{path}.containers[{i}]"), found);
        }
    }
    check_sidecars(component, pod, &path, found);
    for (list, containers) in
        [("initContainers", pod.init_containers.as_deref()), ("containers", Some(&*pod.containers))]
    {
        for (i, container) in containers.unwrap_or_default().iter().enumerate() {
            let path = format!("{path}.{list}[{i}]");
            if let Some(resources) = &container.resources {
                check_resources(resources, &format!("{path}.resources"), found);
            }
            check_mounts(container, pod, &path, found);
        }
    }
}

/// Sidecars that the component names are there.
fn check_sidecars(component: &ComponentSpec, pod: &PodSpec, path: &str, found: &mut Vec<Finding>) {
    if let Some(name) = component.frontend_sidecar.as_deref()
        && !pod.containers.iter().any(|container| container.name == name)
    {
        let problem = format!("frontendSidecar names `{name}`, and no container has that name");
        found.push(Finding::new(format!("{path}.containers"), problem, "add the container or correct the name"));
    }
    if let Some(name) = component.dynamo_sidecar.as_deref() {
        let named = pod.init_containers.iter().flatten().find(|container| container.name == name);
        if named.is_none_or(|container| container.restart_policy.as_deref() != Some("Always")) {
            found.push(Finding::new(
                format!("{path}.initContainers"),
                format!("dynamoSidecar names `{name}`, and no init container with restartPolicy Always has that name"),
                "add the container or correct the name",
            ));
        }
    }
}

fn check_mounts(container: &Container, pod: &PodSpec, path: &str, found: &mut Vec<Finding>) {
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if !pod.volumes.iter().flatten().any(|volume| volume.name == mount.name) {
            found.push(Finding::new(
                format!("{path}.volumeMounts[{i}].name"),
                format!("the pod has no volume `{}`", mount.name),
                "add it under volumes, or correct the name",
            ));
        }
    }
}

/// Amounts are quantities, requests are within limits, and devices are whole.
fn check_resources(resources: &ResourceRequirements, path: &str, found: &mut Vec<Finding>) {
    for (list, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, Amount(text)) in amounts.iter().flatten() {
            let path = format!("{path}.{list}[{name}]");
            match Quantity::parse(text) {
                None => {
                    let remedy = "write a number with a unit, such as `500m`, `2` or `8Gi`";
                    found.push(Finding::new(path, format!("`{text}` is no quantity"), remedy));
                }
                Some(amount) if amount.sign().is_lt() => {
                    found.push(Finding::new(path, format!("`{text}` is less than nothing"), "use 0 or more"));
                }
                Some(amount) if is_device(name) && amount.whole().is_none() => {
                    found.push(Finding::new(
                        path,
                        format!("`{text}` is no whole number"),
                        "devices are not shared out",
                    ));
                }
                Some(_) => {}
            }
        }
    }
    let read = |amounts: &Option<BTreeMap<String, Amount>>, name: &String| {
        amounts.as_ref().and_then(|all| all.get(name)).and_then(|Amount(text)| Quantity::parse(text))
    };
    for name in resources.requests.iter().flatten().map(|(name, _)| name) {
        let (request, limit) = (read(&resources.requests, name), read(&resources.limits, name));
        let (problem, remedy) = match (request, limit) {
            (Some(request), limit) if is_device(name) && limit != Some(request) => {
                ("must be the same as the limit: devices are not shared out", "set the limit alone")
            }
            (Some(request), Some(limit)) if request > limit => {
                ("asks for more than its limit", "lower it to the limit")
            }
            _ => continue,
        };
        found.push(Finding::new(format!("{path}.requests[{name}]"), problem, remedy));
    }
}

/// Resources with a domain, such as GPUs and network adapters, are counted out by device plugins.
fn is_device(name: &str) -> bool {
    name.contains('/') && !name.starts_with("kubernetes.io/") && !name.contains(".kubernetes.io/")
}

/// GPUs of a container; none when it gives no count.
pub(super) fn gpus(container: &Container) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let amounts = resources.limits.iter().flatten().chain(resources.requests.iter().flatten());
    let mut gpus = amounts.filter(|(name, _)| name.ends_with(GPU_SUFFIX));
    gpus.find_map(|(_, Amount(text))| Quantity::parse(text)?.whole())
}

/// The GPUs of the container are a multiple of what the engine splits the model into.
fn check_splits(container: &Container, path: &str, found: &mut Vec<Finding>) {
    let Some(gpus) = gpus(container).filter(|gpus| *gpus > 0) else { return };
    let words = words(container);
    let mut needed: i64 = 1;
    let mut said = Vec::new();
    for (what, flags) in SPLITS {
        let Some((flag, text)) = value_of(&words, flags) else { continue };
        match text.parse::<i64>() {
            // A variable is only known in the pod.
            Err(_) if text.contains('$') => return,
            Ok(size) if size > 0 => {
                needed = needed.saturating_mul(size);
                said.push(format!("{flag} {size}"));
            }
            _ => {
                let problem = format!("`{flag} {text}` is no {what}");
                found.push(Finding::new(format!("{path}.args"), problem, "use a whole number from 1 on"));
                return;
            }
        }
    }
    if gpus % needed != 0 {
        found.push(Finding::new(
            format!("{path}.args"),
            format!("{} needs {needed} GPUs a copy of the model, and the container has {gpus}", said.join(" ")),
            "make the GPU limit a multiple of it, or lower it",
        ));
    }
}

/// The words of a container's command line; those of a shell line one by one.
pub(super) fn words(container: &Container) -> Vec<String> {
    let line = command_line(container);
    line.iter()
        .flat_map(|word| match word.contains(char::is_whitespace) {
            true => shlex::split(word).unwrap_or_default(),
            false => vec![word.clone()],
        })
        .collect()
}

/// The last value that one of `flags` is given, as `--flag VALUE` or `--flag=VALUE`.
pub(super) fn value_of<'a>(words: &'a [String], flags: &[&'static str]) -> Option<(&'static str, &'a str)> {
    let given = |i: usize, flag: &str| match words[i].strip_prefix(flag)? {
        "" => words.get(i + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    };
    let all = (0..words.len()).flat_map(|i| flags.iter().filter_map(move |flag| Some((*flag, given(i, flag)?))));
    all.last()
}
