//! Reads the folders of a file store into a [`Table`], and clears away what dead processes left.
//!
//! All of it blocks; callers run it on blocking threads. Time comes in as an argument.
//!
//! Source: Dynamo 1.6.1 on the wire, §2.2.

use super::file_keeper::{FileKeeper, TEMP_PREFIX, TTL, bucket_folder, lock};
use super::table::Table;
use super::{BUCKETS, RECORD_BYTES_MAX, RECORDS_MAX, RecordKey};
use protocol::discovery::Record;
use protocol::dynamo::file_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A temp file this old is what a writer left that died in the middle. A live one is there for microseconds.
const TEMP_AGE_MAX: Duration = Duration::from_secs(60);

/// A file of a bucket: index in [`BUCKETS`] and the escaped name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) bucket: usize,
    pub(super) name: String,
}

/// Tells one content from another without reading: writers replace files, they do not change them in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    bytes: u64,
    born: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), bytes: metadata.len(), born: metadata.created().ok() }
    }
}

/// The folders as last read.
#[derive(Debug)]
pub(super) struct FileTable {
    root: PathBuf,
    table: Arc<Table>,
    keeper: Arc<FileKeeper>,
    /// What we have read; malformed files are in here too, so that each is logged once.
    read: BTreeMap<FileId, Identity>,
    complained: BTreeSet<String>,
}

impl FileTable {
    pub(super) fn new(root: PathBuf, table: Arc<Table>, keeper: Arc<FileKeeper>) -> Self {
        Self { root, table, keeper, read: BTreeMap::new(), complained: BTreeSet::new() }
    }

    /// Makes the folders that are absent.
    pub(super) fn create_folders(&self) -> io::Result<()> {
        BUCKETS.iter().try_for_each(|bucket| fs::create_dir_all(bucket_folder(&self.root, bucket)))
    }

    /// Reads every folder. With `expire`, files older than the TTL are deleted, unless they are ours.
    ///
    /// A folder that cannot be read keeps what is known of it: a passing fault of the disk must not look like the
    /// death of every worker.
    pub(super) fn scan(&mut self, now: SystemTime, expire: bool) {
        for (bucket, folder_name) in BUCKETS.iter().enumerate() {
            let folder = bucket_folder(&self.root, folder_name);
            match names_in(&folder) {
                Ok(names) => self.scan_bucket(bucket, &folder, names, now, expire),
                Err(error) => self.complain(&folder.display().to_string(), &format!("cannot read the folder: {error}")),
            }
        }
    }

    fn scan_bucket(&mut self, bucket: usize, folder: &Path, names: Vec<String>, now: SystemTime, expire: bool) {
        let mut there = BTreeSet::new();
        for name in names {
            if name.starts_with(TEMP_PREFIX) {
                clear_temp_file(&folder.join(name), now);
                continue;
            }
            let id = FileId { bucket, name };
            if self.read_if_changed(&id, now, expire, false) {
                there.insert(id.name);
            }
        }
        let gone: Vec<_> =
            self.read.keys().filter(|id| id.bucket == bucket && !there.contains(&id.name)).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
    }

    /// Reads one file that was written, moved or deleted.
    pub(super) fn refresh(&mut self, id: &FileId, now: SystemTime) {
        if id.name.starts_with(TEMP_PREFIX) {
            return;
        }
        if !self.read_if_changed(id, now, false, true) {
            self.forget(id);
        }
    }

    /// `false` when the file is not there (any more).
    fn read_if_changed(&mut self, id: &FileId, now: SystemTime, expire: bool, written: bool) -> bool {
        let path = bucket_folder(&self.root, BUCKETS[id.bucket]).join(&id.name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                self.complain(&path.display().to_string(), &error.to_string());
                return self.read.contains_key(id);
            }
        };
        if !metadata.is_file() {
            return false;
        }
        if expire && is_dead(&metadata, now) && !self.is_ours(id) && delete_dead(&path, now) {
            return false;
        }
        let identity = Identity::of(&metadata);
        if !written && self.read.get(id) == Some(&identity) {
            return true;
        }
        // An empty file is one that is being written in place; its writer's close or the next scan brings us back.
        if metadata.len() == 0 {
            return self.read.contains_key(id);
        }
        if self.read.len() >= RECORDS_MAX && !self.read.contains_key(id) {
            self.complain("too many", &format!("more than {RECORDS_MAX} discovery records; the rest is ignored"));
            return true;
        }
        self.take_in(id, &path, identity);
        true
    }

    fn take_in(&mut self, id: &FileId, path: &Path, identity: Identity) {
        let before = self.read.insert(id.clone(), identity);
        match read_record(path, id) {
            Ok((key, record)) => self.table.put(key, record),
            Err(why) => {
                // A record that was good and is not any more is not the old record either.
                if let Some(key) = key_of(id) {
                    self.table.delete(&key);
                }
                if before != Some(identity) {
                    tracing::warn!(path = %path.display(), %why, "skipping a malformed discovery record");
                }
            }
        }
    }

    fn forget(&mut self, id: &FileId) {
        if self.read.remove(id).is_some()
            && let Some(key) = key_of(id)
        {
            self.table.delete(&key);
        }
    }

    fn is_ours(&self, id: &FileId) -> bool {
        key_of(id).is_some_and(|key| self.keeper.owns(&key))
    }

    /// Says each complaint once in the life of the process.
    fn complain(&mut self, subject: &str, why: &str) {
        if self.complained.len() < RECORDS_MAX && self.complained.insert(subject.to_owned()) {
            tracing::warn!(subject, why, "discovery");
        }
    }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // Escaped names are ASCII; a name that is not UTF-8 is not one of ours.
    entries.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
}

fn key_of(id: &FileId) -> Option<RecordKey> {
    let name = file_name::unescape(&id.name)?;
    Some(RecordKey { bucket: BUCKETS[id.bucket].to_owned(), name })
}

fn read_record(path: &Path, id: &FileId) -> Result<(RecordKey, Record), String> {
    let key = key_of(id).ok_or("the file's name is not an escaped key")?;
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > RECORD_BYTES_MAX {
        return Err(format!("more than {RECORD_BYTES_MAX} bytes"));
    }
    let record: Record = serde_json::from_slice(&content).map_err(|error| error.to_string())?;
    let bucket = record.key().0;
    if bucket != key.bucket {
        return Err(format!("a record of bucket {bucket} lies in {}", key.bucket));
    }
    Ok((key, record))
}

fn is_dead(metadata: &Metadata, now: SystemTime) -> bool {
    // A time ahead of ours (another machine's clock) is young.
    metadata.modified().is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > TTL))
}

/// Deletes under the folder's lock, after a second look: the owner may have come back in between.
fn delete_dead(path: &Path, now: SystemTime) -> bool {
    let _lock = path.parent().and_then(lock);
    match fs::symlink_metadata(path) {
        Ok(metadata) if is_dead(&metadata, now) => {
            // It is dead, whether we may delete it or not.
            match fs::remove_file(path) {
                Ok(()) => tracing::info!(path = %path.display(), "expired a record that nobody has touched for 10 s"),
                Err(error) => tracing::debug!(path = %path.display(), %error, "cannot delete an expired record"),
            }
            true
        }
        Ok(_) => false,
        Err(_) => true,
    }
}

fn clear_temp_file(path: &Path, now: SystemTime) {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    if modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > TEMP_AGE_MAX)) {
        let _ = fs::remove_file(path);
    }
}
