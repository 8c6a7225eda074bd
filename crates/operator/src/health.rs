//! `/healthz` and `/readyz` on one port, `/metrics` on another.

use crate::metrics::Metrics;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use telemetry::exposition::CONTENT_TYPE;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Answers on `address` until `stop`: alive for as long as it answers, ready once `ready` says so.
///
/// # Errors
/// The socket's, before anything is served.
pub(crate) async fn serve_health(
    address: SocketAddr,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let is_ready = move || {
        let is_ready = *ready.borrow();
        async move {
            if is_ready {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the webhooks do not serve yet\n")
            }
        }
    };
    let app = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(is_ready));
    serve(address, app, stop).await
}

/// Answers `/metrics` on `address` until `stop`.
///
/// # Errors
/// The socket's, before anything is served.
pub(crate) async fn serve_metrics(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let text = move || {
        let text = metrics.text();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    serve(address, Router::new().route("/metrics", get(text)), stop).await
}

async fn serve(address: SocketAddr, app: Router, stop: CancellationToken) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}
