//! The HTTP edge: routes, who may use them, and what every answer has in common.

pub(crate) mod failure;
mod generate;
mod listen;
mod read;
mod socket;
mod stream;
mod text_threads;
mod turns;

pub(crate) use listen::{Listener, ServeLimits};
pub(crate) use read::BodyRoom;
pub(crate) use stream::OpenStreams;
pub(crate) use text_threads::TextThreads;

use crate::admission::Admission;
use crate::config::FrontendConfig;
use crate::dispatch::Dispatcher;
use crate::key_ring::KeyRing;
use crate::keys::Caller;
use crate::metrics::{Metrics, Outcome, count_failure};
use crate::models::{Catalog, Entry};
use crate::openai::ApiError;
use crate::openai::response::{ModelList, ModelObject};
use crate::status::{self, RouteBoard};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt;
use runtime::discovery::Discovery;
use runtime::nats::Nats;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_DYNAMO_REQUEST_ID: HeaderName = HeaderName::from_static("x-dynamo-request-id");
/// Longest `x-request-id` that is echoed; a longer one is replaced by ours.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// What every request works with.
pub(crate) struct App {
    pub(crate) config: Arc<FrontendConfig>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) admission: Admission,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) board: Arc<RouteBoard>,
    /// Only for its health: the watcher of models follows it.
    pub(crate) discovery: Discovery,
    pub(crate) nats: Nats,
    pub(crate) text_threads: TextThreads,
    pub(crate) open_streams: OpenStreams,
    pub(crate) body_room: BodyRoom,
    pub(crate) started: Instant,
    /// Cancelled once the frontend shuts down: new requests are refused, running ones finish.
    pub(crate) draining: CancellationToken,
}

/// Ids of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIds {
    /// What workers and answers call it.
    pub(crate) own: uuid::Uuid,
}

impl App {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// The text of `/metrics` at this moment.
    pub(crate) fn render_metrics(&self) -> String {
        for set in &self.catalog.snapshot().sets {
            set.refresh_gauges();
        }
        self.metrics.catch_up(self.dispatcher.traffic(), self.discovery.health());
        self.metrics.catch_up_nats(&self.nats);
        self.metrics.render()
    }

    /// Whose key the request bears.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.keys.check(authorization).ok_or_else(|| {
            let (reason, message) = match authorization {
                None => ("missing", "You did not provide an API key. Send it as `Authorization: Bearer KEY`."),
                Some(_) => ("wrong", "Incorrect API key provided."),
            };
            self.metrics.auth_failures.with(&[reason]).inc();
            ApiError::new(401, "invalid_request_error", message).with_code("invalid_api_key")
        })
    }
}

/// Which routes a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// The API alone: an address that others reach.
    Api,
    /// API and metrics: the address of a pod, which Prometheus scrapes where Dynamo's frontends have them.
    ApiAndMetrics,
    /// API, status page and metrics: a loopback address.
    Everything,
}

/// The routes of one listener.
pub(crate) fn routes(app: Arc<App>, surface: Surface) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(one_model))
        .route("/health", get(health))
        .route("/live", get(live));
    let all = match surface {
        Surface::Api => api,
        Surface::ApiAndMetrics => api.route("/metrics", get(metrics)),
        Surface::Everything => api
            .route("/metrics", get(metrics))
            .route("/", get(status::shell))
            .route("/status/page.css", get(status::style))
            .route("/status/page.js", get(status::script))
            .route("/status/figures.js", get(status::figures))
            .route("/status/chat.js", get(status::chat))
            .route("/status/icon.svg", get(status::icon))
            .route("/status/snapshot", get(status_snapshot)),
    };
    all.fallback(no_route).method_not_allowed_fallback(wrong_method).with_state(app)
}

/// Answers one request: ids in, ids out, and a panic is this request's own 500.
pub(crate) async fn answer<B>(app: Arc<App>, routes: Router, mut request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let own = own_id(request.headers());
    let echoed = request.headers().get(&X_REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_BYTES_MAX).cloned();
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(RequestIds { own });
    let request = request.map(axum::body::Body::new);
    let outcome = AssertUnwindSafe(routes.oneshot(request)).catch_unwind().await;
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(panic) => {
            let panic = runtime::tasks::panic_text(panic.as_ref());
            tracing::error!(request_id = %own, path, panic, "a request panicked");
            count_failure(&app.metrics, Outcome::Failed(500));
            failure::internal().into_response()
        }
    };
    let id = echoed.or_else(|| HeaderValue::from_str(&own.to_string()).ok());
    if let Some(id) = id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

/// The request's own id: `x-dynamo-request-id` if it is a UUID, a new one if not.
fn own_id(headers: &HeaderMap) -> uuid::Uuid {
    let given = headers.get(&X_DYNAMO_REQUEST_ID).and_then(|value| value.to_str().ok());
    given.and_then(|text| uuid::Uuid::parse_str(text).ok()).unwrap_or_else(uuid::Uuid::new_v4)
}

async fn list_models(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    app.caller(&headers)?;
    let snapshot = app.catalog.snapshot();
    let models = snapshot.names.iter().filter_map(|(name, entry)| object_of(name, entry)).collect();
    Ok(axum::Json(ModelList::of(models)).into_response())
}

async fn one_model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    app.caller(&headers)?;
    match app.catalog.find(&id) {
        None => Err(ApiError::model_not_found(&id)),
        Some(Entry::NotReady(why)) => Err(failure::not_ready(&id, &why)),
        Some(entry) => {
            object_of(&id, &entry).map(|model| axum::Json(model).into_response()).ok_or_else(failure::internal)
        }
    }
}

fn object_of(name: &str, entry: &Entry) -> Option<ModelObject> {
    match entry {
        Entry::Ready(model) => Some(ModelObject::new(name, model.created, model.context_length())),
        Entry::NotReady(_) => None,
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let snapshot = app.catalog.snapshot();
    let views: Vec<_> = snapshot.sets.iter().flat_map(|set| set.views()).collect();
    let mut endpoints: Vec<String> = views.iter().map(|view| view.endpoint.endpoint_id().to_string()).collect();
    endpoints.sort();
    endpoints.dedup();
    let instances: Vec<_> = views.iter().map(|view| view.endpoint.as_ref()).collect();
    let status = if app.is_draining() { "draining" } else { "healthy" };
    let code = if app.is_draining() { 503 } else { 200 };
    let body = axum::Json(json!({ "status": status, "endpoints": endpoints, "instances": instances }));
    (axum::http::StatusCode::from_u16(code).unwrap_or_default(), body).into_response()
}

async fn live(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        let body = json!({ "status": "shutting_down", "message": "Service is shutting down" });
        return (axum::http::StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response();
    }
    axum::Json(json!({ "status": "live", "message": "Service is live" })).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = HeaderValue::from_static(telemetry::exposition::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], app.render_metrics()).into_response()
}

async fn status_snapshot(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    if !names_this_machine(headers.get(header::HOST)) {
        let message = "The status page is served only under localhost or an IP address";
        return Err(ApiError::new(403, "invalid_request_error", message).with_code("host_not_allowed"));
    }
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, axum::Json(status::snapshot(&app))).into_response())
}

/// Whether `Host` is `localhost` or an IP address: a web page elsewhere that resolves its own name to this machine
/// (DNS rebinding) is neither.
fn names_this_machine(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return true };
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(404, "invalid_request_error", format!("Route not found: {method} {path}"))
        .with_code("route_not_found")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{method} is not allowed on {path}; the `allow` header says what is");
    ApiError::new(405, "invalid_request_error", message).with_code("method_not_allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_becomes_the_requests_own_id() {
        let headers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_DYNAMO_REQUEST_ID, HeaderValue::from_static(value));
            headers
        };
        let id = "198982c6-dfc9-4a9e-b333-35415ccd1cef";
        assert_eq!(own_id(&headers(id)).to_string(), id);
        assert_ne!(own_id(&headers("mine")), own_id(&headers("mine")), "a new one each time");
    }

    #[test]
    fn the_page_is_for_localhost_and_ip_addresses_only() {
        let check = |host: &'static str| names_this_machine(Some(&HeaderValue::from_static(host)));
        assert!(check("localhost:8000") && check("127.0.0.1:8000") && check("[::1]:8000") && check("192.0.2.1"));
        assert!(!check("evil.example:8000") && !check("localhost.evil.example"));
    }
}
