//! Discovery over files as other processes see it: two members of one folder, strangers that write by hand, and what
//! happens to the records of the dead.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

use protocol::discovery::{Codec, EndpointRecord, Record, RequestTransport};
use protocol::ids::InstanceId;
use runtime::discovery::{BUCKETS, Change, Discovery, RecordKey, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// No change should take longer; a change that takes as long has not come.
const CAP: Duration = Duration::from_secs(30);

fn endpoint(instance: u64, port: u16) -> Record {
    Record::Endpoint(EndpointRecord {
        component: "backend".into(),
        endpoint: "generate".into(),
        namespace: "dynamo".into(),
        instance_id: InstanceId(instance),
        transport: RequestTransport::Tcp(format!("127.0.0.1:{port}/{instance:x}/dynamo/backend/generate")),
        device_type: Some("cpu".into()),
        request_plane_codec: Some(Codec::Msgpack),
    })
}

fn file_of(root: &Path, instance: u64) -> PathBuf {
    root.join("v1/instances").join(format!("dynamo%2Fbackend%2Fgenerate%2F{instance:x}"))
}

async fn next(watch: &mut Watch) -> Change {
    tokio::time::timeout(CAP, watch.next()).await.expect("a change within the cap").expect("the store is open")
}

async fn put_of(watch: &mut Watch, record: &Record) {
    assert_eq!(next(watch).await, Change::Put { key: RecordKey::of(record), record: record.clone() });
}

async fn delete_of(watch: &mut Watch, record: &Record) {
    assert_eq!(next(watch).await, Change::Delete { key: RecordKey::of(record) });
}

/// Sets a file's time back, as if its owner had died then.
fn age(path: &Path, seconds: u64) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[tokio::test]
async fn what_one_member_registers_the_other_sees_and_sees_go() {
    let folder = TempDir::new().unwrap();
    let worker = Discovery::file(folder.path().to_owned()).await.unwrap();
    let frontend = Discovery::file(folder.path().to_owned()).await.unwrap();
    let mut watch = frontend.watch();
    let record = endpoint(0x8efc_80f7_3ac8_82a4, 1234);
    worker.register(&record).await.unwrap();
    put_of(&mut watch, &record).await;

    let path = file_of(folder.path(), 0x8efc_80f7_3ac8_82a4);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, serde_json::to_string(&record).unwrap(), "compact JSON without a newline");

    let moved = endpoint(0x8efc_80f7_3ac8_82a4, 4321);
    worker.register(&moved).await.unwrap();
    put_of(&mut watch, &moved).await;
    worker.withdraw_all().await;
    assert!(!path.exists(), "gone when withdraw_all returns");
    delete_of(&mut watch, &moved).await;
}

#[tokio::test]
async fn a_member_that_joins_late_has_all_records_at_once() {
    let folder = TempDir::new().unwrap();
    let worker = Discovery::file(folder.path().to_owned()).await.unwrap();
    for instance in 1..=3 {
        worker.register(&endpoint(instance, 1)).await.unwrap();
    }
    let late = Discovery::file(folder.path().to_owned()).await.unwrap();
    assert_eq!(late.snapshot().len(), 3);
    let mut watch = late.watch();
    let first: Vec<_> = std::iter::from_fn(|| watch.try_next()).collect();
    assert_eq!(first.len(), 3);
}

#[tokio::test]
async fn dropping_a_member_withdraws_its_records_only() {
    let folder = TempDir::new().unwrap();
    let first = Discovery::file(folder.path().to_owned()).await.unwrap();
    let second = first.member();
    first.register(&endpoint(1, 1)).await.unwrap();
    second.register(&endpoint(2, 2)).await.unwrap();
    let clone = first.clone();
    drop(first);
    assert!(file_of(folder.path(), 1).exists(), "a clone is the same member");
    drop(clone);
    assert!(!file_of(folder.path(), 1).exists());
    assert!(file_of(folder.path(), 2).exists());
}

#[tokio::test]
async fn records_of_the_dead_expire_and_those_of_the_living_do_not() {
    let folder = TempDir::new().unwrap();
    let worker = Discovery::file(folder.path().to_owned()).await.unwrap();
    worker.register(&endpoint(1, 1)).await.unwrap();
    let frontend = Discovery::file(folder.path().to_owned()).await.unwrap();
    let mut watch = frontend.watch();
    put_of(&mut watch, &endpoint(1, 1)).await;

    // Another worker's file appears, then is as old as a killed worker's.
    fs::write(file_of(folder.path(), 2), serde_json::to_vec(&endpoint(2, 2)).unwrap()).unwrap();
    put_of(&mut watch, &endpoint(2, 2)).await;
    age(&file_of(folder.path(), 2), 9);
    age(&file_of(folder.path(), 2), 11);
    delete_of(&mut watch, &endpoint(2, 2)).await;
    assert!(!file_of(folder.path(), 2).exists());
    assert!(file_of(folder.path(), 1).exists());
}

#[tokio::test]
async fn a_new_member_does_not_meet_workers_that_were_killed_last_week() {
    let folder = TempDir::new().unwrap();
    fs::create_dir_all(folder.path().join("v1/instances")).unwrap();
    fs::write(file_of(folder.path(), 7), serde_json::to_vec(&endpoint(7, 7)).unwrap()).unwrap();
    age(&file_of(folder.path(), 7), 7 * 24 * 3600);
    let member = Discovery::file(folder.path().to_owned()).await.unwrap();
    assert_eq!(member.snapshot(), []);
    assert!(!file_of(folder.path(), 7).exists());
}

#[tokio::test]
async fn a_record_of_ours_that_someone_deleted_comes_back() {
    let folder = TempDir::new().unwrap();
    let worker = Discovery::file(folder.path().to_owned()).await.unwrap();
    let mut watch = worker.watch();
    worker.register(&endpoint(1, 1)).await.unwrap();
    put_of(&mut watch, &endpoint(1, 1)).await;
    fs::remove_file(file_of(folder.path(), 1)).unwrap();
    delete_of(&mut watch, &endpoint(1, 1)).await;
    put_of(&mut watch, &endpoint(1, 1)).await;
}

#[tokio::test]
async fn a_folder_that_was_removed_and_made_again_is_watched_again() {
    let folder = TempDir::new().unwrap();
    let member = Discovery::file(folder.path().to_owned()).await.unwrap();
    let mut watch = member.watch();
    fs::remove_dir_all(folder.path().join("v1")).unwrap();
    for round in 1..=2 {
        let record = endpoint(round, 1);
        // The folder comes back with the next look at it.
        let written = async {
            while fs::write(file_of(folder.path(), round), serde_json::to_vec(&record).unwrap()).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(CAP, written).await.expect("the folder is made again");
        put_of(&mut watch, &record).await;
    }
}

#[tokio::test]
async fn temp_files_and_malformed_records_are_skipped_until_they_are_good() {
    let folder = TempDir::new().unwrap();
    let member = Discovery::file(folder.path().to_owned()).await.unwrap();
    let mut watch = member.watch();
    let instances = folder.path().join("v1/instances");
    let good = serde_json::to_vec(&endpoint(1, 1)).unwrap();
    fs::write(instances.join(".tmp_0123456789abcdef"), &good).unwrap();
    fs::write(instances.join("dynamo%2Fbackend%2Fgenerate%2F2"), b"{\"type\":\"Endpoint\",").unwrap();
    fs::write(instances.join("dynamo%2Fbackend%2Fgenerate%2F3"), b"").unwrap();
    fs::write(instances.join("not%ZZescaped"), &good).unwrap();
    fs::write(folder.path().join("v1/mdc/dynamo%2Fbackend%2Fgenerate%2F1"), &good).unwrap();
    fs::create_dir(instances.join("dynamo%2Fbackend%2Fgenerate%2F4")).unwrap();
    // A good one written last is the first that is told.
    fs::write(file_of(folder.path(), 1), &good).unwrap();
    put_of(&mut watch, &endpoint(1, 1)).await;
    assert_eq!(watch.try_next(), None);
    fs::write(file_of(folder.path(), 2), serde_json::to_vec(&endpoint(2, 2)).unwrap()).unwrap();
    put_of(&mut watch, &endpoint(2, 2)).await;
    // A record that turns bad is gone.
    fs::write(file_of(folder.path(), 1), b"[]").unwrap();
    delete_of(&mut watch, &endpoint(1, 1)).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Discovery::file(file.clone()).await.unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("DYN_FILE_KV"), "{error}");
}

#[tokio::test]
async fn the_memory_store_tells_every_member() {
    let store = Discovery::memory();
    let (worker, other) = (store.member(), store.member());
    let mut watch = store.watch();
    worker.register(&endpoint(1, 1)).await.unwrap();
    other.register(&endpoint(2, 2)).await.unwrap();
    put_of(&mut watch, &endpoint(1, 1)).await;
    put_of(&mut watch, &endpoint(2, 2)).await;
    worker.withdraw_all().await;
    delete_of(&mut watch, &endpoint(1, 1)).await;
    drop(other);
    delete_of(&mut watch, &endpoint(2, 2)).await;
}

#[tokio::test]
async fn the_stock_layout_is_read_as_recorded() {
    // Written by stock processes: 4 records of a worker's kinds, with `-` and `_` escaped in the names.
    let recorded = [
        (
            "instances",
            "dynamo%2Fbackend%2Fworker%5Fkv%5Fquery%5Fsource%5Fcef65349e66ab%2F8efc80f73ac882a4",
            r#"{"type":"Endpoint","component":"backend","endpoint":"worker_kv_query_source_cef65349e66ab","namespace":"dynamo","instance_id":10303251846848348836,"transport":{"tcp":"127.0.0.1:36365/8efc80f73ac882a4/dynamo/backend/worker_kv_query_source_cef65349e66ab"},"device_type":"cuda","request_plane_codec":"msgpack"}"#,
        ),
        (
            "event_channels",
            "namespace%2Fdynamo%2Fcomponent%2Fbackend%2Fendpoint%2Fgenerate%2Ftopic%2Fkv%2Devents%2Fcef65349e66ab",
            r#"{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},"topic":"kv-events","instance_id":3640917674059435,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://127.0.0.1:45023"}}}"#,
        ),
    ];
    let folder = TempDir::new().unwrap();
    for (bucket, name, content) in recorded {
        assert!(BUCKETS.contains(&bucket));
        fs::create_dir_all(folder.path().join("v1").join(bucket)).unwrap();
        fs::write(folder.path().join("v1").join(bucket).join(name), content).unwrap();
    }
    let member = Discovery::file(folder.path().to_owned()).await.unwrap();
    let keys: Vec<_> = member
        .snapshot()
        .into_iter()
        .map(|(key, record)| {
            assert_eq!(RecordKey::of(&record), key, "the file's name is the record's key");
            key.to_string()
        })
        .collect();
    assert_eq!(
        keys,
        [
            "v1/event_channels/namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/cef65349e66ab",
            "v1/instances/dynamo/backend/worker_kv_query_source_cef65349e66ab/8efc80f73ac882a4",
        ]
    );
}
