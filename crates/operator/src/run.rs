//! One operator process: webhooks always, control loops while it leads.

use crate::adapter;
use crate::apply::{Gate, Writes};
use crate::cache::Cache;
use crate::config::Config;
use crate::events::Events;
use crate::health;
use crate::leader::{self, LeaderError, Term};
use crate::metrics::Metrics;
use crate::model::{self, Models};
use crate::reconcile::{Context, run_all};
use crate::revision::Revisions;
use crate::webhook::{self, WebhookError};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A port.
    #[error("answer on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The webhooks.
    #[error("serve the webhooks")]
    Webhook(#[from] WebhookError),
    /// The lease.
    #[error("take the lease")]
    Leader(#[from] LeaderError),
    /// The webhooks ended by themselves, which only a bug causes.
    #[error("a part of the operator ended by itself")]
    PartEnded,
    /// The writes that a test allowed are used up.
    #[error("ended after the writes that a test allowed")]
    Crashed,
}

/// Runs until `shutdown`: health, metrics and webhooks from the start, the control loops for as long as this process
/// holds the lease. A lease that is lost is stood for again.
///
/// # Errors
/// [`OperatorError`]; the process must end then, and be started again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), OperatorError> {
    let stop = shutdown.child_token();
    // Whatever ends this function ends the servers.
    let _ends_with_us = stop.clone().drop_guard();
    let metrics = Arc::new(Metrics::default());
    let (ready_out, ready_in) = watch::channel(config.webhook.is_none());
    let mut servers: JoinSet<Result<(), OperatorError>> = JoinSet::new();
    let (health_at, metrics_at) = (config.health_address, config.metrics_address);
    let listen = |address| move |source| OperatorError::Listen { address, source };
    let health = health::serve_health(health_at, ready_in, stop.clone());
    servers.spawn(async move { health.await.map_err(listen(health_at)) });
    let scraped = health::serve_metrics(metrics_at, metrics.clone(), stop.clone());
    servers.spawn(async move { scraped.await.map_err(listen(metrics_at)) });
    if let Some(webhook) = config.webhook.clone() {
        let serving = webhook::serve(config.client.clone(), webhook, ready_out, stop.clone());
        servers.spawn(async move { serving.await.map_err(OperatorError::from) });
    }
    let result = tokio::select! {
        result = lead(&config, &metrics, &shutdown) => result,
        Some(ended) = servers.join_next() => {
            let is_asked = shutdown.is_cancelled();
            ended.unwrap_or(Err(OperatorError::PartEnded)).and(if is_asked { Ok(()) } else { Err(OperatorError::PartEnded) })
        }
    };
    stop.cancel();
    while servers.join_next().await.is_some() {}
    result
}

/// Stands for election, leads, and stands again, until `shutdown`.
async fn lead(config: &Config, metrics: &Arc<Metrics>, shutdown: &CancellationToken) -> Result<(), OperatorError> {
    loop {
        let term = match leader::elect(&config.client, &config.leader, shutdown).await {
            Ok(term) => term,
            Err(LeaderError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        metrics.set_leader(true);
        let ended = act(config, metrics, term).await;
        metrics.set_leader(false);
        ended?;
        if shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

/// One term.
async fn act(config: &Config, metrics: &Arc<Metrics>, term: Term) -> Result<(), OperatorError> {
    let (lost, crashed) = (term.lost.clone(), CancellationToken::new());
    let term = Arc::new(term);
    let held = {
        let term = term.clone();
        Arc::new(move || term.is_held())
    };
    let gate = Gate::new(held, config.writes_max, crashed.clone());
    let mut watches = JoinSet::new();
    let (cache, triggers) = Cache::start(&config.client, config.watch_namespace.as_deref(), &mut watches);
    let context = Context {
        cache,
        writes: Writes::new(config.client.clone(), gate, metrics.clone()),
        settings: config.settings.clone(),
        events: Events::new(config.client.clone(), config.leader.identity.clone()),
        metrics: metrics.clone(),
        revisions: Revisions::default(),
    };
    let (context, watch_namespace) = (Arc::new(context), config.watch_namespace.clone());
    let models =
        Models { context: context.clone(), k8s_namespace: watch_namespace.clone(), image: config.image.clone() };
    let adapters = adapter::run(config.client.clone(), watch_namespace, lost.clone());
    let loops =
        async { tokio::join!(run_all(context, triggers, lost.clone()), adapters, model::run(models, lost.clone())) };
    let result = tokio::select! {
        _ = loops => Ok(()),
        // A killed process finishes nothing.
        () = crashed.cancelled() => Err(OperatorError::Crashed),
    };
    watches.shutdown().await;
    if let Some(term) = Arc::into_inner(term) {
        term.release().await;
    }
    result
}
