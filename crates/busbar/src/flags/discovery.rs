//! Flags of discovery: which store, how an etcd is reached, and who we are in a cluster. Names of variables are Dynamo's.

use crate::report::Failure;
use clap::{Args, ValueEnum};
use runtime::discovery::{EtcdConfig, EtcdTls, EtcdUser, KubernetesConfig, KubernetesMode};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where processes find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiscoveryBackend {
    /// Files in a folder on this machine (DYN_FILE_KV).
    File,
    /// An etcd cluster (ETCD_ENDPOINTS).
    Etcd,
    /// The Kubernetes namespace of this pod (POD_NAME, POD_UID): DynamoWorkerMetadata objects and EndpointSlices.
    Kubernetes,
}

impl DiscoveryBackend {
    /// The word of the flag and of `DYN_DISCOVERY_BACKEND`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// How an etcd is reached.
#[derive(Args, Clone)]
#[command(next_help_heading = "etcd")]
pub(crate) struct EtcdFlags {
    /// Client URLs of the members, separated by commas; https:// where etcd serves TLS.
    #[arg(long, value_name = "URLS", env = "ETCD_ENDPOINTS", default_value = "http://localhost:2379")]
    etcd_endpoints: String,
    /// User; the password is taken from ETCD_AUTH_PASSWORD alone, so that no list of processes shows it.
    #[arg(long, value_name = "NAME", env = "ETCD_AUTH_USERNAME")]
    etcd_auth_username: Option<String>,
    /// PEM file of the authority that signs the members' certificates; the system's when absent.
    #[arg(long, value_name = "FILE", env = "ETCD_AUTH_CA")]
    etcd_auth_ca: Option<String>,
    /// PEM file of our certificate, where etcd asks for one.
    #[arg(long, value_name = "FILE", env = "ETCD_AUTH_CLIENT_CERT")]
    etcd_auth_client_cert: Option<String>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", env = "ETCD_AUTH_CLIENT_KEY")]
    etcd_auth_client_key: Option<String>,
    /// Name in the members' certificates, where it is not the host of their URLs.
    #[arg(long, value_name = "NAME", env = "BUSBAR_ETCD_TLS_SERVER_NAME")]
    etcd_tls_server_name: Option<String>,
    /// Seconds that our records stay after we died; the same for all processes.
    #[arg(long, value_name = "SECONDS", env = "ETCD_LEASE_TTL", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    etcd_lease_ttl: u64,
}

impl fmt::Debug for EtcdFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs may be written with a password in them.
        f.debug_struct("EtcdFlags").finish_non_exhaustive()
    }
}

/// A set variable without a value means nothing, as in Dynamo.
fn given(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.is_empty()).cloned()
}

impl EtcdFlags {
    /// What is meant. `password` is that of the environment.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn config(&self, password: Option<&String>) -> Result<EtcdConfig, Failure> {
        let mut wrong = Vec::new();
        let endpoints = EtcdConfig::parse_endpoints(&self.etcd_endpoints);
        let endpoints = endpoints.map_err(|error| wrong.push(error.to_string())).unwrap_or_default();
        let user = match (given(self.etcd_auth_username.as_ref()), given(password)) {
            (Some(name), Some(password)) => Some(EtcdUser { name, password }),
            (None, None) => None,
            (Some(_), None) => {
                wrong.push("ETCD_AUTH_USERNAME is given and ETCD_AUTH_PASSWORD is not".to_owned());
                None
            }
            (None, Some(_)) => {
                wrong.push("ETCD_AUTH_PASSWORD is given and ETCD_AUTH_USERNAME is not".to_owned());
                None
            }
        };
        let file = |value: &Option<String>| given(value.as_ref()).map(PathBuf::from);
        let client = match (file(&self.etcd_auth_client_cert), file(&self.etcd_auth_client_key)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                wrong.push("of ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY only one is given".to_owned());
                None
            }
        };
        if !wrong.is_empty() {
            let failure = Failure::new("read the settings of etcd");
            let failure = wrong.into_iter().fold(failure, Failure::cause);
            return Err(failure.remedy("correct them; `busbar frontend --help` says what each means").permanent());
        }
        let server_name = given(self.etcd_tls_server_name.as_ref());
        let tls = EtcdTls { ca: file(&self.etcd_auth_ca), client, server_name };
        Ok(EtcdConfig { endpoints, user, tls, lease_ttl: Duration::from_secs(self.etcd_lease_ttl) })
    }
}

/// What one instance is in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KubeDiscoveryMode {
    /// A pod, while an EndpointSlice says that it is ready.
    Pod,
    /// A container, while its pod says that it is ready.
    Container,
}

/// Who we are in a cluster. The operator gives all of it to the pods of a graph; the API server is found by KUBECONFIG or
/// the pod's service account.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes discovery")]
pub(crate) struct KubernetesFlags {
    /// Name of this pod (downward API: metadata.name).
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: Option<String>,
    /// UID of this pod (downward API: metadata.uid); it owns what we write, which goes with it.
    #[arg(long, value_name = "UID", env = "POD_UID")]
    pod_uid: Option<String>,
    /// Kubernetes namespace of this pod; that of its service account or kubeconfig when absent.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// What one instance is; the same for all processes of a graph.
    #[arg(long, env = "DYN_KUBE_DISCOVERY_MODE", value_enum, default_value = "pod")]
    kube_discovery_mode: KubeDiscoveryMode,
    /// Name of this container, where an instance is a container.
    #[arg(long, value_name = "NAME", env = "CONTAINER_NAME")]
    container_name: Option<String>,
}

impl KubernetesFlags {
    /// What is meant, for a process that writes as `field_manager`.
    ///
    /// # Errors
    /// Everything that is absent, at once.
    pub(crate) fn config(&self, field_manager: &str) -> Result<KubernetesConfig, Failure> {
        let mut absent = Vec::new();
        let mut need = |value: &Option<String>, name: &str| {
            given(value.as_ref()).unwrap_or_else(|| {
                absent.push(format!("{name} is not set"));
                String::new()
            })
        };
        let (pod_name, pod_uid) = (need(&self.pod_name, "POD_NAME"), need(&self.pod_uid, "POD_UID"));
        let mode = match self.kube_discovery_mode {
            KubeDiscoveryMode::Pod => KubernetesMode::Pod,
            KubeDiscoveryMode::Container => KubernetesMode::Container(need(&self.container_name, "CONTAINER_NAME")),
        };
        if !absent.is_empty() {
            let failure = Failure::new("find out which pod this is (DYN_DISCOVERY_BACKEND=kubernetes)");
            let failure = absent.into_iter().fold(failure, Failure::cause);
            return Err(failure
                .remedy(
                    "let the operator run the graph, or give the container `env` with valueFrom.fieldRef.fieldPath \
                     metadata.name, metadata.uid and metadata.namespace; on one machine use --discovery-backend file",
                )
                .permanent());
        }
        let k8s_namespace = given(self.pod_namespace.as_ref());
        Ok(KubernetesConfig { pod_name, pod_uid, k8s_namespace, mode, field_manager: field_manager.to_owned() })
    }
}
