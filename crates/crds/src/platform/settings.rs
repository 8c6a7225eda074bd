//! What is installed beside the graphs: the values of the chart that matter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What is installed beside the graphs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The operator, which makes pods of graphs.
    pub operator: Operator,
    /// NATS, for events between workers and frontends.
    pub nats: Nats,
    /// etcd, where workers are found when Kubernetes itself is not to be asked.
    pub etcd: Etcd,
    /// Where workers are found.
    pub discovery_backend: Discovery,
    /// Prometheus and Grafana.
    pub monitoring: Monitoring,
    /// Refuse traffic that the platform does not need.
    pub network_policies: bool,
    /// Image repositories of manifests, each replaced by another: prefix to prefix.
    pub image_map: BTreeMap<String, String>,
    /// Secrets for pulling images, in the platform's namespace.
    pub image_pull_secrets: Vec<String>,
    /// Values of the chart that have no key here; they win.
    pub values: Map<String, Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            operator: Operator::default(),
            nats: Nats::default(),
            etcd: Etcd::default(),
            discovery_backend: Discovery::default(),
            monitoring: Monitoring::default(),
            network_policies: true,
            image_map: BTreeMap::new(),
            image_pull_secrets: Vec::new(),
            values: Map::new(),
        }
    }
}

/// The operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operator {
    /// Replicas; one leads, the others answer webhooks too.
    #[schemars(range(min = 1, max = 9))]
    pub replicas: u32,
    /// Act in this Kubernetes namespace alone; in all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch_namespace: Option<String>,
}

impl Default for Operator {
    /// Two: a webhook that is away while its one pod moves would refuse every graph.
    fn default() -> Self {
        Self { replicas: 2, watch_namespace: None }
    }
}

/// NATS with JetStream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Nats {
    /// Install it.
    pub install: bool,
    /// Members: 1, 3 or 5.
    pub replicas: u32,
    /// Volume of each member, as a Kubernetes quantity.
    pub storage: String,
    /// Image in place of the chart's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Default for Nats {
    fn default() -> Self {
        Self { install: true, replicas: 1, storage: "10Gi".to_owned(), image: None }
    }
}

/// etcd with authentication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Etcd {
    /// Install it; when absent, if `discoveryBackend` is etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<bool>,
    /// Members: 1, 3 or 5.
    pub replicas: u32,
    /// Volume of each member, as a Kubernetes quantity.
    pub storage: String,
    /// Image in place of the chart's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self { install: None, replicas: 3, storage: "8Gi".to_owned(), image: None }
    }
}

/// Where workers are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// In EndpointSlices and DynamoWorkerMetadata; nothing else must run.
    #[default]
    Kubernetes,
    /// In etcd.
    Etcd,
}

/// Prometheus and Grafana.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Monitoring {
    /// Install ServiceMonitors and PodMonitors; needs the kinds of the Prometheus operator.
    pub service_monitors: bool,
    /// Install dashboards as ConfigMaps, where Grafana's sidecar finds them.
    pub dashboards: bool,
}
