//! vLLM as a guest: a stock `vllm serve`, attached to or started as a child, spoken to over HTTP with token ids, its
//! KV events read from its own ZMQ socket.
//!
//! [`attach`] takes a server that runs; [`spawn`] starts one and owns it. Source: vLLM 0.32.0 recorded on a CPU
//! (`tests/data/vllm`); it was not run on a GPU here.
//!
//! What a guest of this kind cannot tell: a prompt's cached tokens come with its last output, not its first, and only
//! when the server has `--enable-prompt-tokens-details`; a request that vLLM itself refuses (a bad regex, say) fails
//! as a stream. Events lost on the way are not replayed: the cache counts as empty from there on and fills again.

mod client;
mod completion;
mod events;
mod kv_events;
mod kv_translate;
mod process;
mod scrape;
mod server;

use super::{EngineProfile, KV_CHANGE_QUEUE_LEN, StartedEngine};
use client::Client;
use completion::Dialect;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub use process::{DEFAULT_READY_WITHIN, SpawnConfig};

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
}

impl AttachConfig {
    /// The server at `url`, with the defaults of the rest.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_num_seqs: None,
            max_num_batched_tokens: None,
            ready_within: Duration::from_secs(30),
        }
    }
}

/// Why vLLM is not there.
#[derive(Debug, thiserror::Error)]
pub enum VllmError {
    /// The program cannot be started.
    #[error("start `{program}`; install vLLM, or give the path of its `vllm` command")]
    Start {
        /// What was started.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("`vllm serve` ended before it was ready ({0}); its own output above says why")]
    Ended(std::process::ExitStatus),
    /// It is not healthy in time.
    #[error("vLLM at {url} is not healthy after {seconds} s")]
    NotReady {
        /// Where.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It does not answer as vLLM does.
    #[error("ask vLLM at {url}")]
    Http {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer lacks what is needed.
    #[error("vLLM at {url} does not tell {what}; is it vLLM 0.10 or later?")]
    Unknown {
        /// What was asked.
        url: String,
        /// What is missing.
        what: &'static str,
    },
    /// A URL that is none.
    #[error("`{0}` is no URL of a vLLM server; write http://HOST:PORT")]
    Url(String),
}

/// Whether this machine can run vLLM on a GPU: an NVIDIA device, and `vllm` in PATH.
pub fn vllm_available() -> bool {
    has_gpu(Path::new("/dev")) && in_path("vllm", std::env::var_os("PATH").as_deref()).is_some()
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
    let client = Client::new(&config.url)?;
    client.wait_healthy(config.ready_within).await?;
    let device = if has_gpu(Path::new("/dev")) { "cuda" } else { "cpu" };
    start(client, &config, device, None).await
}

/// Starts `vllm serve` as a child and takes it. Stopping the engine stops it.
///
/// # Errors
/// A program that cannot be started, ends at once or is not healthy in time; the child is gone then.
pub async fn spawn(config: SpawnConfig) -> Result<StartedEngine, VllmError> {
    let (child, attach) = process::start(&config).await?;
    let client = Client::new(&attach.url)?;
    let device = if has_gpu(Path::new("/dev")) { "cuda" } else { "cpu" };
    start(client, &attach, device, Some(child)).await
}

/// Asks a healthy server what it is, and starts what watches it.
async fn start(
    client: Client,
    config: &AttachConfig,
    device: &'static str,
    child: Option<tokio::process::Child>,
) -> Result<StartedEngine, VllmError> {
    let model = client.model().await?;
    let version = client.version().await?;
    let (block_size, total_kv_blocks) = client.cache_sizes().await?;
    let profile = EngineProfile {
        engine: "vllm",
        device,
        context_length: model.context_length,
        block_size,
        total_kv_blocks,
        max_num_seqs: config.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS),
        max_num_batched_tokens: config.max_num_batched_tokens.unwrap_or(DEFAULT_MAX_NUM_BATCHED_TOKENS),
    };
    tracing::info!(url = client.url(), model = model.name, ?version, ?profile, "vLLM is taken");
    let dialect = Dialect { model: model.name, context_length: model.context_length, version };
    let source = client.kv_event_source().await?;
    let (sender, kv_changes) = mpsc::channel(KV_CHANGE_QUEUE_LEN);
    let engine = Arc::new(server::VllmEngine::new(client, profile, dialect));
    engine.watch(source, sender, child);
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
