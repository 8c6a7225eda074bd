//! Alone in its file, because it counts what this process holds.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

use runtime::discovery::Discovery;
use std::fs;

#[tokio::test]
async fn one_inotify_instance_serves_all_members_and_watchers_of_a_store() {
    let folder = tempfile::TempDir::new().unwrap();
    let instances = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("inotify")).count()
    };
    assert_eq!(instances(), 0);
    let discovery = Discovery::file(folder.path().to_owned()).await.unwrap();
    let members: Vec<_> = (0..5).map(|_| discovery.member()).collect();
    let watches: Vec<_> = members.iter().flat_map(|member| (0..20).map(|_| member.watch())).collect();
    assert_eq!((watches.len(), instances()), (100, 1));
}
