//! The whole store against a cluster in memory, in paused time: what an outage, a loss of data, a deletion or a pod that is
//! not ready does to those who registered and to those who watch.

use super::super::stage::endpoint;
use super::super::{Change, Discovery, DiscoveryError, RecordKey, Store, Watch};
use super::config::{KubernetesConfig, KubernetesMode};
use super::error::{KubernetesError, KubernetesFault};
use super::memory::{MemoryCluster, Seat};
use super::mirror::GRACE;
use super::{KubernetesStore, data};
use crate::world::World;
use protocol::discovery::Record;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);

/// Longer than any promise that is not about minutes; time is paused, so it costs nothing.
const SOON: Duration = Duration::from_secs(5);

async fn store(cluster: &Arc<MemoryCluster>, pod: &str, mode: KubernetesMode) -> Result<Discovery, KubernetesError> {
    let config = KubernetesConfig {
        pod_name: pod.into(),
        pod_uid: format!("uid-{pod}"),
        k8s_namespace: None,
        mode,
        field_manager: KubernetesConfig::WORKER.into(),
    };
    let seat = Seat { cluster: cluster.clone(), pod: config.object_name(), uid: config.pod_uid.clone() };
    let store = KubernetesStore::on(Arc::new(seat), &config).await?;
    Ok(Discovery::on(Store::Kubernetes(Arc::new(store))))
}

async fn join(cluster: &Arc<MemoryCluster>, pod: &str) -> Discovery {
    store(cluster, pod, KubernetesMode::Pod).await.expect("the cluster lets us in")
}

/// A worker process with one record, in the pod `w{instance}`.
async fn worker(cluster: &Arc<MemoryCluster>, instance: u64) -> Discovery {
    let discovery = join(cluster, &format!("w{instance}")).await;
    discovery.register(&endpoint(instance, 1)).await.expect("the record is taken");
    discovery
}

fn key_of(instance: u64) -> RecordKey {
    RecordKey::of(&endpoint(instance, 1))
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

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, reached).await;
}

/// Waits until the frontend serves exactly these.
async fn serves(frontend: &Discovery, instances: &[u64]) {
    until(&format!("{instances:?} served"), || served(frontend) == instances).await;
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

fn die(discovery: &Discovery) {
    let Store::Kubernetes(store) = &discovery.member.store else { panic!("a Kubernetes store") };
    store.die();
}

/// Two workers that are ready, and a frontend that serves them.
async fn fleet(cluster: &Arc<MemoryCluster>) -> (Discovery, Discovery, Discovery) {
    cluster.ready("slice", &["w1", "w2"]);
    let (one, two) = (worker(cluster, 1).await, worker(cluster, 2).await);
    let frontend = join(cluster, "f").await;
    assert_eq!(served(&frontend), [1, 2], "read when it is joined");
    (one, two, frontend)
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_served_while_its_pod_is_ready_and_only_then() {
    let cluster = MemoryCluster::start();
    let (_one, _two, frontend) = fleet(&cluster).await;
    cluster.ready("slice", &["w2"]);
    serves(&frontend, &[2]).await;
    cluster.ready("slice", &["w1", "w2"]);
    serves(&frontend, &[1, 2]).await;
    assert!(cluster.object("f").is_none(), "who registers nothing has no object");
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_is_gone_at_once_and_the_last_takes_the_object_with_it() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    let second = one.member();
    second.register(&endpoint(3, 1)).await.unwrap();
    serves(&frontend, &[1, 2, 3]).await;
    one.withdraw(&key_of(1)).await.unwrap();
    assert_eq!(data::raw(&cluster.object("w1").unwrap().data).into_keys().collect::<Vec<_>>(), [key_of(3)]);
    serves(&frontend, &[2, 3]).await;
    drop(second);
    serves(&frontend, &[2]).await;
    until("no object", || cluster.object("w1").is_none()).await;
    soon("leaving with nothing there", one.leave()).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_has_the_id_of_its_pod_unless_another_has_it() {
    let cluster = MemoryCluster::start();
    let process = join(&cluster, "mocker-0").await;
    let id = process.instance_id(&World::default());
    assert_eq!(id.0, 0x12_5b4e_0b24_710a, "as a stock mocker in this pod");
    process.register(&endpoint(id.0, 1)).await.unwrap();
    let second = process.instance_id(&World::default());
    assert!(second != id && second.0 < 1 << 53, "{second}");
    process.withdraw(&key_of(id.0)).await.unwrap();
    assert_eq!(process.instance_id(&World::default()), id, "an engine that was started again is the same instance");
}

#[tokio::test(start_paused = true)]
async fn leaving_removes_the_object() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    soon("leaving", one.leave()).await;
    assert!(cluster.object("w1").is_none());
    serves(&frontend, &[2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_map_that_the_server_made_null_is_empty_and_what_is_left_is_served() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    let channel: Record = serde_json::from_value(serde_json::json!({
        "type": "EventChannel", "topic": "t", "instance_id": 5, "scope": {"kind": "namespace", "namespace": "d"},
        "transport": {"kind": "Zmq", "config": {"endpoint": "tcp://127.0.0.1:1"}}
    }))
    .unwrap();
    one.register(&channel).await.unwrap();
    until("three records", || frontend.snapshot().len() == 3).await;
    one.withdraw(&RecordKey::of(&channel)).await.unwrap();
    assert!(cluster.object("w1").unwrap().data["event_channels"].is_null(), "as a real API server does");
    until("two records", || frontend.snapshot().len() == 2).await;
    assert_eq!(served(&frontend), [1, 2]);
    assert_eq!(one.health().leases_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_the_api_server_cost_nobody_a_worker_and_new_ones_are_there_when_it_is_back() {
    for hangs in [false, true] {
        let cluster = MemoryCluster::start();
        let (_one, _two, frontend) = fleet(&cluster).await;
        let mut watch = frontend.watch();
        assert_eq!(told(&mut watch), [1, 2]);
        if hangs {
            cluster.hang();
            cluster.cut();
        } else {
            cluster.go_down();
        }
        sleep(MINUTE).await;
        assert!(!frontend.health().connected);
        let new = tokio::spawn({
            let cluster = cluster.clone();
            async move { worker(&cluster, 3).await }
        });
        sleep(9 * MINUTE).await;
        assert_eq!(served(&frontend), [1, 2]);
        assert!(!new.is_finished(), "a new worker waits");
        cluster.come_up();
        cluster.ready("slice", &["w1", "w2", "w3"]);
        let _new = timeout(MINUTE, new).await.expect("the new worker is registered").unwrap();
        until("following", || frontend.health().connected).await;
        serves(&frontend, &[1, 2, 3]).await;
        sleep(10 * MINUTE).await;
        assert_eq!(told(&mut watch), [3], "no worker was dropped, not even for a moment");
        assert_eq!(frontend.health().interruptions, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_its_data_is_written_again_and_costs_nobody_a_worker() {
    let cluster = MemoryCluster::start();
    let (_one, _two, frontend) = fleet(&cluster).await;
    let mut watch = frontend.watch();
    told(&mut watch);
    cluster.go_down();
    sleep(MINUTE).await;
    cluster.come_up_empty();
    until("every object is written again", || cluster.object("w1").is_some() && cluster.object("w2").is_some()).await;
    sleep(GRACE / 2).await;
    cluster.ready("slice", &["w1", "w2"]);
    sleep(10 * MINUTE).await;
    assert_eq!(told(&mut watch), [] as [i64; 0], "the frontend never noticed");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_died_while_the_api_server_was_away_is_dropped_after_the_grace() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    cluster.go_down();
    die(&one);
    cluster.delete_by_hand("w1");
    cluster.come_up();
    sleep(GRACE / 2).await;
    assert_eq!(served(&frontend), [1, 2], "it may only be late");
    sleep(GRACE / 2 + SOON).await;
    assert_eq!(served(&frontend), [2]);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_ours_that_someone_deleted_comes_back() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    cluster.delete_by_hand("w1");
    until("the object is back", || cluster.object("w1").is_some()).await;
    serves(&frontend, &[1, 2]).await;
    assert_eq!(one.health().leases_lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_deletes_our_object_for_ever_costs_two_writes_a_minute() {
    let cluster = MemoryCluster::start();
    let _one = worker(&cluster, 1).await;
    let deleting = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            loop {
                sleep(Duration::from_millis(100)).await;
                cluster.delete_by_hand("w1");
            }
        }
    });
    sleep(10 * MINUTE).await;
    let before = cluster.writes();
    sleep(10 * MINUTE).await;
    let a_minute = (cluster.writes() - before) / 10;
    assert!((1..=4).contains(&a_minute), "{a_minute}");
    deleting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_leaves_does_not_wait_for_an_api_server_that_is_away() {
    let cluster = MemoryCluster::start();
    let one = worker(&cluster, 1).await;
    cluster.hang();
    let began = Instant::now();
    let error = one.withdraw(&key_of(1)).await.unwrap_err();
    assert!(error.to_string().contains("goes with the pod"), "{error}");
    one.leave().await;
    assert!(began.elapsed() < 3 * SOON, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_not_there_at_the_start_is_waited_for() {
    let cluster = MemoryCluster::start();
    cluster.go_down();
    cluster.ready("slice", &["w1"]);
    let frontend = soon("joining without it", join(&cluster, "f")).await;
    let early = tokio::spawn({
        let cluster = cluster.clone();
        async move { worker(&cluster, 1).await }
    });
    sleep(10 * MINUTE).await;
    assert!(!early.is_finished());
    cluster.come_up();
    let _early = soon("registered", early).await.unwrap();
    serves(&frontend, &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_will_not_have_us_says_so_at_the_start_and_is_waited_for_later() {
    let cluster = MemoryCluster::start();
    let (one, _two, frontend) = fleet(&cluster).await;
    for fault in [KubernetesFault::Login, KubernetesFault::Denied, KubernetesFault::Unknown, KubernetesFault::Tls] {
        cluster.refuse(Some(fault));
        let error = store(&cluster, "new", KubernetesMode::Pod).await.expect_err("it must not start");
        assert!(error.fault == fault && !error.remedy().is_empty(), "{error}");
    }
    // A Role that was taken from a running pod must not cost its workers.
    cluster.cut();
    sleep(10 * MINUTE).await;
    assert_eq!(served(&frontend), [1, 2]);
    let error = soon("a new record is given back", one.register(&endpoint(3, 1))).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::RegisterInCluster { .. }), "{error:?}");
    cluster.refuse(None);
    until("following again", || frontend.health().connected).await;
    assert_eq!(data::raw(&cluster.object("w1").unwrap().data).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_given_up_leaves_nothing_behind() {
    let cluster = MemoryCluster::start();
    let one = worker(&cluster, 1).await;
    cluster.go_down();
    assert!(timeout(SOON, one.register(&endpoint(2, 1))).await.is_err());
    one.withdraw_all().await;
    cluster.come_up();
    until("nothing is left", || cluster.object("w1").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_came_back_removes_what_it_had_told_before() {
    let cluster = MemoryCluster::start();
    let mode = || KubernetesMode::Container("engine-0".into());
    let before = store(&cluster, "w1", mode()).await.unwrap();
    before.register(&endpoint(1, 1)).await.unwrap();
    die(&before);
    assert!(cluster.object("w1-engine-0").is_some());
    let _after = store(&cluster, "w1", mode()).await.unwrap();
    until("the old object is gone", || cluster.object("w1-engine-0").is_none()).await;
}
