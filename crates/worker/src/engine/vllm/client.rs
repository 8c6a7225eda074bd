//! The HTTP questions to a vLLM server.

use super::VllmError;
use super::answer::Chunk;
use super::completion::{self, Api, Version};
use super::{generate, scrape, sse};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// For what a healthy server answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// For a look at its counters, of which the next comes soon.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer that is read: `/metrics` has 64 KiB, more with many adapters.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest text of a refusal that is read; it goes to the client.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Between two looks at a server that is not healthy yet.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// One server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    url: String,
}

/// What a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedByVllm {
    /// The base model's names; the first is used.
    pub(crate) names: Vec<String>,
    /// The folder or repository that it was started with.
    pub(crate) root: Option<String>,
    pub(crate) context_length: u32,
}

/// Where a server tells of its KV cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSource {
    /// `tcp://HOST:PORT` or `ipc://PATH` of the PUB socket.
    pub endpoint: String,
    /// The same of the ROUTER socket that tells earlier messages again, if there is one.
    pub replay: Option<String>,
    /// What the messages begin with.
    pub topic: String,
}

/// The key that a server asks for (`--api-key`, `VLLM_API_KEY`). It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(pub String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Why a stream did not begin or did not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// vLLM says that the request is wrong.
    #[error("{0}")]
    Refused(String),
    /// The server is gone, broken or full.
    #[error("vLLM does not answer: {0}")]
    Broken(String),
}

impl Client {
    /// The server at `url`, asked with `key` where it wants one.
    pub(crate) fn new(url: &str, key: Option<&ApiKey>) -> Result<Self, VllmError> {
        let parsed = reqwest::Url::parse(url).ok().filter(|parsed| parsed.has_host());
        if parsed.is_none() {
            return Err(VllmError::Url(url.to_owned()));
        }
        let mut headers = HeaderMap::new();
        if let Some(ApiKey(key)) = key {
            let bearer = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| VllmError::Key)?;
            headers.insert(AUTHORIZATION, bearer);
        }
        // A guest is a neighbour: no proxy stands between.
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).connect_timeout(QUESTION_TIMEOUT);
        let http = http.default_headers(headers).build();
        let http = http.map_err(|source| VllmError::Http { url: url.to_owned(), source })?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The host alone, for sockets beside the HTTP one.
    pub(crate) fn host(&self) -> String {
        let host = reqwest::Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_else(|| "127.0.0.1".into())
    }

    /// Whether it says that it is healthy, else why not.
    async fn health(&self) -> Result<(), String> {
        let answer = self.http.get(format!("{}/health", self.url)).timeout(QUESTION_TIMEOUT).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("/health answers {}", answer.status())),
            Err(error) => Err(root_cause(&error)),
        }
    }

    /// Why the server cannot serve any more, where it says so itself (503 of a dead engine) or nobody listens; one that
    /// is only slow to answer is not dead.
    pub(crate) async fn death(&self) -> Option<String> {
        match self.http.get(format!("{}/health", self.url)).timeout(LOOK_TIMEOUT).send().await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("/health answers {}", answer.status())),
            Err(error) => (error.is_connect() && !error.is_timeout()).then(|| root_cause(&error)),
        }
    }

    pub(crate) async fn wait_healthy(&self, within: Duration) -> Result<(), VllmError> {
        let mut why = "it does not answer".to_owned();
        let healthy = async {
            while let Err(reason) = self.health().await {
                why = reason;
                tokio::time::sleep(HEALTH_INTERVAL).await;
            }
        };
        let in_time = tokio::time::timeout(within, healthy).await;
        in_time.map_err(|_| VllmError::NotReady { url: self.url.clone(), seconds: within.as_secs(), why })
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, VllmError> {
        let url = format!("{}{path}", self.url);
        let answer = self.http.get(&url).timeout(QUESTION_TIMEOUT).send().await;
        answer.map_err(|source| VllmError::Http { url, source })
    }

    async fn json(&self, path: &str) -> Result<Value, VllmError> {
        let url = format!("{}{path}", self.url);
        let answer = self.get(path).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(VllmError::Refused { url });
        }
        json(answer.error_for_status(), url).await
    }

    fn unknown(&self, path: &str, what: &'static str) -> VllmError {
        VllmError::Unknown { url: format!("{}{path}", self.url), what }
    }

    /// The base model; adapters have a parent.
    pub(crate) async fn model(&self) -> Result<ServedByVllm, VllmError> {
        let path = "/v1/models";
        let models = self.json(path).await?;
        let base: Vec<&Value> =
            models["data"].as_array().into_iter().flatten().filter(|model| model["parent"].is_null()).collect();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let names: Vec<String> = base.iter().filter_map(|model| text(&model["id"])).collect();
        let first = base.first().filter(|_| !names.is_empty()).ok_or_else(|| self.unknown(path, "a base model"))?;
        let length = first["max_model_len"].as_u64().and_then(|n| u32::try_from(n).ok());
        let context_length = length.ok_or_else(|| self.unknown(path, "max_model_len"))?;
        Ok(ServedByVllm { names, root: text(&first["root"]), context_length })
    }

    /// Its version.
    ///
    /// # Errors
    /// [`VllmError::TooOld`] when it cannot say which token ids it made.
    pub(crate) async fn version(&self) -> Result<Version, VllmError> {
        let answer = self.json("/version").await?;
        let text = answer["version"].as_str().unwrap_or_default();
        let version = completion::version(text);
        if version < super::OLDEST {
            return Err(VllmError::TooOld { url: self.url.clone(), version: text.to_owned() });
        }
        Ok(version)
    }

    /// Where sequences are asked for: the generate API where the server has it. Asked by a POST without a body, which
    /// computes nothing: it is malformed where the API is served. A server started without `--enable-scale-out` has the
    /// route too, and says 403 to it (0.32.0); an older one says 404.
    pub(crate) async fn api(&self) -> Result<Api, VllmError> {
        let url = format!("{}{}", self.url, Api::Generate.path());
        let answer = self.http.post(&url).timeout(QUESTION_TIMEOUT).send().await;
        let status = answer.map_err(|source| VllmError::Http { url, source })?.status();
        let malformed = matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        Ok(if malformed { Api::Generate } else { Api::Completions })
    }

    /// The sampling parameters of the model's generation config, of a server with the generate API.
    pub(crate) async fn sampling_defaults(&self, model: &str) -> Map<String, Value> {
        let body = json!({"model": model, "prompt": [0], "max_tokens": 1});
        let url = format!("{}/v1/completions/render", self.url);
        let answer = self.http.post(&url).json(&body).timeout(QUESTION_TIMEOUT).send().await;
        match json(answer.and_then(reqwest::Response::error_for_status), url).await {
            Ok(rendered) => generate::sampling_defaults(&rendered),
            Err(error) => {
                tracing::warn!(%error, "vLLM does not tell the model's sampling defaults; requests without their own use vLLM's neutral ones");
                Map::new()
            }
        }
    }

    /// The text of `/metrics`, soon or not at all.
    pub(crate) async fn metrics(&self) -> Result<String, VllmError> {
        let url = format!("{}/metrics", self.url);
        let answer = self.http.get(&url).timeout(LOOK_TIMEOUT).send().await;
        let text = bytes(answer.and_then(reqwest::Response::error_for_status), url, ANSWER_BYTES_MAX).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) async fn cache_sizes(&self) -> Result<(u32, u64), VllmError> {
        let unknown = || self.unknown("/metrics", "vllm:cache_config_info with block_size and num_gpu_blocks");
        scrape::cache_sizes(&self.metrics().await?).ok_or_else(unknown)
    }

    /// Where the first rank tells of its KV cache; `None` when it does not, or when the server is too old to say.
    pub(crate) async fn kv_event_source(&self) -> Result<Option<EventSource>, VllmError> {
        let answer = self.get("/kv_event_sources").await?;
        // Servers before 0.32 do not have the page.
        let Ok(sources) = json(Ok(answer), String::new()).await else { return Ok(None) };
        let Some(ranks) = sources.as_object() else { return Ok(None) };
        if ranks.len() > 1 {
            tracing::warn!(
                ranks = ranks.len(),
                "only rank 0 of a data-parallel vLLM is followed; the others serve without KV events"
            );
        }
        Ok(ranks.get("0").and_then(|source| event_source(source, &self.host())))
    }

    /// Starts one sequence; the items are the chunks of its stream.
    pub(crate) async fn complete(
        &self,
        api: Api,
        body: &Value,
    ) -> Result<BoxStream<'static, Result<Chunk, StreamError>>, StreamError> {
        let broken = |error: reqwest::Error| StreamError::Broken(root_cause(&error));
        let answer = self.http.post(format!("{}{}", self.url, api.path())).json(body).send().await.map_err(broken)?;
        let status = answer.status();
        if is_refusal(status) {
            let text = bytes(Ok(answer), String::new(), REFUSAL_BYTES_MAX).await.unwrap_or_default();
            return Err(StreamError::Refused(refusal(&String::from_utf8_lossy(&text))));
        }
        if !status.is_success() {
            return Err(StreamError::Broken(format!("HTTP {status}")));
        }
        Ok(sse::chunks(answer.bytes_stream().map(move |part| part.map_err(broken)).boxed()))
    }
}

/// The bytes of an answer, at most `max`.
async fn bytes(answer: reqwest::Result<reqwest::Response>, url: String, max: usize) -> Result<Vec<u8>, VllmError> {
    let failed = |source| VllmError::Http { url: url.clone(), source };
    let mut answer = answer.map_err(failed)?;
    let mut all = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(failed)? {
        if all.len() + part.len() > max {
            return Err(VllmError::NotVllm { url, why: format!("its answer is longer than {max} bytes") });
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

async fn json(answer: reqwest::Result<reqwest::Response>, url: String) -> Result<Value, VllmError> {
    let text = bytes(answer, url.clone(), ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&text).map_err(|error| VllmError::NotVllm { url, why: format!("no JSON: {error}") })
}

/// Whether an answer says that the request is wrong. One that says "not now" may be served elsewhere.
fn is_refusal(status: StatusCode) -> bool {
    let not_now = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_client_error() && !not_now
}

/// What lies at the bottom of an error: `Connection refused (os error 111)` and not `error sending request`.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The message of an error body, or the body.
fn refusal(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let message = value.as_ref().and_then(|value| value.pointer("/error/message").or(value.get("message")));
    message.and_then(Value::as_str).map_or_else(|| text.to_owned(), str::to_owned)
}

/// Where one rank publishes, as somebody elsewhere dials it; `source` is vLLM's `KVEventsConfig`.
pub(crate) fn event_source(source: &Value, host: &str) -> Option<EventSource> {
    let publishes = source["enable_kv_cache_events"] == true && source["publisher"].as_str().is_none_or(|p| p == "zmq");
    let dialled = |key: &str| source[key].as_str().map(|text| text.replace("://*", &format!("://{host}")));
    let topic = source["topic"].as_str().unwrap_or_default().to_owned();
    publishes.then_some(EventSource { endpoint: dialled("endpoint")?, replay: dialled("replay_endpoint"), topic })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_socket_is_dialled_at_the_servers_host() {
        let mut source = json!({"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5557",
            "replay_endpoint": "tcp://*:5558", "topic": "kv"});
        let at = |source: &Value| event_source(source, "10.0.0.7");
        let expected = EventSource {
            endpoint: "tcp://10.0.0.7:5557".into(),
            replay: Some("tcp://10.0.0.7:5558".into()),
            topic: "kv".into(),
        };
        assert_eq!(at(&source), Some(expected.clone()));
        source["replay_endpoint"] = Value::Null;
        assert_eq!(at(&source), Some(EventSource { replay: None, ..expected }));
        source["enable_kv_cache_events"] = json!(false);
        assert_eq!(at(&source), None);
    }

    #[test]
    fn a_refusal_is_told_in_vllms_words() {
        assert_eq!(refusal(r#"{"error":{"message":"bad regex","code":400}}"#), "bad regex");
        assert_eq!(refusal(r#"{"message":"older","code":400}"#), "older");
        assert_eq!(refusal("plain"), "plain");
    }

    #[test]
    fn a_url_needs_a_host() {
        let client = |url| Client::new(url, None);
        assert!(client("http://127.0.0.1:8000/").is_ok_and(|client| client.url() == "http://127.0.0.1:8000"));
        for bad in ["127.0.0.1:8000", "localhost", ""] {
            assert!(matches!(client(bad), Err(VllmError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn a_key_is_not_shown_and_must_fit_into_a_header() {
        let key = ApiKey("secret".into());
        assert!(!format!("{key:?}").contains("secret"));
        assert!(Client::new("http://x", Some(&key)).is_ok());
        assert!(matches!(Client::new("http://x", Some(&ApiKey("a\nb".into()))), Err(VllmError::Key)));
    }

    #[test]
    fn only_a_wrong_request_is_refused_for_good() {
        let refused = |code| is_refusal(StatusCode::from_u16(code).unwrap());
        assert!([400, 404, 413, 422].into_iter().all(refused));
        assert!(![200, 401, 403, 408, 429, 500, 503].into_iter().any(refused), "another worker may serve it");
    }
}
