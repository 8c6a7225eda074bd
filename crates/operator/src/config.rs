//! What an operator is told.

use crate::leader::LeaderConfig;
use crate::webhook::WebhookConfig;
use graph::cluster::Settings;
use kube::Client;
use std::net::SocketAddr;

/// What an operator is told.
#[derive(Clone)]
pub struct Config {
    /// The cluster.
    pub client: Client,
    /// Busbar's own image, with which models are fetched; without it none is.
    pub image: Option<String>,
    /// The one Kubernetes namespace to work in; all when absent.
    pub watch_namespace: Option<String>,
    /// What rendering depends on.
    pub settings: Settings,
    /// Which lease, and who asks for it.
    pub leader: LeaderConfig,
    /// The webhooks; none leaves admission and conversion to nobody.
    pub webhook: Option<WebhookConfig>,
    /// Where `/healthz` and `/readyz` answer.
    pub health_address: SocketAddr,
    /// Where `/metrics` answers.
    pub metrics_address: SocketAddr,
    /// For tests: ends the operator in front of the write after so many, as a kill between two writes would.
    pub writes_max: Option<u64>,
}
