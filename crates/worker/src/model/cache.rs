//! The folder where models are kept: one writer at a time, nothing half-written under a final name.

use super::error::ModelError;
use super::progress::{Progress, Stage, tell};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a process that waits for another writer looks again. Short enough that nobody notices the difference.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The user's model cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCache {
    root: PathBuf,
    /// A folder that others fill and that is only read here.
    shared: Option<PathBuf>,
}

impl ModelCache {
    /// The cache at `root` (`…/busbar/models`). Nothing is created yet.
    pub fn at(root: impl Into<PathBuf>) -> ModelCache {
        ModelCache { root: root.into(), shared: None }
    }

    /// The same with a folder that [`super::fill`] has filled, in which models are looked for first and nothing is
    /// written.
    pub fn with_shared(mut self, folder: Option<PathBuf>) -> ModelCache {
        self.shared = folder;
        self
    }

    /// The folder that others fill.
    pub(super) fn shared(&self) -> Option<&Path> {
        self.shared.as_deref()
    }

    /// The cache that the environment gives: `$XDG_CACHE_HOME/busbar/models`, else `~/.cache/busbar/models`; `None`
    /// without a home.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<ModelCache> {
        Some(ModelCache::at(cache_home(variable)?.join("busbar/models")))
    }

    /// The folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one model; created.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, ModelError> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder).map_err(ModelError::io("create", &folder))?;
        Ok(folder)
    }
}

/// `$XDG_CACHE_HOME`, else `$HOME/.cache`.
pub(super) fn cache_home(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification: a relative path is invalid and ignored.
    set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".cache")))
}

/// The right to write in one folder. The system frees it when the process ends, however it ends.
pub(super) struct WriteLock {
    _file: File,
}

impl WriteLock {
    /// Takes the lock of `folder`, waiting for whoever has it and telling so.
    pub(super) async fn take(folder: &Path, progress: &dyn Progress) -> Result<WriteLock, ModelError> {
        let path = folder.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ModelError::io("open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(WriteLock { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    tell(progress, Stage::WaitForOtherWriter { lock: path.clone() }, 0, None);
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(TryLockError::Error(error)) => return Err(ModelError::io("lock", &path)(error)),
            }
        }
    }
}

/// Fails where the disk of `folder` has less than `needs` bytes for this user.
pub(super) fn check_space(folder: &Path, needs: u64) -> Result<(), ModelError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| ModelError::io("measure", folder)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needs {
        return Err(ModelError::NoSpace { path: folder.to_owned(), needs, free });
    }
    Ok(())
}

/// Gives a finished file or folder its name: contents first on the disk, then the name. `from` and `to` are on one
/// file system; a folder at `to` is replaced.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), ModelError> {
    let synced = File::open(from).and_then(|file| file.sync_all());
    synced.map_err(ModelError::io("sync", from))?;
    if to.is_dir() {
        // A folder cannot be renamed over one that holds files. Readers of the old one keep their open files.
        let old = to.with_extension("old");
        remove(&old)?;
        std::fs::rename(to, &old).map_err(ModelError::io("rename", to))?;
        std::fs::rename(from, to).map_err(ModelError::io("rename", from))?;
        return remove(&old);
    }
    std::fs::rename(from, to).map_err(ModelError::io("rename", from))
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), ModelError> {
    let result = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ModelError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Bytes of all files below `folder`; what vanishes meanwhile counts nothing.
pub(super) fn size_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_xdg_says_and_under_the_home_otherwise() {
        let at = |pairs: &'static [(&str, &str)]| {
            let variable = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            ModelCache::from_environment(&variable).map(|cache| cache.root().to_owned())
        };
        assert_eq!(at(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/busbar/models".into()));
        assert_eq!(at(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Some("/h/.cache/busbar/models".into()));
        assert_eq!(at(&[("XDG_CACHE_HOME", ""), ("HOME", "/h")]), Some("/h/.cache/busbar/models".into()));
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn a_disk_without_room_is_an_error_that_says_how_much_and_where() {
        let folder = tempfile::tempdir().expect("a folder");
        check_space(folder.path(), 1).expect("one byte");
        let error = check_space(folder.path(), 1 << 60).expect_err("no disk is that large");
        let text = error.to_string();
        assert!(text.contains("no space: needs 1152921504607 MB at /"), "{text}");
    }
}
