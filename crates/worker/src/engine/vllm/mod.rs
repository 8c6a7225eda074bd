//! vLLM as a guest: a stock `vllm serve`, attached to or started as a child, spoken to over HTTP with token ids, its
//! KV events read from its own ZMQ socket.
//!
//! [`attach`] takes a server that runs; [`spawn`] starts one and owns it. Source: vLLM 0.32.0 recorded on a CPU
//! (`tests/data/vllm`); it was not run on a GPU here.
//!
//! What a guest of this kind cannot tell: a prompt's cached tokens come with its last output, not its first, and only
//! when the server has `--enable-prompt-tokens-details`; a request that vLLM itself refuses (a bad regex, say) fails
//! as a stream.
//!
//! Start with [`server`] (the engine), then [`completion`] and [`answer`] (one sequence), [`events`] (its cache),
//! [`watch`] and [`progress`] (whether it goes forward), [`process`] and [`keeper`] (its life as a child).

mod answer;
mod child_log;
mod client;
mod command_line;
mod completion;
mod error;
mod events;
mod first;
mod generate;
mod keeper;
mod kv_events;
mod kv_translate;
mod places;
mod process;
mod progress;
mod scrape;
mod served;
mod server;
mod sse;
mod watch;
mod zmq_socket;

use super::{EngineProfile, KV_CHANGE_QUEUE_LEN, StartedEngine};
use client::Client;
use completion::{Api, Dialect, Version};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub use client::{ApiKey, EventSource};
pub use error::VllmError;
pub use keeper::{KEEP_VERB, keep};
pub use process::{DEFAULT_READY_WITHIN, SpawnConfig};
pub use served::{Served, events_at, served};

/// The oldest vLLM that is taken: the first whose answers name their tokens (`return_token_ids`).
const OLDEST: Version = (0, 10, 2);

/// Sequences at once that vLLM takes unless told (`--max-num-seqs`); the server does not say it over HTTP.
const DEFAULT_MAX_NUM_SEQS: u32 = 256;

/// Tokens a step of vLLM unless told (`--max-num-batched-tokens`); the server does not say it over HTTP.
const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 8192;

/// A server that runs already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachConfig {
    /// `http://HOST:PORT`.
    pub url: String,
    /// As the server was started with; vLLM's default when absent.
    pub max_num_seqs: Option<u32>,
    /// As the server was started with; vLLM's default when absent.
    pub max_num_batched_tokens: Option<u32>,
    /// How long to wait until the server is healthy.
    pub ready_within: Duration,
    /// Names of the model that is wanted, any of which the server must serve; any model when empty.
    pub wanted: Vec<String>,
    /// Where it tells of its KV cache, for a server that does not say so itself (before 0.32).
    pub events: Option<EventSource>,
    /// The key that the server asks for, if any.
    pub api_key: Option<ApiKey>,
}

impl AttachConfig {
    /// The server at `url`, with the defaults of the rest.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_num_seqs: None,
            max_num_batched_tokens: None,
            ready_within: Duration::from_secs(10),
            wanted: Vec::new(),
            events: None,
            api_key: None,
        }
    }
}

/// Whether this machine can run vLLM on a GPU: an NVIDIA device, and `vllm` in PATH.
pub fn vllm_available() -> bool {
    gpu_available() && in_path("vllm", std::env::var_os("PATH").as_deref()).is_some()
}

/// Whether this machine has an NVIDIA device.
pub fn gpu_available() -> bool {
    has_gpu(Path::new("/dev"))
}

/// `nvidia0` … in the devices' folder: what a container with a GPU has too.
fn has_gpu(devices: &Path) -> bool {
    (0..16).any(|index| devices.join(format!("nvidia{index}")).exists())
}

fn in_path(program: &str, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Takes a server that runs. Stopping the engine leaves it running.
///
/// # Errors
/// A server that is not healthy in time, or does not tell its model and its cache's sizes.
pub async fn attach(config: AttachConfig) -> Result<StartedEngine, VllmError> {
    let client = Client::new(&config.url, config.api_key.as_ref())?;
    client.wait_healthy(config.ready_within).await?;
    let device = if gpu_available() { "cuda" } else { "cpu" };
    start(client, &config, device, None).await
}

/// Starts `vllm serve` as a child and takes it. Stopping the engine stops it.
///
/// # Errors
/// A program that cannot be started, ends at once or is not healthy in time; the child is gone then.
pub async fn spawn(config: SpawnConfig) -> Result<StartedEngine, VllmError> {
    let (child, attach) = process::start(&config).await?;
    let client = Client::new(&attach.url, attach.api_key.as_ref())?;
    let device = if gpu_available() { "cuda" } else { "cpu" };
    start(client, &attach, device, Some(child)).await
}

/// Asks a healthy server what it is, lets it make a token, and starts what watches it.
async fn start(
    client: Client,
    config: &AttachConfig,
    device: &'static str,
    child: Option<process::Server>,
) -> Result<StartedEngine, VllmError> {
    let version = client.version().await?;
    let served = client.model().await?;
    served::check(client.url(), &served, &config.wanted)?;
    let model = served.names[0].clone();
    let (block_size, total_kv_blocks) = client.cache_sizes().await?;
    let profile = EngineProfile {
        engine: "vllm",
        device,
        context_length: served.context_length,
        block_size,
        total_kv_blocks,
        max_num_seqs: config.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS),
        max_num_batched_tokens: config.max_num_batched_tokens.unwrap_or(DEFAULT_MAX_NUM_BATCHED_TOKENS),
    };
    let api = client.api().await?;
    let sampling_defaults = match api {
        Api::Generate => client.sampling_defaults(&model).await,
        Api::Completions => serde_json::Map::new(),
    };
    let dialect = Dialect { api, model, context_length: served.context_length, version, sampling_defaults };
    first::warm_up(&client, &dialect).await?;
    let pace = first::token(&client, &dialect).await?;
    tracing::info!(
        url = client.url(),
        model = dialect.model,
        ?version,
        api = api.path(),
        prefill_tokens_per_second = pace.round(),
        ?profile,
        "vLLM is taken"
    );
    let source = client.kv_event_source().await?.or_else(|| config.events.clone());
    let (sender, kv_changes) = mpsc::channel(KV_CHANGE_QUEUE_LEN);
    let engine = Arc::new(server::VllmEngine::new(client, profile, dialect));
    engine.watch(source, pace, sender, child);
    Ok(StartedEngine { engine, kv_changes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_path_or_it_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vllm"), "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert_eq!(in_path("vllm", Some(&path)), Some(dir.path().join("vllm")));
        assert_eq!(in_path("vllm", Some(std::ffi::OsStr::new("/nowhere"))), None);
        assert_eq!(in_path("vllm", None), None);
    }

    #[test]
    fn a_gpu_is_a_device_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("nvidiactl"), "").unwrap();
        assert!(!has_gpu(dir.path()), "the driver alone is no GPU");
        std::fs::write(dir.path().join("nvidia3"), "").unwrap();
        assert!(has_gpu(dir.path()));
    }
}
