//! What must hold before anything is changed: each check of a plan against the cluster. It only reads.

use super::helm::Helm;
use super::{Cluster, ClusterError};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use plan::{Check, Plan};
use serde::Serialize;
use std::time::Duration;

/// How long the API server and the registry may take to say anything at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The annotation of the storage class that claims without a class get.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// It holds.
    Holds {
        /// What was found.
        found: String,
    },
    /// It may do harm later.
    Warning {
        /// What was found.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// Nothing can be begun.
    Fails {
        /// What was found.
        found: String,
        /// What to do.
        remedy: String,
    },
}

fn holds(found: impl Into<String>) -> Outcome {
    Outcome::Holds { found: found.into() }
}

fn fails(found: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    Outcome::Fails { found: found.into(), remedy: remedy.into() }
}

/// All checks of the plan, in their order. Where the API server does not answer, only that is told.
pub async fn run(cluster: &Cluster, helm: &Helm, plan: &Plan) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for check in &plan.checks {
        let outcome = match check {
            Check::Kubernetes { version_min } => kubernetes(cluster, *version_min).await,
            Check::Helm { version_min } => helm_version(helm, *version_min).await,
            Check::Permission { verb, group, resource, k8s_namespace } => {
                permission(&cluster.client, verb, group, (resource, k8s_namespace.as_deref())).await
            }
            Check::StorageClass { name } => storage_class(&cluster.client, name.as_deref()).await,
            Check::Registry { address, plain_http } => registry(address, *plain_http).await,
            Check::Gpus { count } => gpus(&cluster.client, *count).await,
        };
        let unreachable = matches!((check, &outcome), (Check::Kubernetes { .. }, Outcome::Fails { .. }));
        outcomes.push(outcome);
        if unreachable {
            break;
        }
    }
    outcomes
}

/// Turns the failed ones into an error.
///
/// # Errors
/// [`ClusterError::Preflight`] with all of them.
pub fn require(outcomes: &[Outcome]) -> Result<(), ClusterError> {
    let (mut failed, mut remedies) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        if let Outcome::Fails { found, remedy } = outcome {
            failed.push(found.clone());
            if !remedies.contains(remedy) {
                remedies.push(remedy.clone());
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(ClusterError::Preflight { failed, remedies }) }
}

async fn kubernetes(cluster: &Cluster, version_min: (u32, u32)) -> Outcome {
    const REMEDY: &str = "see that `kubectl get nodes` answers; set target.kubernetes.context or KUBECONFIG";
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, cluster.client.apiserver_version()).await;
    let version = match asked {
        Err(_) => {
            let found = format!("{} does not answer within {} s", cluster.shown(), ANSWER_TIMEOUT.as_secs());
            return fails(found, REMEDY);
        }
        Ok(Err(error)) => return fails(format!("{} does not answer: {}", cluster.shown(), chain(&error)), REMEDY),
        Ok(Ok(version)) => version,
    };
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
    let found = (number(&version.major), number(&version.minor));
    let shown = format!("Kubernetes {}.{} at {}", found.0, found.1, cluster.shown());
    if found < version_min {
        let remedy = format!("upgrade the cluster to {}.{} or later", version_min.0, version_min.1);
        return fails(format!("{shown} is too old"), remedy);
    }
    holds(shown)
}

async fn helm_version(helm: &Helm, (major, minor): (u32, u32)) -> Outcome {
    let program = helm.program.display();
    let remedy = format!("install Helm {major}.{minor} or later, or name it with BUSBAR_HELM");
    match helm.version().await {
        Ok(Some(found)) if found >= (major, minor) => holds(format!("Helm {}.{}", found.0, found.1)),
        Ok(Some(found)) => fails(format!("Helm {}.{} ({program}) is too old", found.0, found.1), remedy),
        Ok(None) => fails(format!("there is no `{program}`"), remedy),
        Err(said) => fails(format!("{program} does not tell its version: {said}"), remedy),
    }
}

async fn permission(
    client: &Client,
    verb: &str,
    group: &str,
    (resource, k8s_namespace): (&str, Option<&str>),
) -> Outcome {
    let (plural, subresource) = resource.split_once('/').map_or((resource, None), |(a, b)| (a, Some(b.to_owned())));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(plural.to_owned()),
                subresource,
                namespace: k8s_namespace.map(str::to_owned),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let place = k8s_namespace.map_or("the cluster".to_owned(), |name| format!("namespace {name}"));
    let what = format!("{verb} {resource} in {place}");
    let place = k8s_namespace.map_or(String::new(), |name| format!(" -n {name}"));
    let remedy = format!("ask for the permission; see it with `kubectl auth can-i {verb} {resource}{place}`");
    match Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await {
        Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => holds(format!("may {what}")),
        Ok(_) => fails(format!("may not {what}"), remedy),
        Err(error) => fails(format!("whether one may {what} is not known: {}", chain(&error)), remedy),
    }
}

async fn storage_class(client: &Client, name: Option<&str>) -> Outcome {
    let classes = match Api::<StorageClass>::all(client.clone()).list(&ListParams::default()).await {
        Ok(classes) => classes.items,
        Err(error) => {
            let remedy = "see them with `kubectl get storageclasses`";
            return fails(format!("storage classes are not told: {}", chain(&error)), remedy);
        }
    };
    let names: Vec<_> = classes.iter().map(ResourceExt::name_any).collect();
    let list =
        if names.is_empty() { "the cluster has none".to_owned() } else { format!("there are {}", names.join(", ")) };
    match name {
        Some(name) if names.iter().any(|known| known == name) => holds(format!("storage class {name}")),
        Some(name) => fails(
            format!("there is no storage class `{name}`; {list}"),
            "name one that is there with target.kubernetes.storageClass",
        ),
        None => {
            let is_default =
                |class: &&StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|on| on == "true");
            match classes.iter().find(is_default) {
                Some(class) => holds(format!("storage class {}, the default", class.name_any())),
                None => fails(
                    format!("no storage class is the default; {list}"),
                    "name one with target.kubernetes.storageClass, or set platform.nats.install: false",
                ),
            }
        }
    }
}

/// Any answer to `/v2/` will do: one that asks for a login is a registry too.
async fn registry(address: &str, plain_http: bool) -> Outcome {
    let scheme = if plain_http { "http" } else { "https" };
    let url = format!("{scheme}://{address}/v2/");
    let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build();
    let answer = match client {
        Ok(client) => client.get(&url).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) if answer.status().is_success() || matches!(answer.status().as_u16(), 401 | 403) => {
            holds(format!("registry {address}"))
        }
        Ok(answer) => fails(
            format!("{url} answers {}: it is no registry", answer.status()),
            "correct target.kubernetes.registry.address",
        ),
        Err(error) => fails(
            format!("the registry {address} does not answer: {}", chain(&error)),
            "see that it runs; target.kubernetes.registry.plainHttp: true where it has no TLS",
        ),
    }
}

/// GPUs that the nodes have and that the pods of the plan ask for.
async fn gpus(client: &Client, count: u64) -> Outcome {
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        Err(error) => {
            let found = format!("{count} GPUs are asked for; what the nodes have is not told: {}", chain(&error));
            return Outcome::Warning { found, remedy: "see it with `kubectl describe nodes`".to_owned() };
        }
    };
    let of_node = |node: &Node| -> u64 {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        allocatable.and_then(|all| all.get("nvidia.com/gpu")).and_then(|count| count.0.parse().ok()).unwrap_or(0)
    };
    let with: Vec<u64> = nodes.iter().map(of_node).filter(|count| *count > 0).collect();
    let there: u64 = with.iter().sum();
    let found = format!("{count} GPUs are asked for, {there} are on {} nodes", with.len());
    if there >= count {
        return holds(found);
    }
    let remedy = "add GPU nodes and the NVIDIA device plugin, or lower replicas; the pods wait until then".to_owned();
    Outcome::Warning { found, remedy }
}

/// An error with what is below it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = error.source();
    }
    said
}
