//! Whether a frontend serves, asked over HTTP as a user would.

use serde::Deserialize;
use std::time::Duration;

/// What a frontend says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Models that it lists.
    pub models: Vec<String>,
    /// It asks for an API key, and keeps the list from us: whether a model is listed cannot be known.
    pub hidden: bool,
    /// Worker instances that it knows.
    pub instances: usize,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[derive(Default, Deserialize)]
struct Health {
    #[serde(default)]
    instances: Vec<serde_json::Value>,
}

/// Asks the frontend at `base_url`. `None` while it does not answer.
pub async fn ask(client: &reqwest::Client, base_url: &str) -> Option<Readiness> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let get = |path: &str| client.get(format!("{base_url}{path}")).timeout(TIMEOUT).send();
    let health: Health = get("/health").await.ok()?.json().await.ok()?;
    let response = get("/v1/models").await.ok()?;
    let hidden = response.status() == reqwest::StatusCode::UNAUTHORIZED;
    // With API keys on, the list is not ours to read; the health route still counts the workers.
    let models =
        if response.status().is_success() { response.json::<Models>().await.ok()? } else { Models { data: vec![] } };
    let generate = |instance: &&serde_json::Value| {
        instance.get("endpoint").and_then(|e| e.as_str()).is_none_or(|endpoint| endpoint == "generate")
    };
    Some(Readiness {
        hidden,
        models: models.data.into_iter().map(|m| m.id).collect(),
        instances: health.instances.iter().filter(generate).count(),
    })
}
