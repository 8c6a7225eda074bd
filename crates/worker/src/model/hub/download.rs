//! One file: resumed where an earlier run stopped, checked, then given its name.

use super::HubError;
use super::client::Client;
use super::listing::RepositoryFile;
use crate::model::cache::{publish, remove};
use crate::model::error::ModelError;
use crate::model::packaged::{TELL_EVERY, hex};
use crate::model::progress::{Progress, Stage, tell};
use crate::model::source::HubName;
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Attempts at one file, without a byte gained between them, before it fails.
pub(super) const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled each time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes that are hashed at a time.
const CHUNK: usize = 1 << 20;

/// Why a file did not come.
pub(super) enum DownloadError {
    /// The hub's side.
    Hub(HubError),
    /// This machine's side.
    Model(ModelError),
}

impl From<ModelError> for DownloadError {
    fn from(error: ModelError) -> Self {
        DownloadError::Model(error)
    }
}

/// Fetches `file` into `folder`, unless it is there. What is there was checked before it got its name.
pub(super) async fn file(
    client: &Client,
    name: &HubName,
    commit: &str,
    file: &RepositoryFile,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), DownloadError> {
    let to = folder.join(&file.path);
    if to.metadata().is_ok_and(|metadata| metadata.len() == file.size) {
        return Ok(());
    }
    let partial = PathBuf::from(format!("{}.part", to.display()));
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(ModelError::io("create", parent))?;
    }
    let (mut failures, mut pause) = (0, FIRST_PAUSE);
    loop {
        let before = length(&partial);
        let error = match stretch(client, name, commit, file, &partial, progress).await {
            Ok(()) => match verify(file, &partial, progress).await? {
                None => return Ok(publish(&partial, &to)?),
                Some(error) => error,
            },
            Err(DownloadError::Hub(error)) if is_passing(&error) => error,
            Err(error) => return Err(error),
        };
        failures = if length(&partial) > before { 1 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Err(DownloadError::Hub(error));
        }
        tokio::time::sleep(error.pause(pause)).await;
        pause = if failures == 1 { FIRST_PAUSE } else { pause * 2 };
    }
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &HubError) -> bool {
    match error {
        HubError::Unreachable { .. } | HubError::Busy { .. } => true,
        HubError::Answer { what, .. } => what.contains("HTTP 5") || what.contains("ended"),
        _ => false,
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// One connection's worth of bytes, appended to `partial`. `Ok` when the file has its full length.
async fn stretch(
    client: &Client,
    name: &HubName,
    commit: &str,
    file: &RepositoryFile,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<(), DownloadError> {
    let mut done = length(partial);
    if done > file.size {
        remove(partial)?;
        done = 0;
    }
    let stage = || Stage::Download { name: file.path.clone() };
    tell(progress, stage(), done, Some(file.size));
    if done == file.size && file.size > 0 {
        return Ok(());
    }
    let mut response = client.file(name, commit, &file.path, done).await.map_err(DownloadError::Hub)?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        // The server does not resume: from the start.
        done = 0;
    }
    let mut out = File::options()
        .create(true)
        .write(true)
        .truncate(done == 0)
        .append(done > 0)
        .open(partial)
        .map_err(ModelError::io("open", partial))?;
    let mut told = Instant::now();
    let cut = || DownloadError::Hub(client.answer(format!("with a body for {} that ended too early", file.path)));
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(_) => return Err(cut()),
        };
        out.write_all(&chunk).map_err(ModelError::io("write", partial))?;
        done += chunk.len() as u64;
        if done > file.size {
            let what = format!("with more than the {} bytes of {}", file.size, file.path);
            remove(partial)?;
            return Err(DownloadError::Hub(client.answer(what)));
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(progress, stage(), done, Some(file.size));
        }
    }
    tell(progress, stage(), done, Some(file.size));
    if done == file.size { Ok(()) } else { Err(cut()) }
}

/// Compares the bytes with the published checksum. A mismatch removes them and is given back as the error to report.
async fn verify(
    file: &RepositoryFile,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<Option<HubError>, DownloadError> {
    let Some(expected) = file.sha256.clone() else { return Ok(None) };
    tell(progress, Stage::Verify { name: file.path.clone() }, 0, Some(file.size));
    let path = partial.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
    let found = hashed.map_err(|error| ModelError::io("read", partial)(error.into()))??;
    if found == expected {
        return Ok(None);
    }
    remove(partial)?;
    Ok(Some(HubError::Checksum { file: file.path.clone(), found, expected }))
}

/// The sha256 of a file, lower-case hex. Blocking.
pub(in crate::model) fn hash(path: &Path) -> Result<String, ModelError> {
    let mut file = File::open(path).map_err(ModelError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(ModelError::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
