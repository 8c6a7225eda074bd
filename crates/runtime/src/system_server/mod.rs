//! The system status server of a worker: `/health`, `/live`, `/metrics`, and the model's files for frontends.
//!
//! Source: Dynamo 1.6.1 on the wire, §3.4 and §7.

mod health;
mod metadata;

use crate::tasks::Tasks;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub use health::{Health, HealthState};
pub use metadata::MetadataFiles;

/// How long open requests may take when the server shuts down: a download of a tokenizer, not more.
const SHUT_DOWN_GRACE: Duration = Duration::from_secs(2);

/// Content type of OpenMetrics text; Prometheus' older text is told by the absence of the `# EOF` line.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct SystemServerConfig {
    /// Address to listen on (`DYN_SYSTEM_HOST`).
    pub host: String,
    /// Port to listen on, 0 for any (`DYN_SYSTEM_PORT`).
    pub port: u16,
}

/// Makes the text of `/metrics`.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: MetricsText,
    files: MetadataFiles,
}

/// A running server. Dropping it closes the port.
#[derive(Debug)]
pub struct SystemServer {
    address: SocketAddr,
    tasks: Tasks,
}

impl SystemServer {
    /// Listens and serves.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        config: SystemServerConfig,
        health: Health,
        metrics: MetricsText,
        files: MetadataFiles,
    ) -> io::Result<Self> {
        use axum::serve::ListenerExt;
        let listener = TcpListener::bind((config.host.as_str(), config.port)).await?;
        let address = listener.local_addr()?;
        let router = router(Shared { health, metrics, files });
        let tasks = Tasks::new();
        let token = tasks.token();
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        tasks.spawn_to_end("system server", async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(token.clone().cancelled_owned());
            let cut = async {
                token.cancelled().await;
                tokio::time::sleep(SHUT_DOWN_GRACE).await;
            };
            tokio::select! {
                ended = serving => if let Err(error) = ended { tracing::error!(%error, "the system server ended") },
                () = cut => {}
            }
        });
        Ok(Self { address, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, and waits for open requests for a moment.
    pub async fn shut_down(self) {
        self.tasks.shut_down(SHUT_DOWN_GRACE * 2).await;
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/health", get(health_of))
        .route("/live", get(health_of))
        .route("/metrics", get(metrics_of))
        .route("/v1/metadata/{*file}", get(file_of))
        .fallback(not_found)
        .with_state(shared)
}

async fn health_of(State(shared): State<Shared>) -> Response {
    let status = if shared.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // As stock workers do: JSON that calls itself text.
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], shared.health.to_json()).into_response()
}

async fn metrics_of(State(shared): State<Shared>) -> Response {
    let text = (shared.metrics)();
    let kind = if text.trim_end().ends_with("# EOF") { OPEN_METRICS } else { PROMETHEUS_TEXT };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn file_of(State(shared): State<Shared>, uri: Uri) -> Response {
    let Some(path) = shared.files.path_of(uri.path()) else {
        return not_found().await;
    };
    match metadata::open(&path).await {
        Ok((bytes, content)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, bytes.to_string()),
            ];
            (headers, Body::from_stream(content)).into_response()
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a published model file cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read").into_response()
        }
    }
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "Route not found").into_response()
}
