//! A graph as both API versions mean it.

use crate::finding::Finding;

/// A graph whose components are valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// `metadata.name`.
    pub name: String,
    /// The API version that it was written in, `nvidia.com/v1alpha1` or `nvidia.com/v1beta1`.
    pub api_version: String,
    /// Components in the order of the file.
    pub components: Vec<Component>,
}

/// A component: replicas of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Its name, as written.
    pub name: String,
    /// Path of the component in its file, for findings.
    pub path: String,
    /// What it is.
    pub kind: ComponentKind,
    /// How many.
    pub replicas: u32,
    /// Command and arguments of the container, `$(VAR)` not yet expanded. Empty: the kind's default.
    pub argv: Vec<String>,
    /// Environment, graph-wide values first; a later one wins.
    pub env: Vec<(String, EnvValue)>,
    /// Image of the container, when given.
    pub image: Option<String>,
    /// Fields that only a cluster can honour.
    pub cluster_only: Vec<&'static str>,
}

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentKind {
    /// The OpenAI-compatible edge.
    Frontend,
    /// Prefill and decode in one.
    Worker,
    /// Prefill only.
    Prefill,
    /// Decode only.
    Decode,
    /// Dynamo's autoscaler.
    Planner,
    /// Endpoint picker of a gateway.
    Epp,
}

impl ComponentKind {
    /// The word in the manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Worker => "worker",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Planner => "planner",
            Self::Epp => "epp",
        }
    }

    /// Reads the word of either API version.
    pub(crate) fn parse(word: &str, path: &str) -> Result<Self, Finding> {
        match word {
            "frontend" => Ok(Self::Frontend),
            "worker" => Ok(Self::Worker),
            "prefill" => Ok(Self::Prefill),
            "decode" => Ok(Self::Decode),
            "planner" => Ok(Self::Planner),
            "epp" => Ok(Self::Epp),
            other => Err(Finding::new(
                path,
                format!("`{other}` is no kind of component"),
                "use one of frontend, worker, prefill, decode, planner, epp",
            )),
        }
    }
}

/// A value of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// As written.
    Literal(String),
    /// A key of a Secret or ConfigMap; on one machine the variable of the same name, when set.
    External {
        /// `secret NAME, key KEY`.
        from: String,
        /// May be absent.
        optional: bool,
    },
    /// A field of the pod, such as `metadata.name`.
    PodField(String),
}
