//! The platform file: what a whole installation should be. A file that `busbar` reads, not an object in a cluster.
//!
//! Its JSON schema, [`schema`], is what editors check with, what `docs/reference/platform.schema.json` holds and what the
//! reader itself walks, so the three cannot part. Keys follow Kubernetes' manner (`storageClass`), but for
//! `k8s_namespace`, which is spelt so everywhere in Busbar: a bare `namespace` is Dynamo's.

mod settings;

pub use settings::{Discovery, Etcd, Monitoring, Nats, Operator, Settings};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `apiVersion` of the file.
pub const API_VERSION: &str = "busbar.dev/v1alpha1";
/// `kind` of the file.
pub const KIND: &str = "Platform";
/// Kubernetes namespace of a graph when neither its entry nor its manifest names one.
pub const GRAPH_K8S_NAMESPACE: &str = "default";
/// What is asked when the file asks nothing.
pub const QUESTION: &str = "What is the capital of France? Answer in one short sentence.";
/// Tokens of an answer when the file says nothing: enough for a sentence, soon done on a CPU.
pub const ANSWER_TOKENS: u32 = 48;
/// Label whose value is the platform's name, on every object that is there because of a platform.
pub const PLATFORM_LABEL: &str = "busbar.dev/platform";
/// Kubernetes' own label for the application that an object is part of.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
/// Its value.
pub const PART_OF: &str = "busbar";

/// A platform: where it is installed, what is in it, and the graphs that it serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("required" = ["apiVersion", "kind", "metadata", "target"]))]
pub struct Platform {
    /// `busbar.dev/v1alpha1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// `Platform`.
    #[schemars(extend("const" = KIND))]
    pub kind: String,
    /// The platform's name.
    pub metadata: Metadata,
    /// Where it is installed.
    pub target: Target,
    /// What is installed beside the graphs.
    pub platform: Settings,
    /// Image of operator, frontends and workers, `REGISTRY/REPOSITORY:TAG`. When absent the running `busbar` is packed
    /// into one and pushed to `target.kubernetes.registry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Graphs in the order in which they are applied.
    pub graphs: Vec<GraphEntry>,
    /// How `up` and `verify` ask whether a graph serves.
    pub verify: Verify,
}

/// The platform's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct Metadata {
    /// Also the name of the Helm release: 1 to 40 lower-case letters, digits and `-`.
    pub name: String,
}

/// Where a platform is installed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("required" = ["kubernetes"]))]
pub struct Target {
    /// A Kubernetes cluster that is there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

/// A Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Context of the kubeconfig; its current one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Kubernetes namespace of operator, NATS and etcd.
    #[serde(rename = "k8s_namespace")]
    pub k8s_namespace: String,
    /// Where the packed image is pushed and pulled from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    /// Storage class of the volumes; the cluster's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// How the frontends are reached from outside of the cluster; by `kubectl port-forward` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            context: None,
            k8s_namespace: crate::definition::K8S_NAMESPACE.to_owned(),
            registry: None,
            storage_class: None,
            exposure: None,
        }
    }
}

/// An image registry that both this machine and the cluster's nodes reach by the same address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("required" = ["address"]))]
pub struct Registry {
    /// `HOST` or `HOST:PORT`.
    pub address: String,
    /// Repository of the image.
    pub repository: String,
    /// Speak HTTP without TLS. The nodes' container runtime must allow it too.
    pub plain_http: bool,
}

impl Default for Registry {
    fn default() -> Self {
        Self { address: String::new(), repository: "busbar".to_owned(), plain_http: false }
    }
}

/// An ingress for every frontend, `GRAPH.HOSTSUFFIX`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("required" = ["ingressClass", "hostSuffix"]))]
pub struct Exposure {
    /// Class of the Ingress objects.
    pub ingress_class: String,
    /// Domain below which each graph has a host.
    pub host_suffix: String,
    /// Secret with the certificate, in each graph's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// Serve without TLS: only where something in front of the ingress speaks it.
    pub plain_http: bool,
}

/// One graph: a file, or the manifest itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GraphEntry {
    /// File with one DynamoGraphDeployment, `v1alpha1` or `v1beta1`; relative to the platform file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The DynamoGraphDeployment itself, in place of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<Map<String, Value>>,
    /// Kubernetes namespace; the manifest's own, else `default`, when absent.
    #[serde(rename = "k8s_namespace", skip_serializing_if = "Option::is_none")]
    pub k8s_namespace: Option<String>,
}

/// How it is found out that a graph serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Verify {
    /// What each graph's model is asked.
    pub question: String,
    /// Regular expression that the answer's text must match somewhere; any text will do when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Longest answer, in tokens.
    #[schemars(range(min = 1, max = 4096))]
    pub max_tokens: u32,
}

impl Default for Verify {
    fn default() -> Self {
        Self { question: QUESTION.to_owned(), expect: None, max_tokens: ANSWER_TOKENS }
    }
}

/// The JSON schema of the file (draft 2020-12): closed objects, real defaults, no references.
pub fn schema() -> Value {
    crate::schema::published::of::<Platform>("Platform of Busbar", API_VERSION)
}
