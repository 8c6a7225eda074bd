//! The HTTP questions to a vLLM server.

use super::VllmError;
use super::completion::{self, Chunk};
use super::scrape;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;
use std::time::Duration;

/// A line of the stream. The first chunk repeats the prompt's token ids: up to 8 bytes each of a million.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// For what a healthy server answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

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
pub(crate) struct ServedByVllm {
    pub(crate) name: String,
    pub(crate) context_length: u32,
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

    pub(crate) async fn healthy(&self) -> bool {
        let answer = self.http.get(format!("{}/health", self.url)).timeout(QUESTION_TIMEOUT).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn wait_healthy(&self, within: Duration) -> Result<(), VllmError> {
        let healthy = async {
            while !self.healthy().await {
                tokio::time::sleep(HEALTH_INTERVAL).await;
            }
        };
        let not_ready = || VllmError::NotReady { url: self.url.clone(), seconds: within.as_secs() };
        tokio::time::timeout(within, healthy).await.map_err(|_| not_ready())
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
        let base = models["data"].as_array().and_then(|all| all.iter().find(|model| model["parent"].is_null()));
        let base = base.ok_or_else(|| self.unknown(path, "a base model"))?;
        let name = base["id"].as_str().ok_or_else(|| self.unknown(path, "the model's name"))?;
        let length = base["max_model_len"].as_u64().and_then(|n| u32::try_from(n).ok());
        let context_length = length.ok_or_else(|| self.unknown(path, "max_model_len"))?;
        Ok(ServedByVllm { name: name.to_owned(), context_length })
    }

    pub(crate) async fn version(&self) -> Result<(u32, u32), VllmError> {
        let answer = self.json("/version").await?;
        Ok(completion::version(answer["version"].as_str().unwrap_or_default()))
    }

    pub(crate) async fn metrics(&self) -> Result<String, VllmError> {
        let failed = |source| VllmError::Http { url: format!("{}/metrics", self.url), source };
        self.get("/metrics").await?.error_for_status().map_err(failed)?.text().await.map_err(failed)
    }

    pub(crate) async fn cache_sizes(&self) -> Result<(u32, u64), VllmError> {
        let unknown = || self.unknown("/metrics", "vllm:cache_config_info with block_size and num_gpu_blocks");
        scrape::cache_sizes(&self.metrics().await?).ok_or_else(unknown)
    }

    /// `tcp://HOST:PORT` and topic of the first rank's KV events; `None` when the server publishes none.
    pub(crate) async fn kv_event_source(&self) -> Result<Option<(String, String)>, VllmError> {
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
        body: &Value,
    ) -> Result<BoxStream<'static, Result<Chunk, StreamError>>, StreamError> {
        let broken = |error: reqwest::Error| StreamError::Broken(error.to_string());
        let answer = self.http.post(format!("{}/v1/completions", self.url)).json(body).send().await.map_err(broken)?;
        let status = answer.status();
        if status.is_client_error() {
            let text = answer.text().await.unwrap_or_default();
            return Err(StreamError::Refused(refusal(&text)));
        }
        if !status.is_success() {
            return Err(StreamError::Broken(format!("HTTP {status}")));
        }
        let bytes = answer.bytes_stream().map(move |part| part.map_err(broken)).boxed();
        Ok(futures::stream::unfold((bytes, Lines::default()), next_chunk).boxed())
    }
}

/// The message of an error body, or the body.
fn refusal(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let message = value.as_ref().and_then(|value| value.pointer("/error/message").or(value.get("message")));
    message.and_then(Value::as_str).map_or_else(|| text.to_owned(), str::to_owned)
}

/// Where one rank publishes, as somebody elsewhere dials it.
fn event_source(source: &Value, host: &str) -> Option<(String, String)> {
    if source["enable_kv_cache_events"] != true || source["publisher"] != "zmq" {
        return None;
    }
    let endpoint = source["endpoint"].as_str()?.replace("://*", &format!("://{host}"));
    Some((endpoint, source["topic"].as_str().unwrap_or_default().to_owned()))
}

type Parts = BoxStream<'static, Result<bytes::Bytes, StreamError>>;

/// The next chunk of the stream; the stream ends at `[DONE]` or with the connection.
async fn next_chunk((mut parts, mut lines): (Parts, Lines)) -> Option<(Result<Chunk, StreamError>, (Parts, Lines))> {
    loop {
        while let Some(line) = lines.next() {
            let Some(data) = line.strip_prefix("data:") else { continue };
            if data.trim() == "[DONE]" {
                return None;
            }
            let chunk = serde_json::from_str(data).map_err(|error| StreamError::Broken(format!("a chunk: {error}")));
            return Some((chunk, (parts, lines)));
        }
        match parts.next().await? {
            Ok(part) => {
                if let Err(error) = lines.push(&part) {
                    return Some((Err(error), (parts, lines)));
                }
            }
            Err(error) => return Some((Err(error), (parts, lines))),
        }
    }
}

/// Bytes in, whole lines out.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, part: &[u8]) -> Result<(), StreamError> {
        if self.buffer.len() + part.len() > LINE_BYTES_MAX {
            return Err(StreamError::Broken(format!("a line of over {LINE_BYTES_MAX} bytes")));
        }
        self.buffer.extend_from_slice(part);
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n').map(|at| at + self.searched);
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).trim_end_matches('\r').to_owned();
        self.buffer.drain(..=end);
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for byte in b"data: 1\r\n\ndata: \xc3\xa9\nrest" {
            lines.push(&[*byte]).unwrap();
            all.extend(std::iter::from_fn(|| lines.next()));
        }
        assert_eq!(all, ["data: 1", "", "data: é"]);
        assert!(lines.push(&vec![b'x'; LINE_BYTES_MAX]).is_err());
    }

    #[test]
    fn the_event_socket_is_dialled_at_the_servers_host() {
        let mut source =
            json!({"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5557", "topic": "kv"});
        let at = |source: &Value| event_source(source, "10.0.0.7");
        assert_eq!(at(&source), Some(("tcp://10.0.0.7:5557".into(), "kv".into())));
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
