//! What every scene needs: a frontend on any port, workers in one memory store, and a way to wait.

use crate::scripted_worker::{ScriptedWorker, WorkerPlan};
use frontend::{Frontend, FrontendConfig, RouterMode};
use runtime::discovery::Discovery;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything; only a defect reaches it.
const CAP: Duration = Duration::from_secs(30);

pub(crate) fn model_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-bpe")
}

/// A frontend with its store.
pub(crate) struct Stage {
    pub(crate) frontend: Frontend,
    pub(crate) discovery: Discovery,
    pub(crate) http: reqwest::Client,
    _files: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut FrontendConfig)) -> Self {
        Self::on(Discovery::memory(), change).await
    }

    /// One more frontend before the same workers.
    pub(crate) async fn beside(other: &Self, change: impl FnOnce(&mut FrontendConfig)) -> Self {
        Self::on(other.discovery.member(), change).await
    }

    async fn on(discovery: Discovery, change: impl FnOnce(&mut FrontendConfig)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut config = FrontendConfig { model_cache: Some(files.path().to_owned()), ..FrontendConfig::default() };
        config.http.port = 0;
        config.http.admin_port = 0;
        config.response_host = Some("127.0.0.1".into());
        config.event_host = Some("127.0.0.1".into());
        change(&mut config);
        let frontend = frontend::start(config, discovery.clone()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(CAP).build().unwrap();
        Self { frontend, discovery, http, _files: files }
    }

    pub(crate) async fn kv() -> Self {
        Self::with(|config| config.router.mode = RouterMode::Kv).await
    }

    /// A worker of model `m` that is registered and served.
    pub(crate) async fn worker(&self, plan: WorkerPlan) -> ScriptedWorker {
        let worker = ScriptedWorker::start(&self.discovery, plan).await;
        let id = format!("{:x}", worker.instance.0);
        self.until("the worker is served", || async {
            let snapshot = self.snapshot().await;
            let here = snapshot["workers"].as_array().unwrap().iter().any(|w| w["worker_id"] == id.as_str());
            (here && snapshot["models"][0]["ready"] == true).then_some(())
        })
        .await;
        worker
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.frontend.address())
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.frontend.admin_address())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.http.post(self.url(path)).json(body).send().await.unwrap()
    }

    pub(crate) async fn chat(&self, body: &Value) -> reqwest::Response {
        self.post("/v1/chat/completions", body).await
    }

    pub(crate) async fn snapshot(&self) -> Value {
        self.http.get(self.admin_url("/status/snapshot")).send().await.unwrap().json().await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        self.http.get(self.admin_url("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// The value of the series that begins with `series`.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// Waits until `probe` gives something.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, probe: impl Fn() -> F) -> T {
        until(what, probe).await
    }
}

pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, probe: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < CAP, "waited {CAP:?} until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn ask(content: &str, more: &Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": content }], "max_tokens": 16 });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// The data of every event of a stream, `[DONE]` included.
pub(crate) async fn events(response: reqwest::Response) -> Vec<String> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = tokio::time::timeout(CAP, response.text()).await.unwrap().unwrap();
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The text of choice `index`, put together.
pub(crate) fn text_of(events: &[String], index: u64) -> String {
    let mut text = String::new();
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).unwrap();
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            if choice["index"] == index {
                text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            }
        }
    }
    text
}

/// Status and error object of a refusal.
pub(crate) async fn error_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"), "every answer has an id");
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].is_string(), "OpenAI's error object: {body}");
    (status, body["error"].clone())
}
