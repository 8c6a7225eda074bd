//! The whole store against an etcd in memory, in paused time: what an outage, a loss of data, of a lease or of history
//! does to those who registered and to those who watch.

use super::super::stage::endpoint;
use super::super::{Change, Discovery, DiscoveryError, RecordKey, Store, Watch};
use super::EtcdStore;
use super::error::EtcdFault;
use super::memory::MemoryEtcd;
use crate::world::World;
use protocol::discovery::Record;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

/// Longer than any promise that is not about minutes; time is paused, so it costs nothing.
const SOON: Duration = Duration::from_secs(5);

async fn join(etcd: &Arc<MemoryEtcd>) -> Discovery {
    let store = EtcdStore::on(Arc::new(etcd.clone()), TTL).await.expect("the etcd lets us in");
    Discovery::on(Store::Etcd(Arc::new(store)))
}

/// Waits until the process hears of changes.
async fn follows(discovery: &Discovery) {
    let following = async {
        while !discovery.health().connected {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the watch", following).await;
}

/// A worker process with one record.
async fn worker(etcd: &Arc<MemoryEtcd>, instance: u64) -> Discovery {
    let discovery = join(etcd).await;
    discovery.register(&endpoint(instance, 1)).await.expect("the record is taken");
    discovery
}

fn key_of(instance: u64) -> String {
    RecordKey::of(&endpoint(instance, 1)).to_string()
}

/// The instances that a frontend would route to.
fn served(frontend: &Discovery) -> Vec<u64> {
    let instance = |record: &Record| match record {
        Record::Endpoint(record) => record.instance_id.0,
        other => panic!("{other:?}"),
    };
    frontend.snapshot().iter().map(|(_, record)| instance(record)).collect()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

/// Waits until the frontend serves exactly these.
async fn serves(frontend: &Discovery, instances: &[u64], within: Duration) {
    let reached = async {
        while served(frontend) != instances {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = timeout(within, reached).await;
    assert!(reached.is_ok(), "{:?} instead of {instances:?} after {within:?}", served(frontend));
}

/// Every change that the watch has told so far: `+1` for a put, `-1` for a delete.
fn told(watch: &mut Watch) -> Vec<i64> {
    let id = |key: &RecordKey| i64::from_str_radix(key.name.rsplit('/').next().unwrap_or_default(), 16).unwrap_or(0);
    std::iter::from_fn(|| watch.try_next())
        .map(|change| match change {
            Change::Put { key, .. } => id(&key),
            Change::Delete { key } => -id(&key),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn keys_and_values_are_dynamos_and_all_hang_on_one_lease() {
    let etcd = MemoryEtcd::start();
    let process = join(&etcd).await;
    let id = process.instance_id(&World::default());
    let second = process.member();
    process.register(&endpoint(id.0, 1)).await.unwrap();
    second.register(&endpoint(7, 1)).await.unwrap();
    let leases = etcd.leases();
    assert_eq!(
        leases.iter().map(|lease| lease.unsigned_abs()).collect::<Vec<_>>(),
        [id.0],
        "the lease is the instance"
    );
    assert!(etcd.keys().iter().all(|(_, lease)| *lease == leases[0]), "{:?}", etcd.keys());
    assert_ne!(process.instance_id(&World::default()), id, "another instance of the process has another id");
    assert_eq!(
        etcd.value("v1/instances/dynamo/backend/generate/7").unwrap(),
        r#"{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":7,"transport":{"tcp":"127.0.0.1:1/7/dynamo/backend/generate"},"device_type":"cpu","request_plane_codec":"msgpack"}"#
    );
    sleep(10 * MINUTE).await;
    assert_eq!(etcd.keys().len(), 2, "kept alive");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_withdrawn_is_deleted_at_once_and_leaving_revokes_the_lease() {
    let etcd = MemoryEtcd::start();
    let frontend = join(&etcd).await;
    let leaving = worker(&etcd, 1).await;
    let other = leaving.member();
    other.register(&endpoint(2, 1)).await.unwrap();
    leaving.withdraw(&RecordKey::of(&endpoint(1, 1))).await.unwrap();
    assert_eq!(etcd.keys().len(), 1, "gone when withdraw returns");
    serves(&frontend, &[2], SOON).await;
    drop(other);
    serves(&frontend, &[], SOON).await;
    assert_eq!(etcd.leases().len(), 1);
    soon("the end of the lease", leaving.leave()).await;
    assert!(etcd.leases().is_empty(), "the frontend has no record, so no lease");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_is_gone_after_its_lease() {
    let etcd = MemoryEtcd::start();
    let frontend = join(&etcd).await;
    let dead = worker(&etcd, 1).await;
    serves(&frontend, &[1], SOON).await;
    // Killed: nobody says good-bye.
    let Store::Etcd(store) = &dead.member.store else { panic!("an etcd store") };
    let lonely = store.clone();
    lonely.die();
    serves(&frontend, &[], TTL + SOON).await;
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_etcd_cost_nobody_a_worker_and_new_ones_are_there_when_it_is_back() {
    let etcd = MemoryEtcd::start();
    let (_one, _two) = (worker(&etcd, 1).await, worker(&etcd, 2).await);
    let frontend = join(&etcd).await;
    let mut watch = frontend.watch();
    assert_eq!(told(&mut watch), [1, 2]);
    follows(&frontend).await;
    etcd.go_down();
    sleep(MINUTE).await;
    assert!(!frontend.health().connected);
    let new = join(&etcd).await;
    let new = tokio::spawn(async move { new.register(&endpoint(3, 1)).await.map(|()| new) });
    sleep(9 * MINUTE).await;
    assert_eq!(served(&frontend), [1, 2]);
    assert!(!new.is_finished(), "a new worker waits");
    etcd.come_up();
    let _new = soon("the new worker is registered", new).await.unwrap().unwrap();
    serves(&frontend, &[1, 2, 3], SOON).await;
    sleep(10 * MINUTE).await;
    assert_eq!(told(&mut watch), [3], "no worker was dropped, not even for a moment");
    assert_eq!(frontend.health().interruptions, 1);
    assert_eq!(etcd.keys().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_hangs_is_an_etcd_that_is_away() {
    let etcd = MemoryEtcd::start();
    let one = worker(&etcd, 1).await;
    let frontend = join(&etcd).await;
    follows(&frontend).await;
    etcd.hang();
    sleep(10 * MINUTE).await;
    assert_eq!(served(&frontend), [1]);
    etcd.come_up();
    sleep(SOON).await;
    one.register(&endpoint(2, 1)).await.unwrap();
    serves(&frontend, &[1, 2], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn etcd_back_without_its_data_is_written_again_by_all_and_costs_nobody_a_worker() {
    let etcd = MemoryEtcd::start();
    let (_one, _two) = (worker(&etcd, 1).await, worker(&etcd, 2).await);
    let frontend = join(&etcd).await;
    let mut watch = frontend.watch();
    assert_eq!(told(&mut watch), [1, 2]);
    etcd.go_down();
    sleep(3 * TTL).await;
    etcd.come_up_empty();
    let written = async {
        while etcd.keys().len() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("every record is written again", written).await;
    sleep(10 * MINUTE).await;
    assert_eq!(told(&mut watch), [] as [i64; 0], "the frontend never noticed");
    let keys: Vec<_> = etcd.keys().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [key_of(1), key_of(2)], "the same keys as before");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_died_while_etcd_lost_its_data_is_dropped_after_the_grace() {
    let etcd = MemoryEtcd::start();
    let (one, _two) = (worker(&etcd, 1).await, worker(&etcd, 2).await);
    let frontend = join(&etcd).await;
    etcd.go_down();
    let Store::Etcd(store) = &one.member.store else { panic!("an etcd store") };
    store.die();
    etcd.come_up_empty();
    let came_up = Instant::now();
    sleep(TTL).await;
    assert_eq!(served(&frontend), [1, 2], "it may only be late");
    serves(&frontend, &[2], 2 * TTL).await;
    assert!(came_up.elapsed() <= 2 * TTL + SOON, "{:?}", came_up.elapsed());
}

#[tokio::test(start_paused = true)]
async fn data_that_is_lost_between_a_list_and_its_watch_leaves_no_watch_from_the_future() {
    let etcd = MemoryEtcd::start();
    let (one, two) = (worker(&etcd, 1).await, worker(&etcd, 2).await);
    // Opened, and not yet run: its list is of the old life, its watch of the new one.
    let frontend = join(&etcd).await;
    for gone in [&one, &two] {
        let Store::Etcd(store) = &gone.member.store else { panic!("an etcd store") };
        store.die();
    }
    etcd.come_up_empty();
    let _three = worker(&etcd, 3).await;
    serves(&frontend, &[1, 2, 3], SOON).await;
    serves(&frontend, &[3], 2 * TTL + SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_is_made_again_with_the_same_records() {
    let etcd = MemoryEtcd::start();
    let one = worker(&etcd, 1).await;
    let frontend = join(&etcd).await;
    let before = etcd.keys();
    etcd.lose_leases();
    assert!(etcd.keys().is_empty(), "{:?}", etcd.keys());
    let back = async {
        while etcd.keys() != before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the record is back", back).await;
    serves(&frontend, &[1], SOON).await;
    assert_eq!(one.health().leases_lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_ours_that_someone_deleted_comes_back() {
    let etcd = MemoryEtcd::start();
    let _one = worker(&etcd, 1).await;
    sleep(SOON).await;
    etcd.delete_by_hand(&key_of(1));
    let back = async {
        while etcd.keys().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the record is back", back).await;
}

#[tokio::test(start_paused = true)]
async fn history_that_was_compacted_away_hides_neither_a_new_worker_nor_one_that_left() {
    let etcd = MemoryEtcd::start();
    let (_one, two) = (worker(&etcd, 1).await, worker(&etcd, 2).await);
    let frontend = join(&etcd).await;
    serves(&frontend, &[1, 2], SOON).await;
    // In one go, so that the watch is not back in between.
    etcd.cut();
    etcd.delete_by_hand(&key_of(2));
    etcd.compact();
    let Store::Etcd(store) = &two.member.store else { panic!("an etcd store") };
    store.die();
    let _three = worker(&etcd, 3).await;
    serves(&frontend, &[1, 2, 3], SOON).await;
    serves(&frontend, &[1, 3], 2 * TTL + SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_etcd_loses_no_lease_and_no_worker() {
    let etcd = MemoryEtcd::start();
    etcd.be_slow(Duration::from_millis(2_500));
    let one = worker(&etcd, 1).await;
    let frontend = join(&etcd).await;
    let mut watch = frontend.watch();
    sleep(10 * MINUTE).await;
    assert_eq!(told(&mut watch), [1]);
    assert_eq!(one.health().leases_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_leaves_does_not_wait_for_an_etcd_that_is_away() {
    let etcd = MemoryEtcd::start();
    let one = worker(&etcd, 1).await;
    one.register(&endpoint(2, 1)).await.unwrap();
    etcd.hang();
    let began = Instant::now();
    for instance in [1, 2] {
        let error = one.withdraw(&RecordKey::of(&endpoint(instance, 1))).await.unwrap_err();
        assert!(error.to_string().contains("within 30 s"), "{error}");
    }
    one.leave().await;
    assert!(began.elapsed() < 3 * SOON, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_not_there_at_the_start_is_waited_for() {
    let etcd = MemoryEtcd::start();
    etcd.go_down();
    let frontend = soon("joining without etcd", join(&etcd)).await;
    let early = join(&etcd).await;
    let early = tokio::spawn(async move { early.register(&endpoint(1, 1)).await.map(|()| early) });
    sleep(10 * MINUTE).await;
    assert!(!early.is_finished());
    etcd.come_up();
    let _early = soon("registered", early).await.unwrap().unwrap();
    serves(&frontend, &[1], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_will_not_have_us_says_so_at_the_start_and_is_waited_for_later() {
    let etcd = MemoryEtcd::start();
    let one = worker(&etcd, 1).await;
    let frontend = join(&etcd).await;
    for fault in [EtcdFault::Login, EtcdFault::Denied, EtcdFault::Tls] {
        etcd.refuse(Some(fault));
        let error = EtcdStore::on(Arc::new(etcd.clone()), TTL).await.expect_err("it must not start");
        assert!(!error.may_heal() && !error.remedy().is_empty(), "{error}");
    }
    // A password that was changed under a running process must not cost its workers.
    etcd.cut();
    sleep(TTL / 2).await;
    assert_eq!(served(&frontend), [1]);
    etcd.refuse(None);
    sleep(SOON).await;
    assert!(frontend.health().connected);
    assert_eq!(etcd.keys().len(), 1);
    etcd.refuse(Some(EtcdFault::Denied));
    let error = soon("a new record is given back", one.register(&endpoint(2, 1))).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::Register { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_given_up_leaves_nothing_behind() {
    let etcd = MemoryEtcd::start();
    let one = worker(&etcd, 1).await;
    etcd.go_down();
    assert!(timeout(SOON, one.register(&endpoint(2, 1))).await.is_err());
    one.withdraw_all().await;
    etcd.come_up();
    sleep(SOON).await;
    assert!(etcd.keys().is_empty(), "{:?}", etcd.keys());
}
