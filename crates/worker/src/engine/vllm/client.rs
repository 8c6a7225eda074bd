//! The HTTP questions to a vLLM server.

use super::VllmError;
use super::answer::Chunk;
use super::completion::{self, Api, Version};
use super::{generate, scrape, sse};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// For what a healthy server answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// For a look at its counters, of which the next comes soon.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// `tcp://HOST:PORT` of the PUB socket.
    pub endpoint: String,
    /// `tcp://HOST:PORT` of the ROUTER socket that tells earlier messages again, if there is one.
    pub replay: Option<String>,
    /// What the messages begin with.
    pub topic: String,
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
    pub(crate) fn new(url: &str) -> Result<Self, VllmError> {
        let parsed = reqwest::Url::parse(url).ok().filter(|parsed| parsed.has_host());
        if parsed.is_none() {
            return Err(VllmError::Url(url.to_owned()));
        }
        // A guest is a neighbour: no proxy stands between.
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).connect_timeout(QUESTION_TIMEOUT).build();
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
        let failed = |source| VllmError::Http { url: format!("{}{path}", self.url), source };
        self.get(path).await?.error_for_status().map_err(failed)?.json().await.map_err(failed)
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
    /// computes nothing: a server started without `--enable-scale-out` has the route too, and says 403 to it (0.32.0).
    pub(crate) async fn api(&self) -> Result<Api, VllmError> {
        let url = format!("{}{}", self.url, Api::Generate.path());
        let answer = self.http.post(&url).timeout(QUESTION_TIMEOUT).send().await;
        let status = answer.map_err(|source| VllmError::Http { url, source })?.status();
        let lacks = matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        Ok(if lacks { Api::Completions } else { Api::Generate })
    }

    /// The sampling parameters of the model's generation config, of a server with the generate API.
    pub(crate) async fn sampling_defaults(&self, model: &str) -> Map<String, Value> {
        let body = json!({"model": model, "prompt": [0], "max_tokens": 1});
        let url = format!("{}/v1/completions/render", self.url);
        let answer = async {
            let answer = self.http.post(url).json(&body).timeout(QUESTION_TIMEOUT).send().await?;
            answer.error_for_status()?.json::<Value>().await
        };
        match answer.await {
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
        let answer = async { self.http.get(&url).timeout(LOOK_TIMEOUT).send().await?.error_for_status()?.text().await };
        answer.await.map_err(|source| VllmError::Http { url: url.clone(), source })
    }

    pub(crate) async fn cache_sizes(&self) -> Result<(u32, u64), VllmError> {
        let unknown = || self.unknown("/metrics", "vllm:cache_config_info with block_size and num_gpu_blocks");
        scrape::cache_sizes(&self.metrics().await?).ok_or_else(unknown)
    }

    /// Where the first rank tells of its KV cache; `None` when it does not, or when the server is too old to say.
    pub(crate) async fn kv_event_source(&self) -> Result<Option<EventSource>, VllmError> {
        let answer = self.get("/kv_event_sources").await?;
        // Servers before 0.32 do not have the page.
        let Ok(sources) = answer.json::<Value>().await else { return Ok(None) };
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
        if status.is_client_error() {
            let text = answer.text().await.unwrap_or_default();
            return Err(StreamError::Refused(refusal(&text)));
        }
        if !status.is_success() {
            return Err(StreamError::Broken(format!("HTTP {status}")));
        }
        Ok(sse::chunks(answer.bytes_stream().map(move |part| part.map_err(broken)).boxed()))
    }
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
        assert!(Client::new("http://127.0.0.1:8000/").is_ok_and(|client| client.url() == "http://127.0.0.1:8000"));
        for bad in ["127.0.0.1:8000", "localhost", ""] {
            assert!(matches!(Client::new(bad), Err(VllmError::Url(_))), "{bad}");
        }
    }
}
