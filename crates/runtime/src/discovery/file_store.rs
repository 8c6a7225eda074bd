//! The file store: one driver task that reads the folders, keeps our files alive and clears away dead ones.

use super::file_keeper::{FileKeeper, TOUCH_EVERY, TTL};
use super::file_table::FileTable;
use super::inotify_feed::{Dirty, InotifyFeed};
use super::table::Table;
use super::{DiscoveryError, RecordKey};
use crate::tasks::Tasks;
use protocol::discovery::Record;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, MissedTickBehavior};

/// How often the folders are read in full though inotify tells us of changes: events may be lost to an overflow, and
/// expiry has no event.
const RESCAN_EVERY: Duration = Duration::from_secs(1);

/// How often without inotify: new and lost workers must still be seen within a second.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// After a pause of this process or machine longer than this, everybody's files look old. Owners then get one touch
/// period to show that they live before anything expires.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// A file store that this process has joined. Dropping it stops the keep-alive.
#[derive(Debug)]
pub(super) struct FileStore {
    table: Arc<Table>,
    keeper: Arc<FileKeeper>,
    _tasks: Tasks,
}

impl FileStore {
    pub(super) async fn open(root: PathBuf) -> Result<Self, DiscoveryError> {
        let table = Arc::new(Table::default());
        let keeper = Arc::new(FileKeeper::new(root.clone()));
        let mut files = FileTable::new(root.clone(), table.clone(), keeper.clone());
        let opened = |source| DiscoveryError::Open { path: root.clone(), source };
        let feed_root = root.clone();
        let (files, feed) = blocking(move || {
            files.create_folders()?;
            // Watches first: what is written during the scan is then seen by one of the two.
            let feed = InotifyFeed::open(&feed_root);
            files.scan(SystemTime::now(), true);
            Ok((files, feed))
        })
        .await
        .map_err(opened)?;
        let feed = feed
            .inspect_err(|error| {
                tracing::warn!(%error, poll_ms = POLL_EVERY.as_millis(),
                    "no inotify for the discovery folder, reading it all the time instead; raise fs.inotify.max_user_instances");
            })
            .ok();
        let tasks = Tasks::new();
        let driver = Driver { files, feed, keeper: keeper.clone(), pause: PauseWatch::new(SystemTime::now()) };
        tasks.spawn("discovery files", driver.run());
        Ok(Self { table, keeper, _tasks: tasks })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) async fn write(&self, key: &RecordKey, record: &Record) -> Result<(), DiscoveryError> {
        let content =
            serde_json::to_vec(record).map_err(|source| DiscoveryError::Encode { key: key.clone(), source })?;
        let (keeper, owned_key) = (self.keeper.clone(), key.clone());
        blocking(move || keeper.write(owned_key, content))
            .await
            .map_err(|source| DiscoveryError::Write { key: key.clone(), source })
    }

    pub(super) async fn remove(&self, keys: Vec<RecordKey>) -> Result<(), DiscoveryError> {
        let keeper = self.keeper.clone();
        blocking(move || Ok(keeper.remove(&keys)))
            .await
            .unwrap_or(Ok(()))
            .map_err(|(key, source)| DiscoveryError::Withdraw { key, source })
    }

    /// Like [`FileStore::remove`] on this thread, without a word about failures.
    pub(super) fn remove_now(&self, keys: &[RecordKey]) {
        if let Err((key, error)) = self.keeper.remove(keys) {
            tracing::debug!(%key, %error, "a discovery record stays behind and expires");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // Only a panic or the end of the runtime keep a blocking task from its result.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

enum Event {
    Changed(io::Result<Dirty>),
    Tick,
}

struct Driver {
    files: FileTable,
    feed: Option<InotifyFeed>,
    keeper: Arc<FileKeeper>,
    pause: PauseWatch,
}

impl Driver {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(if self.feed.is_some() { RESCAN_EVERY } else { POLL_EVERY });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut touched = Instant::now();
        loop {
            let event = tokio::select! {
                changed = next_of(&mut self.feed) => Event::Changed(changed),
                _ = tick.tick() => Event::Tick,
            };
            let touch = touched.elapsed() >= TOUCH_EVERY;
            if touch {
                touched = Instant::now();
            }
            match self.step(event, touch).await {
                Some(driver) => self = driver,
                None => return,
            }
        }
    }

    /// One look at the folders on a blocking thread. `None` when the runtime is shutting down.
    async fn step(mut self, event: Event, touch: bool) -> Option<Self> {
        let work = move || {
            let now = SystemTime::now();
            if touch {
                self.keeper.touch();
            }
            match event {
                Event::Changed(Ok(Dirty::Files(ids))) => ids.iter().for_each(|id| self.files.refresh(id, now)),
                Event::Changed(Ok(Dirty::Unknown)) => self.full_scan(now),
                Event::Changed(Err(error)) => {
                    tracing::warn!(%error, "inotify failed; reading the discovery folder once a second instead");
                    self.feed = None;
                }
                Event::Tick => self.full_scan(now),
            }
            self
        };
        tokio::task::spawn_blocking(work).await.inspect_err(|error| tracing::error!(%error, "discovery stopped")).ok()
    }

    fn full_scan(&mut self, now: SystemTime) {
        if let Err(error) = self.files.create_folders() {
            tracing::debug!(%error, "cannot make the discovery folders");
        }
        if let Some(feed) = &mut self.feed
            && let Err(error) = feed.watch_folders()
        {
            tracing::debug!(%error, "cannot watch a discovery folder; it is still read once a second");
        }
        let expire = self.pause.expiry_allowed(now);
        self.files.scan(now, expire);
    }
}

async fn next_of(feed: &mut Option<InotifyFeed>) -> io::Result<Dirty> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}

/// Notices that this process did not run for a while (a stopped machine, a starved one, a sleeping laptop).
#[derive(Debug)]
struct PauseWatch {
    looked: SystemTime,
    no_expiry_before: SystemTime,
}

impl PauseWatch {
    fn new(now: SystemTime) -> Self {
        Self { looked: now, no_expiry_before: now }
    }

    fn expiry_allowed(&mut self, now: SystemTime) -> bool {
        // A clock that was set back says nothing about a pause.
        if now.duration_since(self.looked).is_ok_and(|gap| gap > PAUSE_MAX) {
            self.no_expiry_before = now + TTL;
        }
        self.looked = now;
        now >= self.no_expiry_before || self.no_expiry_before > now + TTL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_expires_just_after_a_pause_of_the_machine() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pause = PauseWatch::new(start);
        assert!(pause.expiry_allowed(at(1)));
        assert!(pause.expiry_allowed(at(2)));
        assert!(!pause.expiry_allowed(at(600)), "the laptop was asleep; everybody's files are old");
        assert!(!pause.expiry_allowed(at(601)));
        for seconds in 602..610 {
            assert!(!pause.expiry_allowed(at(seconds)));
        }
        assert!(pause.expiry_allowed(at(610)), "who lives has touched its files by now");
        assert!(pause.expiry_allowed(at(100)), "the clock was set back");
    }
}
