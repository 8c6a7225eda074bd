//! Flags of the operator: what is written, and what is meant.

use crate::report::Failure;
use ::operator::Config;
use ::operator::leader::LeaderConfig;
use ::operator::webhook::{SECRET_NAME, WebhookConfig};
use clap::{Args, ValueEnum};
use graph::cluster::{DiscoveryBackend, IngressSettings, Settings};
use kube::Client;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where workers and frontends of a graph find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Discovery {
    /// EndpointSlices and DynamoWorkerMetadata.
    Kubernetes,
    /// etcd, at --etcd-endpoints.
    Etcd,
}

/// Flags of `busbar operator`.
#[derive(Args, Clone, Debug)]
pub(crate) struct OperatorFlags {
    /// Kubernetes namespace of the operator itself: of its lease, its Service and its certificate.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = crds::definition::K8S_NAMESPACE)]
    k8s_namespace: String,
    /// The one Kubernetes namespace to work in; all when absent.
    #[arg(long, value_name = "NAMESPACE", env = "BUSBAR_OPERATOR_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// Kubeconfig; as kubectl finds it when absent, and in a pod the pod's own.
    #[arg(long, value_name = "FILE", env = "BUSBAR_OPERATOR_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one when absent.
    #[arg(long, value_name = "NAME", env = "BUSBAR_OPERATOR_CONTEXT")]
    context: Option<String>,
    /// Address of the webhooks.
    #[arg(long, env = "BUSBAR_OPERATOR_WEBHOOK_HOST", default_value = "0.0.0.0")]
    webhook_host: IpAddr,
    /// Port of the webhooks.
    #[arg(long, env = "BUSBAR_OPERATOR_WEBHOOK_PORT", default_value_t = 9443)]
    webhook_port: u16,
    /// Service by which the API server reaches the webhooks.
    #[arg(
        long,
        value_name = "NAME",
        env = "BUSBAR_OPERATOR_WEBHOOK_SERVICE",
        default_value = "busbar-operator-webhook"
    )]
    webhook_service: String,
    /// Where the API server reaches an operator outside of the cluster, in place of the Service: https://HOST:PORT.
    #[arg(long, value_name = "URL", env = "BUSBAR_OPERATOR_WEBHOOK_URL")]
    webhook_url: Option<String>,
    /// Serve no webhooks: nothing is converted, defaulted or checked at admission; the operator still checks.
    #[arg(long, env = "BUSBAR_OPERATOR_NO_WEBHOOKS")]
    no_webhooks: bool,
    /// Port of /healthz and /readyz.
    #[arg(long, env = "BUSBAR_OPERATOR_HEALTH_PORT", default_value_t = 8081)]
    health_port: u16,
    /// Port of /metrics.
    #[arg(long, env = "BUSBAR_OPERATOR_METRICS_PORT", default_value_t = 8080)]
    metrics_port: u16,
    /// Name of the lease that says which operator acts.
    #[arg(long, value_name = "NAME", env = "BUSBAR_OPERATOR_LEADER_ELECTION_ID", default_value = "busbar-operator")]
    leader_election_id: String,
    /// NATS for the pods of graphs, nats://HOST:PORT.
    #[arg(long, value_name = "URL", env = "BUSBAR_OPERATOR_NATS_ADDRESS")]
    nats_address: Option<String>,
    /// etcd for the pods of graphs, http://HOST:PORT with commas between.
    #[arg(long, value_name = "URLS", env = "BUSBAR_OPERATOR_ETCD_ENDPOINTS", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Discovery of graphs that do not say otherwise.
    #[arg(long, env = "BUSBAR_OPERATOR_DISCOVERY_BACKEND", value_enum, default_value = "kubernetes")]
    discovery_backend: Discovery,
    /// Image repository to what stands in its place, FROM=TO; may be given several times, or with commas between.
    #[arg(long, value_name = "FROM=TO", env = "BUSBAR_OPERATOR_IMAGE_MAP", value_delimiter = ',')]
    image_map: Vec<String>,
    /// Busbar's own image: fetches models to their claims, and runs frontends whose manifest gives no image.
    #[arg(long, value_name = "IMAGE", env = "BUSBAR_OPERATOR_IMAGE")]
    image: Option<String>,
    /// Ingress class; with it every frontend has an Ingress.
    #[arg(long, value_name = "NAME", env = "BUSBAR_OPERATOR_INGRESS_CLASS")]
    ingress_class: Option<String>,
    /// What the host names of ingresses end in.
    #[arg(long, value_name = "SUFFIX", env = "BUSBAR_OPERATOR_INGRESS_HOST_SUFFIX")]
    ingress_host_suffix: Option<String>,
    /// Secret with the certificate of ingresses.
    #[arg(long, value_name = "NAME", env = "BUSBAR_OPERATOR_INGRESS_TLS_SECRET")]
    ingress_tls_secret: Option<String>,
    /// Prometheus for the pods of graphs.
    #[arg(long, value_name = "URL", env = "BUSBAR_OPERATOR_PROMETHEUS_ENDPOINT")]
    prometheus_endpoint: Option<String>,
    /// Model Express for the pods of graphs.
    #[arg(long, value_name = "URL", env = "BUSBAR_OPERATOR_MODEL_EXPRESS_URL")]
    model_express_url: Option<String>,
    /// For tests: end in front of the write after so many.
    #[arg(long, hide = true, env = "BUSBAR_OPERATOR_FAIL_AFTER_WRITES")]
    fail_after_writes: Option<u64>,
}

impl OperatorFlags {
    /// A client for the cluster.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        ::operator::install::client(self.kubeconfig.as_deref(), self.context.as_deref()).await.map_err(|error| {
            let failure = Failure::new(error.to_string()).remedy(error.remedy());
            match std::error::Error::source(&error) {
                Some(source) => failure.chain(source),
                None => failure,
            }
        })
    }

    /// What the flags mean; `identity` is this process among those that may lead.
    pub(crate) fn config(&self, client: Client, identity: &str) -> Result<Config, Failure> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let webhook = (!self.no_webhooks).then(|| WebhookConfig {
            address: SocketAddr::new(self.webhook_host, self.webhook_port),
            k8s_namespace: self.k8s_namespace.clone(),
            service: self.webhook_service.clone(),
            url: self.webhook_url.clone(),
            watch_namespace: self.watch_namespace.clone(),
            secret: SECRET_NAME.to_owned(),
        });
        Ok(Config {
            client,
            image: self.image.clone().filter(|image| !image.is_empty()),
            watch_namespace: self.watch_namespace.clone(),
            settings: self.settings()?,
            leader: LeaderConfig::new(&self.leader_election_id, &self.k8s_namespace, identity),
            webhook,
            health_address: SocketAddr::new(any, self.health_port),
            metrics_address: SocketAddr::new(any, self.metrics_port),
            writes_max: self.fail_after_writes,
        })
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let image_map = self.image_map.iter().filter(|text| !text.is_empty()).map(|text| {
            let pair = text.split_once('=').filter(|(from, to)| !from.is_empty() && !to.is_empty());
            pair.map(|(from, to)| (from.to_owned(), to.to_owned())).ok_or_else(|| {
                Failure::new(format!("read --image-map `{text}`"))
                    .remedy("write FROM=TO, such as nvcr.io/nvidia/ai-dynamo/vllm-runtime=registry.example.com/busbar")
                    .permanent()
            })
        });
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if self.discovery_backend == Discovery::Etcd && self.etcd_endpoints.iter().all(String::is_empty) {
            return Err(Failure::new("use etcd for discovery").remedy("give --etcd-endpoints").permanent());
        }
        Ok(Settings {
            discovery_backend: match self.discovery_backend {
                Discovery::Kubernetes => DiscoveryBackend::Kubernetes,
                Discovery::Etcd => DiscoveryBackend::Etcd,
            },
            nats_address: given(&self.nats_address),
            etcd_endpoints: self.etcd_endpoints.iter().filter(|text| !text.is_empty()).cloned().collect(),
            prometheus_endpoint: given(&self.prometheus_endpoint),
            model_express_url: given(&self.model_express_url),
            image_map: image_map.collect::<Result<_, _>>()?,
            ingress: IngressSettings {
                class: given(&self.ingress_class),
                host_suffix: given(&self.ingress_host_suffix),
                tls_secret: given(&self.ingress_tls_secret),
            },
            frontend_image: given(&self.image),
            ..Settings::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: OperatorFlags,
    }

    fn settings(line: &str) -> Result<Settings, Failure> {
        let words = ["busbar"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).flags.settings()
    }

    #[test]
    fn image_maps_are_pairs_and_etcd_needs_an_address() {
        let read = settings("--image-map a/b=c/d,e=f --image-map g=h").unwrap();
        assert_eq!(read.image_map.len(), 3);
        assert!(settings("--image-map a/b").is_err());
        assert!(settings("--discovery-backend etcd").is_err());
        assert!(settings("--discovery-backend etcd --etcd-endpoints http://e:2379").is_ok());
    }
}
