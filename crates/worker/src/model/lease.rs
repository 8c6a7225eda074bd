//! The right to write in a folder that several machines share, held by a beat.
//!
//! A lock of the system is not seen by every network file system, and is not freed there when a machine is lost. A lease
//! is a file that only one can create and that its holder writes again and again; one that has not changed for
//! [`STALE_AFTER`] is taken over. That is measured on the watcher's own clock, so the machines' clocks need not agree.

use super::error::ModelError;
use super::progress::{Progress, Stage, tell};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Name of the file.
const NAME: &str = ".writer";
/// Between two beats of the holder.
const BEAT: Duration = Duration::from_secs(10);
/// Without a beat. Several beats long: a network file system shows a change up to a minute late (NFS, `acregmax`).
const STALE_AFTER: Duration = Duration::from_secs(120);
/// Between two looks of who waits.
const LOOK: Duration = Duration::from_secs(1);

/// The right to write. Dropping it gives it back.
pub(super) struct Lease {
    path: PathBuf,
    holder: String,
    beat: JoinHandle<()>,
    lost: CancellationToken,
}

impl Lease {
    /// Takes the lease of `folder`, waiting for whoever has it and telling so.
    pub(super) async fn take(folder: &Path, progress: &dyn Progress) -> Result<Lease, ModelError> {
        let path = folder.join(NAME);
        let holder = uuid::Uuid::new_v4().to_string();
        let mut seen = String::new();
        let mut changed = tokio::time::Instant::now();
        loop {
            if create(&path, &holder)? {
                return Ok(Lease::hold(path, holder));
            }
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if now != seen {
                seen = now;
                changed = tokio::time::Instant::now();
            } else if changed.elapsed() >= STALE_AFTER {
                take_away(&path, &seen, &holder)?;
                continue;
            }
            tell(progress, Stage::WaitForOtherWriter { lock: path.clone() }, 0, None);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until someone else has taken the lease, because we were too slow to beat.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    fn hold(path: PathBuf, holder: String) -> Lease {
        let lost = CancellationToken::new();
        let beat = tokio::spawn(beat(path.clone(), holder.clone(), lost.clone()));
        Lease { path, holder, beat, lost }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.beat.abort();
        if is_ours(&self.path, &self.holder) {
            // One that stays is taken over when it is stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes again and again; ends when the lease is someone else's.
async fn beat(path: PathBuf, holder: String, lost: CancellationToken) {
    for count in 1u64.. {
        tokio::time::sleep(BEAT).await;
        if !is_ours(&path, &holder) {
            lost.cancel();
            return;
        }
        // Not created anew: between the look and this, another may have taken it away. A beat that fails is one that
        // watchers do not see.
        if let Ok(mut file) = File::options().write(true).open(&path) {
            let _ = file.write_all(text(&holder, count).as_bytes()).and_then(|()| file.sync_all());
        }
    }
}

/// The file's text: always longer with time, so that it can be written over in place.
fn text(holder: &str, count: u64) -> String {
    format!("{holder} {count:020}\n")
}

fn is_ours(path: &Path, holder: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(holder))
}

/// Makes the file, if there is none. `false` where there is one.
fn create(path: &Path, holder: &str) -> Result<bool, ModelError> {
    match File::options().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            let written = file.write_all(text(holder, 0).as_bytes()).and_then(|()| file.sync_all());
            written.map_err(ModelError::io("write", path)).map(|()| true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(ModelError::io("create", path)(error)),
    }
}

/// Takes a stale lease out of the way. Two watchers may do so at once: only one of them moves the stale file, and whoever
/// has moved another one puts it back.
fn take_away(path: &Path, stale: &str, watcher: &str) -> Result<(), ModelError> {
    let aside = path.with_added_extension(watcher);
    match std::fs::rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ModelError::io("rename", path)(error)),
    }
    let moved = std::fs::read_to_string(&aside).unwrap_or_default();
    if moved != stale {
        // Fails where there is a newer one; then the holder of this one finds that it has lost.
        let _ = std::fs::hard_link(&aside, path);
    }
    std::fs::remove_file(&aside).map_err(ModelError::io("remove", &aside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NoProgress;

    #[tokio::test(start_paused = true)]
    async fn one_holds_it_and_the_next_has_it_when_it_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Lease::take(folder.path(), &NoProgress).await.expect("free");
        let second = Lease::take(folder.path(), &NoProgress);
        tokio::pin!(second);
        // Longer than a silent holder would keep it: this one beats.
        let waited = tokio::time::timeout(STALE_AFTER * 3, &mut second).await;
        assert!(waited.is_err(), "taken from a holder that beats");
        drop(first);
        let second = second.await.expect("given back");
        assert!(is_ours(&second.path, &second.holder));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_beats_no_more_is_taken_over_and_its_holder_learns_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let silent = Lease::take(folder.path(), &NoProgress).await.expect("free");
        silent.beat.abort();
        let before = tokio::time::Instant::now();
        let next = Lease::take(folder.path(), &NoProgress).await.expect("stale");
        assert!(before.elapsed() >= STALE_AFTER, "{:?}", before.elapsed());
        // What the first would find at its next beat; and dropping it must not take the lease from the second.
        let lost = CancellationToken::new();
        beat(silent.path.clone(), silent.holder.clone(), lost.clone()).await;
        assert!(lost.is_cancelled());
        drop(silent);
        assert!(is_ours(&next.path, &next.holder));
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_lease_that_was_renewed_meanwhile_is_put_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        assert!(create(&path, "living").expect("a file"));
        take_away(&path, "what it was", "watcher").expect("put back");
        assert!(is_ours(&path, "living"));
        assert!(!create(&path, "watcher").expect("there"));
    }
}
