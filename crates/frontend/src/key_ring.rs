//! The accepted keys while the frontend runs: the file is taken over anew when it changes, without a restart.
//!
//! The file is looked at, not watched: a mounted secret is replaced by swapping a link, which a watch of the file does
//! not see.

use crate::keys::{ApiKeys, Caller, KeysError};
use arc_swap::ArcSwap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often the file is looked at. A change counts once it held for one look, so a new key is good, and a withdrawn one
/// bad, within two of these.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The keys of this moment; readers take no lock.
pub(crate) struct KeyRing {
    path: Option<PathBuf>,
    keys: ArcSwap<ApiKeys>,
}

/// What tells one content of the file from another without reading it; absent while there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// What the looks have seen.
#[derive(Debug, Default)]
struct Looks {
    /// Of the content that was read last, good or bad.
    read: Option<Stamp>,
    /// At the last look.
    last: Option<Stamp>,
}

impl KeyRing {
    /// The keys of this file; without one no key is asked for.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, KeysError> {
        let keys = path.map_or_else(|| Ok(ApiKeys::none()), ApiKeys::read)?;
        Ok(Self { path: path.map(Path::to_owned), keys: ArcSwap::from_pointee(keys) })
    }

    /// Whether a key is asked for.
    pub(crate) fn required(&self) -> bool {
        self.keys.load().required()
    }

    /// See [`ApiKeys::check`].
    pub(crate) fn check(&self, authorization: Option<&str>) -> Option<Caller> {
        self.keys.load().check(authorization)
    }

    /// Takes over the file whenever it changes, until the task is dropped; returns at once without a file.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(path) = &self.path else { return };
        // Nothing counts as read: the file may have changed since [`KeyRing::open`], and reading it again is harmless.
        let mut looks = Looks::default();
        loop {
            self.look(path, &mut looks).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, path: &Path, looks: &mut Looks) {
        let stamp = stamp_of(path).await;
        let settled = std::mem::replace(&mut looks.last, stamp) == stamp;
        // A file that somebody is still writing may hold half of its keys.
        if !settled || looks.read == stamp {
            return;
        }
        looks.read = stamp;
        let file = path.to_owned();
        match tokio::task::spawn_blocking(move || ApiKeys::read(&file)).await {
            Ok(Ok(keys)) => {
                tracing::info!(path = %path.display(), ?keys, "the API keys were read anew");
                self.keys.store(Arc::new(keys));
            }
            Ok(Err(error)) => tracing::error!(%error, "the API keys stay as they were: correct the file"),
            Err(error) => tracing::error!(%error, "reading the API keys panicked; they stay as they were"),
        }
    }
}

async fn stamp_of(path: &Path) -> Option<Stamp> {
    let file = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp { modified: file.modified().ok(), bytes: file.len(), inode: file.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn line_of(name: &str, key: &str) -> String {
        let hex: String = Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        format!("{name} sha256:{hex}\n")
    }

    /// A ring over a file with alice's key, after the looks that take it over.
    async fn ring() -> (tempfile::TempDir, PathBuf, KeyRing, Looks) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, line_of("alice", "sk-a")).unwrap();
        let ring = KeyRing::open(Some(&path)).unwrap();
        let mut looks = Looks::default();
        ring.look(&path, &mut looks).await;
        ring.look(&path, &mut looks).await;
        (folder, path, ring, looks)
    }

    fn knows(ring: &KeyRing, key: &str) -> bool {
        ring.check(Some(&format!("Bearer {key}"))).is_some()
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_over_once_it_held_for_a_look() {
        let (_folder, path, ring, mut looks) = ring().await;
        std::fs::write(&path, line_of("alice", "sk-a") + &line_of("bob", "sk-b")).unwrap();
        ring.look(&path, &mut looks).await;
        assert!(!knows(&ring, "sk-b"), "somebody may still be writing it");
        ring.look(&path, &mut looks).await;
        assert!(knows(&ring, "sk-a") && knows(&ring, "sk-b"));

        // As a mounted secret changes: another file takes the name.
        let beside = path.with_extension("new");
        std::fs::write(&beside, line_of("bob", "sk-b")).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        ring.look(&path, &mut looks).await;
        ring.look(&path, &mut looks).await;
        assert!(!knows(&ring, "sk-a") && knows(&ring, "sk-b"), "a withdrawn key is refused");
    }

    #[tokio::test]
    async fn a_bad_or_missing_file_keeps_the_old_keys_and_never_opens_the_door() {
        let (_folder, path, ring, mut looks) = ring().await;
        for bad in [Some("alice sk-secret\n"), Some(""), None] {
            match bad {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            ring.look(&path, &mut looks).await;
            ring.look(&path, &mut looks).await;
            assert!(ring.required() && knows(&ring, "sk-a") && !knows(&ring, "sk-x"), "{bad:?}");
        }
        std::fs::write(&path, line_of("carol", "sk-c")).unwrap();
        ring.look(&path, &mut looks).await;
        ring.look(&path, &mut looks).await;
        assert!(knows(&ring, "sk-c") && !knows(&ring, "sk-a"), "a good file is taken again");
    }

    #[tokio::test]
    async fn a_file_that_stays_is_not_read_again() {
        let (_folder, path, ring, mut looks) = ring().await;
        let before = ring.keys.load_full();
        ring.look(&path, &mut looks).await;
        assert!(Arc::ptr_eq(&before, &ring.keys.load_full()));
    }
}
