//! Why a pod finds no node, and which nodes would do.

use super::pod::{Around, Cause, Trouble};
use graph::cluster::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::BTreeMap;

/// Label of a node with its machine type.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Machine types that a message names; the next step is the same with more.
const TYPES_MAX: usize = 4;

/// The scheduler's own sentence, what the pod asks for, and what to do.
pub(super) fn unscheduled(pod: &Pod, scheduler: &str, around: &Around<'_>) -> Trouble {
    let lower = scheduler.to_lowercase();
    let claims = claims(pod).join("`, `");
    let volume = |remedy: String| Trouble { cause: Cause::Volume, message: format!("{scheduler}; {remedy}") };
    if lower.contains("persistentvolumeclaim") && lower.contains("not found") {
        return volume(format!(
            "create the PersistentVolumeClaim `{claims}` in Kubernetes namespace {}",
            around.k8s_namespace
        ));
    }
    if lower.contains("unbound immediate persistentvolumeclaims") {
        return volume(format!(
            "claim `{claims}` is not bound: give it a storage class that provisions volumes, or a volume that fits"
        ));
    }
    if lower.contains("volume node affinity conflict") {
        return volume(format!(
            "the volume of claim `{claims}` is in another zone than the nodes that have room: add nodes in its zone, or \
             use a volume that is reached from every zone"
        ));
    }
    let missing = missing(&lower);
    let Some(resource) = missing.or_else(|| extended(pod).map(|(name, _)| name)) else {
        let remedy = "add a node that fits, or ask for less";
        return Trouble { cause: Cause::InsufficientCapacity, message: format!("{scheduler}; {remedy}") };
    };
    let asked = requests(pod).get(&resource).cloned().unwrap_or_default();
    let remedy = around
        .nodes
        .map_or_else(|| "add nodes with it, or ask for less".to_owned(), |nodes| nodes_with(&resource, &asked, nodes));
    Trouble {
        cause: Cause::InsufficientCapacity,
        message: format!("the pod asks for {asked} {resource} and no node has that free: {scheduler}; {remedy}"),
    }
}

/// The resource that the scheduler found too little of: a GPU before CPU and memory, which a GPU node brings along.
fn missing(scheduler: &str) -> Option<String> {
    let mut all: Vec<&str> = scheduler
        .split("insufficient ")
        .skip(1)
        .filter_map(|rest| rest.split([',', ' ', ';']).next())
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty())
        .collect();
    all.sort_by_key(|name| !name.contains('/'));
    all.first().map(|name| (*name).to_owned())
}

/// What the pod's containers ask for, summed where it can be.
fn requests(pod: &Pod) -> BTreeMap<String, String> {
    let mut sums: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let Some(resources) = &container.resources else { continue };
        let mut own: BTreeMap<_, _> = resources.limits.clone().unwrap_or_default();
        own.extend(resources.requests.clone().unwrap_or_default());
        for (name, amount) in own {
            sums.entry(name).or_default().push(amount.0);
        }
    }
    sums.into_iter().map(|(name, amounts)| (name, sum(&amounts))).collect()
}

fn sum(amounts: &[String]) -> String {
    let numbers: Option<Vec<u64>> = amounts.iter().map(|text| text.parse().ok()).collect();
    numbers.map_or_else(|| amounts.join(" + "), |numbers| numbers.iter().sum::<u64>().to_string())
}

/// The first resource of the pod with a `/` in its name, such as a GPU.
fn extended(pod: &Pod) -> Option<(String, String)> {
    requests(pod).into_iter().find(|(name, _)| name.contains('/'))
}

/// Which nodes have the resource at all, and what follows from it.
fn nodes_with(resource: &str, asked: &str, nodes: &[std::sync::Arc<Node>]) -> String {
    let mut by_type: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for node in nodes {
        let Some(amount) = node.status.as_ref().and_then(|s| s.allocatable.as_ref()).and_then(|all| all.get(resource))
        else {
            continue;
        };
        if amount.0 == "0" {
            continue;
        }
        let labels = node.metadata.labels.as_ref();
        let machine = labels.and_then(|labels| labels.get(INSTANCE_TYPE)).map_or("(no type)", String::as_str);
        let entry = by_type.entry(machine).or_insert((0, &amount.0));
        entry.0 += 1;
    }
    if by_type.is_empty() {
        return format!(
            "no node of the cluster has {resource}: add a node group of a machine type that has it, with its device plugin"
        );
    }
    let enough = |amount: &str| match (Quantity::parse(amount), Quantity::parse(asked)) {
        (Some(amount), Some(asked)) => amount >= asked,
        _ => true,
    };
    let fits: Vec<_> = by_type.iter().filter(|(_, (_, amount))| enough(amount)).collect();
    let name = |(machine, (count, amount)): (&&str, &(usize, &str))| {
        format!("{INSTANCE_TYPE}={machine} ({count} nodes with {amount} each)")
    };
    if fits.is_empty() {
        let all: Vec<_> = by_type.iter().take(TYPES_MAX).map(name).collect();
        return format!("no node is large enough, these have {resource}: {}; ask for less in one pod", all.join(", "));
    }
    let all: Vec<_> = fits.into_iter().take(TYPES_MAX).map(name).collect();
    format!("one more node like these would do: {}; or free one, or ask for less", all.join(", "))
}

/// Claims that the pod mounts.
fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}
