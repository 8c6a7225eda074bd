//! The plan: what should exist, in the order in which it is made.

use crate::graphs::{Context, GraphText, PlannedGraph, plan_graph};
use crate::values;
use crds::platform::{Kubernetes, PART_OF, PART_OF_LABEL, PLATFORM_LABEL, Platform, Verify};
use graph::Finding;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Image of a manifest that means the platform's own.
pub const GIVEN_IMAGE_WORD: &str = "busbar";
/// Kubernetes namespaces that every cluster has; none is ever made or removed.
const ALWAYS_THERE: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Oldest API server: server-side apply, CEL rules and their cost limits behave as the definitions need.
const KUBERNETES_MIN: (u32, u32) = (1, 30);
/// Oldest Helm: `--take-ownership`-free adoption, OCI and the flags that are used.
const HELM_MIN: (u32, u32) = (3, 16);

/// What should exist.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The platform's name.
    pub name: String,
    /// Context of the kubeconfig; its current one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What must hold before anything is made.
    pub checks: Vec<Check>,
    /// The image that is pushed, or is there.
    pub image: Image,
    /// Kubernetes namespaces, in the order in which they are made where they are missing.
    #[serde(rename = "k8s_namespaces")]
    pub k8s_namespaces: Vec<Value>,
    /// The chart's release.
    pub release: Release,
    /// Graphs, in the order in which they are applied.
    pub graphs: Vec<PlannedGraph>,
    /// What is asked once they are ready.
    pub questions: Vec<Question>,
}

/// The image of operator, frontends and workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// `REGISTRY/REPOSITORY:TAG`.
    pub reference: String,
    /// This very program is packed and pushed to it; else it is there already.
    pub packed: bool,
    /// The registry speaks HTTP without TLS.
    pub plain_http: bool,
}

/// A release of the platform chart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[serde(rename = "k8s_namespace")]
    pub k8s_namespace: String,
    /// All that the chart is told.
    pub values: Value,
}

/// Something that must hold, or be known, before anything is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "check")]
pub enum Check {
    /// The API server answers and is not too old.
    Kubernetes {
        /// Major and minor version at least.
        version_min: (u32, u32),
    },
    /// `helm` is there and not too old.
    Helm {
        /// Major and minor version at least.
        version_min: (u32, u32),
    },
    /// Whoever calls may do what has to be done.
    Permission {
        /// `create`, `patch`, `delete`.
        verb: &'static str,
        /// API group; empty for the core.
        group: &'static str,
        /// Plural, perhaps with a subresource.
        resource: &'static str,
        /// Where; absent for the whole cluster.
        #[serde(rename = "k8s_namespace", skip_serializing_if = "Option::is_none")]
        k8s_namespace: Option<String>,
    },
    /// The storage class exists, or there is a default where none is named.
    StorageClass {
        /// The name; absent for the cluster's default.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The registry answers.
    Registry {
        /// `HOST` or `HOST:PORT`.
        address: String,
        /// Without TLS.
        plain_http: bool,
    },
    /// So many GPUs are on the nodes. Too few is told, and no failure: nodes may come when pods wait for them.
    Gpus {
        /// How many.
        count: u64,
    },
}

/// What is asked of one graph, and what the answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// The graph.
    pub graph: String,
    /// Where its frontend's Service is.
    #[serde(rename = "k8s_namespace")]
    pub k8s_namespace: String,
    /// The Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// The user's message.
    pub question: String,
    /// Regular expression that the text must match; any text when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Longest answer, in tokens.
    pub max_tokens: u32,
}

/// Plans a platform whose graphs' texts are `texts`, one for each entry in their order; `packed_tag` is the tag of the
/// image that this program would be packed into.
///
/// Pure: the same arguments give the same plan, to the byte.
///
/// # Errors
/// Every violation of every graph, and a graph that is there twice.
pub fn plan(platform: &Platform, texts: &[GraphText], packed_tag: &str) -> Result<Plan, Vec<Finding>> {
    let missing = || Finding::new("target", "it names no cluster", "add `kubernetes:` below `target:`");
    let cluster = platform.target.kubernetes.as_ref().ok_or_else(|| vec![missing()])?;
    let image = image(platform, cluster, packed_tag);
    let context = Context { platform: &platform.metadata.name, image: &image.reference };
    let (mut graphs, mut findings) = (Vec::new(), Vec::new());
    for (entry, text) in platform.graphs.iter().zip(texts) {
        match plan_graph(entry, text, &context) {
            Ok(graph) => {
                if graphs.iter().any(|other: &PlannedGraph| is_same(other, &graph)) {
                    let problem = format!("a graph `{}` is there already in `{}`", graph.name, graph.k8s_namespace);
                    findings.push(Finding::new(&text.source, problem, "give it another name or namespace"));
                }
                graphs.push(graph);
            }
            Err(found) => findings.extend(found),
        }
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    Ok(Plan {
        name: platform.metadata.name.clone(),
        context: cluster.context.clone(),
        checks: checks(platform, cluster, &image, &graphs),
        k8s_namespaces: namespaces(platform, cluster, &graphs),
        release: Release {
            name: platform.metadata.name.clone(),
            k8s_namespace: cluster.k8s_namespace.clone(),
            values: values::values(platform, cluster, &image),
        },
        questions: graphs.iter().map(|graph| question(graph, &platform.verify)).collect(),
        image,
        graphs,
    })
}

fn is_same(a: &PlannedGraph, b: &PlannedGraph) -> bool {
    a.name == b.name && a.k8s_namespace == b.k8s_namespace
}

fn image(platform: &Platform, cluster: &Kubernetes, packed_tag: &str) -> Image {
    let registry = cluster.registry.as_ref();
    let plain_http = registry.is_some_and(|registry| registry.plain_http);
    match (&platform.image, registry) {
        (None, Some(registry)) => Image {
            reference: format!("{}/{}:{packed_tag}", registry.address, registry.repository),
            packed: true,
            plain_http,
        },
        (given, _) => Image { reference: given.clone().unwrap_or_default(), packed: false, plain_http },
    }
}

/// The platform's namespace, then those of the graphs that a cluster does not always have.
fn namespaces(platform: &Platform, cluster: &Kubernetes, graphs: &[PlannedGraph]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    std::iter::once(&cluster.k8s_namespace)
        .chain(graphs.iter().map(|graph| &graph.k8s_namespace))
        .filter(|name| !ALWAYS_THERE.contains(&name.as_str()) && seen.insert(name.as_str()))
        .map(|name| {
            json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": name,
                    "labels": { PART_OF_LABEL: PART_OF, PLATFORM_LABEL: platform.metadata.name },
                },
            })
        })
        .collect()
}

fn checks(platform: &Platform, cluster: &Kubernetes, image: &Image, graphs: &[PlannedGraph]) -> Vec<Check> {
    let mut checks = vec![Check::Kubernetes { version_min: KUBERNETES_MIN }, Check::Helm { version_min: HELM_MIN }];
    let may = |verb, group, resource, k8s_namespace: Option<&String>| Check::Permission {
        verb,
        group,
        resource,
        k8s_namespace: k8s_namespace.cloned(),
    };
    let release = Some(&cluster.k8s_namespace);
    checks.extend([
        may("create", "", "namespaces", None),
        may("create", "apiextensions.k8s.io", "customresourcedefinitions", None),
        may("create", "rbac.authorization.k8s.io", "clusterroles", None),
        may("create", "admissionregistration.k8s.io", "validatingwebhookconfigurations", None),
        may("create", "apps", "deployments", release),
        may("create", "apps", "statefulsets", release),
        may("create", "", "secrets", release),
    ]);
    let mut seen = BTreeSet::new();
    for k8s_namespace in graphs.iter().map(|graph| &graph.k8s_namespace).filter(|name| seen.insert(name.as_str())) {
        checks.extend([
            may("patch", crds::GROUP, "dynamographdeployments", Some(k8s_namespace)),
            may("create", "", "services/proxy", Some(k8s_namespace)),
        ]);
    }
    if values::has_volumes(&platform.platform) {
        checks.push(Check::StorageClass { name: cluster.storage_class.clone() });
    }
    if let (true, Some(registry)) = (image.packed, &cluster.registry) {
        checks.push(Check::Registry { address: registry.address.clone(), plain_http: registry.plain_http });
    }
    let gpus = graphs.iter().map(|graph| graph.gpus).sum();
    if gpus > 0 {
        checks.push(Check::Gpus { count: gpus });
    }
    checks
}

fn question(graph: &PlannedGraph, verify: &Verify) -> Question {
    Question {
        graph: graph.name.clone(),
        k8s_namespace: graph.k8s_namespace.clone(),
        service: graph.service.clone(),
        port: graph.port,
        question: verify.question.clone(),
        expect: verify.expect.clone(),
        max_tokens: verify.max_tokens,
    }
}
