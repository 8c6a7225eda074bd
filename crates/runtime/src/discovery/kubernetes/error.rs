//! What can be wrong with an API server, told apart by what helps.

use super::super::outage::StoreError;
use std::fmt;

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubernetesFault {
    /// Time: nobody answers, not in time, or the server is not ready.
    Unavailable,
    /// Another kubeconfig or service account: the one that there is cannot be used.
    Config,
    /// Other certificates.
    Tls,
    /// Another token or client certificate.
    Login,
    /// More rights for this service account.
    Denied,
    /// The definition of the kind: the server does not know it.
    Unknown,
    /// Another request: this one breaks a rule of the server.
    Refused,
}

/// An API server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesError {
    /// What kind of fault.
    pub fault: KubernetesFault,
    /// What was asked: a verb, a resource and its Kubernetes namespace.
    pub act: String,
    /// In the words of the library or the server.
    pub cause: String,
}

impl KubernetesError {
    pub(super) fn new(fault: KubernetesFault, act: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { fault, act: act.into(), cause: cause.into() }
    }

    /// Whether the same call may work later with the same settings.
    pub fn may_heal(&self) -> bool {
        self.fault == KubernetesFault::Unavailable
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self.fault {
            KubernetesFault::Unavailable => "start the API server, or let this pod reach it (a NetworkPolicy?); \
                 outside of a cluster, correct KUBECONFIG; it is tried again all the time"
                .to_owned(),
            KubernetesFault::Config => "in a pod, mount its service account's token \
                 (automountServiceAccountToken); outside of a cluster, let KUBECONFIG name a kubeconfig that \
                 `kubectl` works with"
                .to_owned(),
            KubernetesFault::Tls => {
                "correct the certificate authority of the kubeconfig, or use the address that the server's \
                 certificate names"
                    .to_owned()
            }
            KubernetesFault::Login => {
                "use a kubeconfig or service account token that the API server knows (`kubectl auth whoami`)".to_owned()
            }
            KubernetesFault::Denied => format!(
                "bind a Role that may {} to this pod's service account; the operator makes one for each graph and \
                 names it in serviceAccountName",
                self.act
            ),
            KubernetesFault::Unknown => {
                "install the definitions: `busbar crds --apply`, or the chart busbar-platform".to_owned()
            }
            KubernetesFault::Refused => {
                "register fewer or smaller records in this pod, if the object is too large; else this is a fault of \
                 ours"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for KubernetesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            KubernetesFault::Unavailable => "the API server does not answer",
            KubernetesFault::Config => "there is no way to an API server",
            KubernetesFault::Tls => "the API server and we do not agree on TLS",
            KubernetesFault::Login => "the API server does not know who we are",
            KubernetesFault::Denied => "the API server does not let this pod",
            KubernetesFault::Unknown => "the API server does not know the kind",
            KubernetesFault::Refused => "the API server refused it",
        };
        write!(f, "{}: {what}: {}", self.act, self.cause)
    }
}

impl std::error::Error for KubernetesError {}

impl StoreError for KubernetesError {
    type Fault = KubernetesFault;

    fn fault(&self) -> KubernetesFault {
        self.fault
    }

    fn remedy(&self) -> String {
        KubernetesError::remedy(self)
    }
}
