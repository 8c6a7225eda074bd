//! HTTPS with bounds: connections, heads, bodies, time.

use super::review::{Answer, Request, Review};
use super::{MUTATE_PATH, VALIDATE_PATH, convert, default, validate};
use crate::certificate::Serving;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use axum::{Router, extract};
use crds::definition::CONVERSION_PATH;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::RwLock;
use rustls::ServerConfig;
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Only API servers call, each over a few connections that it keeps.
const CONNECTIONS_MAX: usize = 256;
/// A head arrives in so long, and a connection on which nothing is asked is closed after so long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Who opens a connection says hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The API server waits no longer for a review.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections finish their answer at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// After `accept` failed, for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// An admission review holds two objects, of 1.5 MiB at most each in etcd.
const ADMISSION_BYTES_MAX: usize = 8 << 20;
/// A conversion review holds a whole list: 10,000 graphs of 6 kB.
const CONVERSION_BYTES_MAX: usize = 64 << 20;
/// Large lists at once, so that memory has a bound: each is held as text, as values and converted.
const CONVERSIONS_MAX: usize = 4;

/// What the answers depend on.
#[derive(Clone)]
pub(super) struct App {
    /// Name of the operator's own identity, once it is known.
    pub(super) operator: Arc<RwLock<Option<String>>>,
}

#[derive(Clone)]
struct Shared {
    app: App,
    conversions: Arc<Semaphore>,
}

fn routes(app: App) -> Router {
    let shared = Shared { app, conversions: Arc::new(Semaphore::new(CONVERSIONS_MAX)) };
    Router::new()
        .route(CONVERSION_PATH, post(converted))
        .route(VALIDATE_PATH, post(validated))
        .route(MUTATE_PATH, post(defaulted))
        .with_state(shared)
}

async fn converted(State(shared): State<Shared>, request: extract::Request) -> Response {
    let Ok(_place) = shared.conversions.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match read::<Value>(request.into_body(), CONVERSION_BYTES_MAX).await {
        Ok(review) => blocking(move || convert::review(review)).await,
        Err(refusal) => refusal,
    }
}

async fn validated(State(shared): State<Shared>, request: extract::Request) -> Response {
    let operator = shared.app.operator.read().clone();
    admission(request.into_body(), move |request| validate::answer(request, operator.as_deref())).await
}

async fn defaulted(request: extract::Request) -> Response {
    admission(request.into_body(), default::answer).await
}

async fn admission(body: Body, answer: impl FnOnce(&Request) -> Answer + Send + 'static) -> Response {
    match read::<Review>(body, ADMISSION_BYTES_MAX).await {
        Ok(Review { request }) => blocking(move || answer(&request).into_review(&request.uid)).await,
        Err(refusal) => refusal,
    }
}

/// Megabytes of JSON take longer than a thread for sockets may be held.
async fn blocking(work: impl FnOnce() -> Value + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(review) => Json(review).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "a webhook failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "the webhook failed; see the operator's log").into_response()
        }
    }
}

async fn read<T: serde::de::DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Response> {
    let bytes = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await;
    let bytes = bytes
        .map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time").into_response())?
        .map_err(|error| {
            let text = format!("the body cannot be taken, at most {bytes_max} bytes are: {error}");
            (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
        })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is no review: {error}")).into_response())
}

/// Accepts until `stop`, then lets what is asked be answered.
pub(super) async fn run(listener: TcpListener, serving: Arc<Serving>, app: App, stop: CancellationToken) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("the provider has TLS 1.2 and 1.3").with_no_client_auth().with_cert_resolver(serving);
    let (acceptor, routes) = (TlsAcceptor::from(Arc::new(config)), routes(app));
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), TaskTracker::new());
    loop {
        let Some(Ok(place)) = stop.run_until_cancelled(places.clone().acquire_owned()).await else { break };
        let socket = match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((socket, _))) => socket,
            Some(Err(error)) => {
                tracing::debug!(error = %error, "accepting a connection failed; tried again");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            converse(socket, acceptor, routes, stop).await;
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!("webhook connections were cut off at shutdown");
    }
}

/// One connection, to its end; after `stop` it ends with the answer under way.
async fn converse(socket: TcpStream, acceptor: TlsAcceptor, routes: Router, stop: CancellationToken) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await else { return };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(error = %error, "a webhook connection ended");
    }
}
