//! Why a platform cannot be installed, asked or removed, and what to do.

use std::path::PathBuf;

/// Why an act on a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No client could be made of the kubeconfig.
    #[error("read the kubeconfig{}", context.as_ref().map_or(String::new(), |name| format!(", context `{name}`")))]
    Config {
        /// The context that was asked for.
        context: Option<String>,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server refused, or did not answer.
    #[error("{act}")]
    Api {
        /// What was tried.
        act: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// A check before the first change.
    #[error("the cluster is not ready for the platform:\n{}", failed.join("\n"))]
    Preflight {
        /// What does not hold, a line each.
        failed: Vec<String>,
        /// What to do about each.
        remedies: Vec<String>,
    },
    /// A file of ours.
    #[error("{act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Helm ended with an error.
    #[error("{act}: {said}")]
    Helm {
        /// What was tried.
        act: String,
        /// Its words, and what the pods say.
        said: String,
    },
    /// Another Helm works on the release.
    #[error("the release `{release}` is {status} since {since}: another helm works on it, or was killed elsewhere")]
    ReleaseBusy {
        /// The release.
        release: String,
        /// `pending-upgrade` and the like.
        status: String,
        /// When it began.
        since: String,
    },
    /// Something did not become ready in time.
    #[error("{what} is not ready after {seconds} s:\n{}", reasons.join("\n"))]
    NotReady {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What the cluster says about it.
        reasons: Vec<String>,
    },
    /// A graph serves no answer that is one.
    #[error("ask graph `{graph}`: {problem}")]
    Answer {
        /// The graph.
        graph: String,
        /// What is wrong with its answer.
        problem: String,
    },
    /// Something did not go away in time.
    #[error("{what} is still there after {seconds} s: {reason}")]
    StaysThere {
        /// What was deleted.
        what: String,
        /// How long was waited.
        seconds: u64,
        /// What holds it.
        reason: String,
    },
    /// Something of the platform is there after all was removed.
    #[error("{} objects are left:\n{}", objects.len(), objects.join("\n"))]
    Left {
        /// Kind, namespace and name of each.
        objects: Vec<String>,
    },
    /// Stopped by whoever started it.
    #[error("interrupted")]
    Interrupted,
}

/// HTTP status codes of the API server that have a remedy of their own.
const FORBIDDEN: u16 = 403;
const CONFLICT: u16 = 409;
const INVALID: u16 = 422;

impl ClusterError {
    /// An API server's answer to `act`.
    pub(crate) fn api(act: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let act = act.into();
        move |source| Self::Api { act, source: Box::new(source) }
    }

    /// What to do; one text for each of several things.
    pub fn remedies(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            Self::Config { .. } => {
                one("see the contexts with `kubectl config get-contexts`; set target.kubernetes.context or KUBECONFIG")
            }
            Self::Api { source, .. } => one(api_remedy(source)),
            Self::Preflight { remedies, .. } => remedies.clone(),
            Self::File { .. } => one("make room or give access, or set BUSBAR_STATE_DIR to another folder"),
            Self::Helm { .. } => one("correct what it says, then run the same command again: it goes on"),
            Self::ReleaseBusy { release, .. } => vec![format!(
                "wait for it; if nothing works on it any more: `helm rollback {release}`, or `helm uninstall {release}`"
            )],
            Self::NotReady { .. } => one(
                "correct what it says and run the same command again: it goes on; give it longer with --ready-timeout",
            ),
            Self::Answer { graph, .. } => vec![format!(
                "see what the frontend says: kubectl logs -l nvidia.com/dynamo-graph-deployment-name={graph}"
            )],
            Self::StaysThere { .. } => one("run `busbar down` again once that is gone"),
            Self::Left { .. } => one("run `busbar down` again; what stays, delete by hand"),
            Self::Interrupted => one("run the same command again: it goes on where it was"),
        }
    }
}

fn api_remedy(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            FORBIDDEN => "ask for that permission, or use a context that has it",
            CONFLICT => "another program owns these fields: let go of them there, or give --force-conflicts",
            INVALID => "correct the manifest as it says",
            _ => "correct what it says, then run the same command again",
        },
        _ => "see that the cluster answers: kubectl get nodes",
    }
}
