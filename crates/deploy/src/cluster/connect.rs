//! The way to a cluster: the kubeconfig as `kubectl` reads it.

use super::ClusterError;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Cluster {
    /// For everything that is asked.
    pub client: Client,
    /// The context, by name; absent inside of a pod.
    pub context: Option<String>,
    /// Address of the API server.
    pub server: String,
}

impl Cluster {
    /// Reads the kubeconfig (`KUBECONFIG`, else `~/.kube/config`); nothing is asked yet.
    ///
    /// # Errors
    /// [`ClusterError::Config`] when there is none, or not that context.
    pub async fn connect(context: Option<&str>) -> Result<Self, ClusterError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ClusterError::Config {
            context: context.map(str::to_owned),
            source,
        };
        let kubeconfig = Kubeconfig::read().map_err(|error| failed(error.into()))?;
        let current = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone());
        let options = KubeConfigOptions { context: current.clone(), ..KubeConfigOptions::default() };
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| failed(error.into()))?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| failed(error.into()))?;
        Ok(Self { client, context: current, server })
    }

    /// `context NAME (SERVER)`.
    pub fn shown(&self) -> String {
        let context = self.context.as_deref().map_or(String::new(), |name| format!("context {name}, "));
        format!("{context}{}", self.server)
    }
}
