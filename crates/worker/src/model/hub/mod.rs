//! The hub: a repository's files on this machine, from its own cache if they are there, else fetched and checked.
//!
//! Source: the hub's HTTP API (`/api/models/OWNER/NAME/revision/REV`, `/OWNER/NAME/resolve/COMMIT/FILE`) and the
//! environment variables and cache layout of the `huggingface_hub` package.

mod client;
mod config;
mod download;
mod error;
mod listing;
mod pick;

pub use config::{HubConfig, Token};
pub(super) use download::hash as sha256_of;
pub use error::HubError;
pub(super) use pick::best_gguf;

use super::cache::{ModelCache, WriteLock, check_space, publish};
use super::error::ModelError;
use super::fits::EngineKind;
use super::gguf;
use super::hf_folder::HfFolder;
use super::progress::Progress;
use super::source::HubName;
use client::Client;
use std::future::Future;
use std::path::{Path, PathBuf};

/// Written last into a fetched snapshot: its files and their sizes.
const MANIFEST: &str = ".busbar-complete.json";

/// The folder with the files of `name` that `engine` needs.
///
/// Looks first into the hub's own cache, then into ours; asks the hub only for what neither has whole.
pub(super) async fn fetch(
    name: &HubName,
    config: &HubConfig,
    cache: &ModelCache,
    engine: EngineKind,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    if let Some(folder) = in_hub_cache(name, config, engine) {
        return Ok(folder);
    }
    let shared = cache.shared().map(|folder| folder.join("hub").join(folder_name(name)));
    if let Some(folder) = shared.and_then(|shared| known_snapshot(&shared, name, engine)) {
        return Ok(folder);
    }
    let ours = cache.folder("hub")?.join(folder_name(name));
    std::fs::create_dir_all(&ours).map_err(ModelError::io("create", &ours))?;
    let failed = |source| ModelError::Hub { repository: name.repository(), source };
    if let Some(folder) = known_snapshot(&ours, name, engine) {
        return Ok(folder);
    }
    if config.offline {
        return Err(failed(HubError::Offline));
    }
    let _lock = WriteLock::take(&ours, progress).await?;
    if let Some(folder) = known_snapshot(&ours, name, engine) {
        return Ok(folder);
    }
    let client = Client::new(config).map_err(failed)?;
    let listing = patiently(|| client.listing(name)).await.map_err(failed)?;
    let picked = pick::files(&listing, engine).map_err(failed)?;
    let folder = ours.join(&listing.commit).join(pick::folder(engine));
    std::fs::create_dir_all(&folder).map_err(ModelError::io("create", &folder))?;
    let missing: u64 = picked.iter().map(|file| file.size.saturating_sub(present(&folder, &file.path))).sum();
    check_space(&folder, missing)?;
    for file in &picked {
        download::file(&client, name, &listing.commit, file, &folder, progress).await.map_err(|error| match error {
            download::DownloadError::Hub(source) => failed(source),
            download::DownloadError::Model(error) => error,
        })?;
    }
    finish(&ours, name, &listing.commit, &folder, &picked)?;
    Ok(folder)
}

/// The folder of a repository in a cache.
fn folder_name(name: &HubName) -> String {
    format!("{}--{}", name.owner, name.name)
}

/// Asks again as long as the hub asks to wait, up to [`download::ATTEMPTS`] times.
async fn patiently<T, F: Future<Output = Result<T, HubError>>>(ask: impl Fn() -> F) -> Result<T, HubError> {
    for attempt in 1u32.. {
        match ask().await {
            Err(error @ HubError::Busy { .. }) if attempt < download::ATTEMPTS => {
                tokio::time::sleep(error.pause(download::FIRST_PAUSE * 2u32.pow(attempt))).await;
            }
            answered => return answered,
        }
    }
    unreachable!("the last attempt returns")
}

/// Bytes of `file` that an earlier run left in `folder`, whole or in part.
fn present(folder: &Path, file: &str) -> u64 {
    let size = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    size(folder.join(file)).max(size(folder.join(format!("{file}.part"))))
}

/// Writes what is there and which commit the revision meant.
fn finish(
    ours: &Path,
    name: &HubName,
    commit: &str,
    folder: &Path,
    files: &[listing::RepositoryFile],
) -> Result<(), ModelError> {
    let manifest: serde_json::Map<String, serde_json::Value> =
        files.iter().map(|file| (file.path.clone(), file.size.into())).collect();
    let write = |path: PathBuf, text: String| {
        let partial = path.with_extension("part");
        std::fs::write(&partial, text).map_err(ModelError::io("write", &partial))?;
        publish(&partial, &path)
    };
    write(folder.join(MANIFEST), serde_json::Value::Object(manifest).to_string())?;
    write(ours.join(reference_file(&name.revision)), commit.to_owned())
}

fn reference_file(revision: &str) -> String {
    format!("ref-{}", revision.replace('/', "--"))
}

/// A snapshot of ours that is whole.
fn known_snapshot(ours: &Path, name: &HubName, engine: EngineKind) -> Option<PathBuf> {
    let commit = std::fs::read_to_string(ours.join(reference_file(&name.revision))).ok()?;
    let folder = ours.join(commit.trim()).join(pick::folder(engine));
    let manifest = std::fs::read(folder.join(MANIFEST)).ok()?;
    let manifest: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&manifest).ok()?;
    let whole = manifest.iter().all(|(file, size)| {
        let found = folder.join(file).metadata().ok().map(|metadata| metadata.len());
        found.is_some() && found == size.as_u64()
    });
    whole.then_some(folder)
}

/// A snapshot in the hub's own cache that has all that `engine` needs.
fn in_hub_cache(name: &HubName, config: &HubConfig, engine: EngineKind) -> Option<PathBuf> {
    let repository = config.cache.as_ref()?.join(format!("models--{}--{}", name.owner, name.name));
    let commit = std::fs::read_to_string(repository.join("refs").join(&name.revision)).ok();
    let commit = commit.as_deref().map_or(name.revision.as_str(), str::trim);
    let folder = repository.join("snapshots").join(commit);
    if !folder.is_dir() {
        return None;
    }
    let has_gguf = || gguf::files_in(&folder).is_ok_and(|files| !files.is_empty());
    let has_layout = || HfFolder::read(&folder).ok();
    let enough = match engine {
        EngineKind::Embedded => has_gguf(),
        EngineKind::Vllm => has_layout().is_some_and(|folder| !folder.safetensors.is_empty()),
        EngineKind::Mock => has_layout().is_some() || has_gguf(),
    };
    enough.then_some(folder)
}
