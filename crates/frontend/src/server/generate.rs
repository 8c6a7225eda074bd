//! The walk of one generation request: key → body → place → parse → model → lower → send → stream.
//!
//! The place comes after the body: a client that sends slowly holds its connection and nothing more.

use super::read::{self, BodyPlace, ReadBody, Refused};
use super::stream::{EventStream, Wanted, timing_of};
use super::{App, RequestIds, failure};
use crate::admission::{Permit, Refusal};
use crate::exchange::{Exchange, Order, Part};
use crate::keys::Caller;
use crate::metrics::{Account, Outcome, RequestKind, UNKNOWN_MODEL, count_failure};
use crate::migrate::AnswerLimits;
use crate::models::{Entry, ServedModel};
use crate::openai::request::Common;
use crate::openai::response::{Collected, NvextResponse, WholeAnswer};
use crate::openai::sse::{self, ChunkWriter};
use crate::openai::{
    ApiError, ChatCompletionRequest, CompletionRequest, ParseRules, parse_chat_by, parse_completion_by,
};
use crate::preprocess::Prepared;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use serde_json::Value;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Choices of one HTTP request, prompts times `n`. Each is a stream of its own at a worker.
const CHOICES_MAX: usize = 256;
/// Bodies up to this are parsed where they were read, some 50 µs; larger ones on a text thread.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(ids): Extension<RequestIds>,
    request: Request,
) -> Response {
    walk(app, ids, request, "chat_completions", |body, rules| parse_chat_by(body, rules).map(Asked::Chat)).await
}

/// `POST /v1/completions`.
pub(crate) async fn completion(
    State(app): State<Arc<App>>,
    Extension(ids): Extension<RequestIds>,
    request: Request,
) -> Response {
    walk(app, ids, request, "completions", |body, rules| parse_completion_by(body, rules).map(Asked::Completion)).await
}

type Parse = fn(&[u8], ParseRules) -> Result<Asked, ApiError>;

/// What was asked.
enum Asked {
    Chat(ChatCompletionRequest),
    Completion(CompletionRequest),
}

impl Asked {
    fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
            Self::Completion(request) => &request.model,
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Chat(request) => &request.common,
            Self::Completion(request) => &request.common,
        }
    }

    /// Puts the request's cached blocks out of reach of other tenants, whatever salt the client asks for.
    fn keep_to_tenant(&mut self, caller: &Caller) {
        let common = match self {
            Self::Chat(request) => &mut request.common,
            Self::Completion(request) => &mut request.common,
        };
        let Some(salt) = caller.cache_salt(common.nvext.cache_salt.as_deref()) else { return };
        // Engines behind Dynamo's wire read `nvext` as it came: it must not say otherwise.
        if let Some(Value::Object(raw)) = &mut common.nvext_raw {
            raw.insert("cache_salt".into(), Value::String(salt.clone()));
        }
        common.nvext.cache_salt = Some(salt);
    }

    /// The word of a card's `model_type`.
    fn offered_as(&self) -> &'static str {
        match self {
            Self::Chat(_) => "Chat",
            Self::Completion(_) => "Completions",
        }
    }

    fn prepare(&self, model: &ServedModel) -> Result<Vec<Prepared>, ApiError> {
        match self {
            Self::Chat(request) => model.text.prepare_chat(request, SystemTime::now()).map(|prepared| vec![prepared]),
            Self::Completion(request) => model.text.prepare_completion(request),
        }
    }
}

async fn walk(app: Arc<App>, ids: RequestIds, request: Request, endpoint: &'static str, parse: Parse) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    // From the door to the typed request: nothing is known of the model yet, so only failures are counted.
    let refuse = |error: ApiError| {
        count_failure(&app.metrics, Outcome::Failed(error.status));
        error.into_response()
    };
    let caller = match app.caller(&parts.headers) {
        Ok(caller) => caller,
        Err(error) => return refuse(error),
    };
    if app.is_draining() {
        return refuse(failure::unavailable("The frontend is shutting down"));
    }
    let not_admitted = |refusal| {
        let error = failure::not_admitted(refusal, app.admission.come_back());
        app.metrics.admission_rejected.with(&[error.code.unwrap_or_default()]).inc();
        error
    };
    if app.admission.is_full() {
        // Refused unread: what cannot be served should cost nothing, not even its body.
        let error = not_admitted(Refusal::QueueFull);
        count_failure(&app.metrics, Outcome::Failed(error.status));
        return Refused::Unread(error, body).into_response();
    }
    let read = match read::json_body(&app.config, &app.body_room, &parts.headers, body).await {
        Ok(read) => read,
        Err(refused) => {
            let response = refused.into_response();
            count_failure(&app.metrics, Outcome::Failed(response.status().as_u16()));
            return response;
        }
    };
    let permit = match app.admission.admit().await {
        Ok(permit) => permit,
        Err(refusal) => return refuse(not_admitted(refusal)),
    };
    let ReadBody { bytes, place } = read;
    let bytes_len = bytes.len();
    let asked = match parsed(&app, bytes, parse).await {
        Ok(asked) => asked,
        Err(error) => return refuse(error),
    };
    let request = Accepted { app, ids, caller, endpoint, started, permit, bytes_len, place };
    match request.generate(asked).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn parsed(app: &App, bytes: Bytes, parse: Parse) -> Result<Asked, ApiError> {
    let config = &app.config;
    let rules = ParseRules { ignore_unsupported: config.ignore_unsupported_fields, refuse_nvext: config.disable_nvext };
    if bytes.len() <= PARSE_INLINE_BYTES_MAX {
        return parse(&bytes, rules);
    }
    app.text_threads.run(bytes.len(), move || parse(&bytes, rules)).await
}

/// A request that was let in and understood.
struct Accepted {
    app: Arc<App>,
    ids: RequestIds,
    caller: Caller,
    endpoint: &'static str,
    started: Instant,
    permit: Permit,
    bytes_len: usize,
    /// Of the body, until it is tokens.
    place: BodyPlace,
}

impl Accepted {
    async fn generate(mut self, mut asked: Asked) -> Result<Response, ApiError> {
        let common = asked.common();
        let (stream, n) = (common.stream, common.n);
        let wanted = Wanted {
            usage_at_end: stream && (common.include_usage || self.app.config.force_include_usage),
            usage_on_each: common.continuous_usage,
            worker_id: common.nvext.wants_worker_id(),
            timing: common.nvext.wants_timing(),
        };
        let kind = RequestKind { endpoint: self.endpoint, stream };
        let model = match self.find(&asked).await {
            Ok(model) => model,
            Err(error) => {
                // Names that nobody serves share one label: clients must not make labels.
                let known = self.app.catalog.find(asked.model()).is_some();
                let label = if known { asked.model() } else { UNKNOWN_MODEL };
                self.account(self.app.metrics.model(label), kind).close(Outcome::Failed(error.status), None);
                return Err(error);
            }
        };
        let mut account = self.account(model.metrics.clone(), kind);
        asked.keep_to_tenant(&self.caller);
        let prepared = match self.prepare(asked, &model, n).await {
            Ok(prepared) => prepared,
            Err(error) => {
                account.close(Outcome::Failed(error.status), None);
                return Err(error);
            }
        };
        self.place = BodyPlace::default();
        let mut head = BytesMut::new();
        for (event, value) in prepared.iter().flat_map(|prompt| &prompt.annotations) {
            sse::annotation(&mut head, event, value);
        }
        let choices = prepared.len() * n as usize;
        let limits = &self.app.config.limits;
        let order = Order {
            dispatcher: self.app.dispatcher.clone(),
            model: model.clone(),
            prepared,
            n,
            request_id: self.ids.own,
            limits: AnswerLimits {
                token_timeout: limits.token_timeout,
                migration_max_seq_len: self.app.config.migration_max_seq_len,
            },
            request_timeout: limits.request_timeout,
            overload_status: self.app.config.http.overload_status,
            account,
        };
        let exchange = Exchange::open(order).await?;
        if stream {
            Ok(self.stream(exchange, &model, wanted, head))
        } else {
            self.whole(exchange, &model, wanted, choices).await
        }
    }

    fn account(&self, model: Arc<crate::metrics::ModelMetrics>, kind: RequestKind) -> Account {
        Account::open(&self.app.metrics, model, kind, self.caller.clone(), (self.ids.own, self.started))
    }

    /// The model that was asked for. One that is announced and has no worker yet, or no more, is waited for a while.
    async fn find(&self, asked: &Asked) -> Result<Arc<ServedModel>, ApiError> {
        let found = match self.app.catalog.find(asked.model()) {
            Some(Entry::NotReady(_)) => {
                let limits = &self.app.config.limits;
                let until = Instant::now() + limits.worker_wait_max.min(limits.request_timeout);
                let _waiting = self.app.metrics.wait_in_router(asked.model());
                let found = self.app.catalog.find_ready(asked.model(), until).await;
                if matches!(found, Some(Entry::NotReady(_))) {
                    self.app.metrics.model(asked.model()).waited_too_long.inc();
                }
                found
            }
            found => found,
        };
        let model = match found {
            None => return Err(ApiError::model_not_found(asked.model())),
            Some(Entry::NotReady(why)) => return Err(failure::not_ready(asked.model(), &why)),
            Some(Entry::Ready(model)) => model,
        };
        if !model.offers(asked.offered_as()) {
            let message = format!("Model {} does not serve {}", model.name, self.endpoint);
            return Err(ApiError::new(404, "invalid_request_error", message).with_param("model"));
        }
        Ok(model)
    }

    async fn prepare(&self, asked: Asked, model: &Arc<ServedModel>, n: u32) -> Result<Vec<Prepared>, ApiError> {
        let metrics = &self.app.metrics;
        let stage = metrics.stage_requests.with(&["", "preprocess"]);
        stage.inc();
        let (counted, model) = (model.metrics.clone(), model.clone());
        let work = move || {
            let start = Instant::now();
            asked.prepare(&model).map(|prepared| (prepared, start.elapsed()))
        };
        let result = self.app.text_threads.run(self.bytes_len, work).await;
        stage.dec();
        let (prepared, took) = result?;
        metrics.stage_duration.with(&["preprocess"]).observe(took.as_secs_f64());
        for prompt in &prepared {
            metrics.text_took(prompt.timing);
            if let Some(reuse) = prompt.reuse {
                metrics.tokens_looked_up(&counted, reuse);
            }
        }
        if prepared.len() * n as usize > CHOICES_MAX {
            let message =
                format!("{} prompts with n = {n} are over the {CHOICES_MAX} answers of one request", prepared.len());
            return Err(ApiError::invalid("n", message));
        }
        Ok(prepared)
    }

    /// `chatcmpl-…` or `cmpl-…`, and Unix seconds.
    fn names(&self) -> (String, u64) {
        let prefix = if self.endpoint == "completions" { "cmpl" } else { "chatcmpl" };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        (format!("{prefix}-{}", self.ids.own), created)
    }

    fn stream(self, exchange: Exchange, model: &ServedModel, wanted: Wanted, head: BytesMut) -> Response {
        let (id, created) = self.names();
        let writer = match self.endpoint {
            "completions" => ChunkWriter::completion(&id, &model.name, created),
            _ => ChunkWriter::chat(&id, &model.name, created),
        };
        let keep_alive = self.app.config.http.sse_keep_alive;
        let seat = self.app.open_streams.seat(self.permit);
        let body = EventStream::new(exchange, writer, wanted, head, keep_alive, seat);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        (headers, Body::new(body)).into_response()
    }

    async fn whole(
        self,
        mut exchange: Exchange,
        model: &ServedModel,
        wanted: Wanted,
        choices: usize,
    ) -> Result<Response, ApiError> {
        let mut collected = vec![Collected::default(); choices];
        let mut worker_id = None;
        while let Some(part) = poll_fn(|cx| exchange.poll_part(cx)).await {
            match part {
                Part::Failed(error) => return Err(error),
                Part::Raised { index, raised, worker } => {
                    worker_id = worker.or(worker_id);
                    if let Some(choice) = collected.get_mut(index as usize) {
                        choice.add(raised);
                    }
                }
            }
        }
        let nvext = (wanted.worker_id || wanted.timing).then(|| NvextResponse {
            worker_id: worker_id.filter(|_| wanted.worker_id),
            timing: wanted.timing.then(|| timing_of(&exchange)),
        });
        let (id, created) = self.names();
        let (usage, model) = (exchange.usage(), model.name.clone());
        let answer = WholeAnswer { id, model, created, choices: collected, usage, nvext };
        Ok(match self.endpoint {
            "completions" => axum::Json(answer.into_completion()).into_response(),
            _ => axum::Json(answer.into_chat()).into_response(),
        })
    }
}
