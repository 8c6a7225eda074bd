//! One inotify instance for all buckets of a file store.
//!
//! Stock processes take one per watcher, about 11 a component, out of the 128 that the kernel gives a user.

use super::BUCKETS;
use super::file_keeper::bucket_folder;
use super::file_table::FileId;
use futures::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes read at once: some 200 events with names of 100 bytes.
const BUFFER_BYTES: usize = 32 * 1024;

/// What has changed since the last look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    /// These files.
    Files(BTreeSet<FileId>),
    /// The kernel's queue overflowed, or a folder went away: anything.
    Unknown,
}

/// Most files told at once; the rest follows in the next look.
const FILES_AT_ONCE: usize = 1_024;

/// The instance and its watches.
pub(super) struct InotifyFeed {
    root: PathBuf,
    events: EventStream<Vec<u8>>,
    bucket_of: HashMap<WatchDescriptor, usize>,
}

impl fmt::Debug for InotifyFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InotifyFeed").field("root", &self.root).finish_non_exhaustive()
    }
}

impl InotifyFeed {
    /// Watches the four folders, which must exist.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let mut feed = Self {
            root: root.to_owned(),
            events: Inotify::init()?.into_event_stream(vec![0; BUFFER_BYTES])?,
            bucket_of: HashMap::new(),
        };
        feed.watch_folders()?;
        Ok(feed)
    }

    /// Sets the watches; those that are set stay, those of folders that were replaced are set anew.
    pub(super) fn watch_folders(&mut self) -> io::Result<()> {
        // Not ATTRIB: every touch of every file would wake us.
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        for (index, bucket) in BUCKETS.iter().enumerate() {
            let watch = self.events.watches().add(bucket_folder(&self.root, bucket), mask)?;
            self.bucket_of.insert(watch, index);
        }
        Ok(())
    }

    /// Waits for changes, and returns all that are there. Cancel-safe: it waits once, and takes the rest without.
    pub(super) async fn next(&mut self) -> io::Result<Dirty> {
        let mut dirty = Dirty::Files(BTreeSet::new());
        let mut event = self.events.next().await;
        loop {
            match event {
                Some(Ok(event)) => self.note(event, &mut dirty),
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the inotify instance was closed")),
            }
            if matches!(&dirty, Dirty::Files(files) if files.len() >= FILES_AT_ONCE) {
                return Ok(dirty);
            }
            match self.events.next().now_or_never() {
                Some(next) => event = next,
                None => return Ok(dirty),
            }
        }
    }

    fn note(&mut self, event: EventOwned, dirty: &mut Dirty) {
        if event.mask.intersects(EventMask::Q_OVERFLOW | EventMask::DELETE_SELF | EventMask::IGNORED) {
            self.bucket_of.remove(&event.wd);
            *dirty = Dirty::Unknown;
        }
        let name = event.name.and_then(|name| name.into_string().ok());
        if let (Dirty::Files(files), Some(&bucket), Some(name)) = (dirty, self.bucket_of.get(&event.wd), name) {
            files.insert(FileId { bucket, name });
        }
    }
}
