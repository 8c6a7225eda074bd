//! The files of this process: written whole, touched while we live, removed when we go.
//!
//! All of it blocks; callers run it on blocking threads.
//!
//! Source: Dynamo 1.6.1 on the wire, §2.2.

use super::RecordKey;
use parking_lot::Mutex;
use protocol::dynamo::file_name;
use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file that nobody has touched for this long belongs to a dead process. Dynamo's value: all members must agree.
pub(super) const TTL: Duration = Duration::from_secs(10);

/// How often an owner touches its files: two touches may be late before a file expires.
pub(super) const TOUCH_EVERY: Duration = Duration::from_millis(3_333);

/// How long to wait for another member's lock on a folder. A member that was stopped inside its lock must not stop
/// the others: a rename is atomic without it, too.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);
const LOCK_RETRY_EVERY: Duration = Duration::from_millis(2);

/// Files that begin so are being written; every reader skips them.
pub(super) const TEMP_PREFIX: &str = ".tmp_";

/// The folder of a bucket.
pub(super) fn bucket_folder(root: &Path, bucket: &str) -> PathBuf {
    root.join("v1").join(bucket)
}

/// The records that this process keeps alive, by key, with their bytes.
#[derive(Debug)]
pub(super) struct FileKeeper {
    root: PathBuf,
    // Held during file operations, on blocking threads only: a record that is being withdrawn must not be put back by
    // a touch that found it missing.
    kept: Mutex<BTreeMap<RecordKey, Vec<u8>>>,
}

impl FileKeeper {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, kept: Mutex::default() }
    }

    pub(super) fn owns(&self, key: &RecordKey) -> bool {
        self.kept.lock().contains_key(key)
    }

    /// Creates or replaces a file, and keeps it.
    pub(super) fn write(&self, key: RecordKey, content: Vec<u8>) -> io::Result<()> {
        let mut kept = self.kept.lock();
        self.put_in_place(&key, &content)?;
        kept.insert(key, content);
        Ok(())
    }

    /// Removes files and keeps them no longer. All are tried; the first failure is told.
    pub(super) fn remove(&self, keys: &[RecordKey]) -> Result<(), (RecordKey, io::Error)> {
        let mut kept = self.kept.lock();
        let mut failed = Ok(());
        for key in keys {
            kept.remove(key);
            match fs::remove_file(self.path(key)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = failed.and(Err((key.clone(), error))),
            }
        }
        failed
    }

    /// Tells the others that we live. A file that is gone (a member that took us for dead, or a person) comes back.
    pub(super) fn touch(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        for (key, content) in &*self.kept.lock() {
            let touched = rustix::fs::utimensat(CWD, self.path(key), &times, AtFlags::empty()).map_err(io::Error::from);
            let outcome = match touched {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(%key, "our discovery record was gone; writing it again");
                    self.put_in_place(key, content)
                }
                other => other,
            };
            if let Err(error) = outcome {
                tracing::warn!(%key, %error, "cannot keep our discovery record alive; others drop us after 10 s");
            }
        }
    }

    fn put_in_place(&self, key: &RecordKey, content: &[u8]) -> io::Result<()> {
        let folder = bucket_folder(&self.root, &key.bucket);
        fs::create_dir_all(&folder)?;
        let temp = folder.join(format!("{TEMP_PREFIX}{:016x}", rand::random::<u64>()));
        let written = fs::write(&temp, content).and_then(|()| {
            let _lock = lock(&folder);
            fs::rename(&temp, self.path(key))
        });
        if written.is_err() {
            // What went wrong with the record is what the caller needs to know.
            let _ = fs::remove_file(&temp);
        }
        written
    }

    pub(super) fn path(&self, key: &RecordKey) -> PathBuf {
        bucket_folder(&self.root, &key.bucket).join(file_name::escape(&key.name))
    }
}

/// The lock that stock members hold on a folder while they change it; released on drop. `None` when it could not be
/// had in time or the file system has no locks.
pub(super) fn lock(folder: &Path) -> Option<File> {
    let handle = File::open(folder).ok()?;
    for _ in 0..LOCK_WAIT_MAX.as_millis() / LOCK_RETRY_EVERY.as_millis() {
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(handle),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY_EVERY),
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "no lock on the discovery folder");
                return None;
            }
        }
    }
    tracing::debug!(folder = %folder.display(), "another process holds the lock on the discovery folder; going on");
    None
}
