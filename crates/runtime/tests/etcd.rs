//! Discovery over a real etcd: one member that dies, is away for three leases or comes back empty, three members whose
//! leader is killed, logins and TLS.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

mod etcd_server;
mod ports;

use etcd_server::{EtcdServer, program};
use ports::free_port;
use protocol::discovery::{Codec, EndpointRecord, Record, RequestTransport};
use protocol::ids::InstanceId;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use runtime::discovery::{
    Change, Discovery, DiscoveryError, EtcdConfig, EtcdError, EtcdFault, EtcdTls, EtcdUser, RecordKey, Watch,
};
use runtime::world::World;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No change should take longer; a change that takes as long has not come.
const CAP: Duration = Duration::from_secs(120);

/// Short, so that three of them pass in a test, and long against a pause of a busy machine.
const TTL: Duration = Duration::from_secs(6);

fn endpoint(instance: u64) -> Record {
    Record::Endpoint(EndpointRecord {
        component: "backend".into(),
        endpoint: "generate".into(),
        namespace: "dynamo".into(),
        instance_id: InstanceId(instance),
        transport: RequestTransport::Tcp(format!("127.0.0.1:1/{instance:x}/dynamo/backend/generate")),
        device_type: Some("cpu".into()),
        request_plane_codec: Some(Codec::Msgpack),
    })
}

fn key(instance: u64) -> String {
    RecordKey::of(&endpoint(instance)).to_string()
}

fn config(endpoints: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: EtcdConfig::parse_endpoints(endpoints).unwrap(),
        user: None,
        tls: EtcdTls::default(),
        lease_ttl: TTL,
    }
}

async fn join(server: &EtcdServer) -> Discovery {
    Discovery::etcd(config(&server.endpoints())).await.unwrap()
}

async fn worker(server: &EtcdServer, instance: u64) -> Discovery {
    let discovery = join(server).await;
    register(&discovery, instance).await;
    discovery
}

async fn register(discovery: &Discovery, instance: u64) {
    let registered = tokio::time::timeout(CAP, discovery.register(&endpoint(instance))).await;
    registered.expect("the record is written within the cap").unwrap();
}

/// Waits for the put of each, in any order; any delete on the way fails.
async fn puts(watch: &mut Watch, instances: &[u64]) {
    let mut left: Vec<_> = instances.iter().map(|instance| RecordKey::of(&endpoint(*instance))).collect();
    while !left.is_empty() {
        let change = tokio::time::timeout(CAP, watch.next()).await.expect("a change within the cap").unwrap();
        match change {
            Change::Put { key, .. } => left.retain(|wanted| *wanted != key),
            Change::Delete { key } => panic!("{key} was dropped"),
        }
    }
}

async fn deleted(watch: &mut Watch, instance: u64) {
    let change = tokio::time::timeout(CAP, watch.next()).await.expect("a change within the cap").unwrap();
    assert_eq!(change, Change::Delete { key: RecordKey::of(&endpoint(instance)) });
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let started = Instant::now();
    while !look() {
        assert!(started.elapsed() < CAP, "waited {CAP:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets this much of the outage or of a lease pass; fails as soon as a worker is dropped in it.
async fn nobody_is_dropped_for(watch: &mut Watch, time: Duration) {
    let change = tokio::time::timeout(time, async {
        loop {
            match watch.next().await {
                Some(Change::Put { .. }) => {}
                other => return other,
            }
        }
    });
    assert!(change.await.is_err(), "a worker was dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lie_in_etcd_as_stock_processes_write_them_and_go_when_withdrawn() {
    let Some(program) = program() else { return };
    let server = EtcdServer::one(&program);
    let frontend = join(&server).await;
    let mut watch = frontend.watch();
    let process = join(&server).await;
    let id = process.instance_id(&World::default()).0;
    register(&process, id).await;
    puts(&mut watch, &[id]).await;
    let value = serde_json::to_string(&endpoint(id)).unwrap();
    assert_eq!(server.records(), [(key(id), value)]);
    let leases = server.ctl(&["lease", "list"]).unwrap();
    assert!(leases.contains(&format!("{id:x}")), "the instance id is the lease's: {leases}");
    process.withdraw(&RecordKey::of(&endpoint(id))).await.unwrap();
    assert_eq!(server.records(), []);
    deleted(&mut watch, id).await;
    process.leave().await;
    let leases = server.ctl(&["lease", "list"]).unwrap();
    assert!(!leases.contains(&format!("{id:x}")), "{leases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_leases_without_etcd_drop_nobody_and_a_new_worker_is_there_when_it_is_back() {
    let Some(program) = program() else { return };
    let mut server = EtcdServer::one(&program);
    let _one = worker(&server, 1).await;
    let frontend = join(&server).await;
    let mut watch = frontend.watch();
    puts(&mut watch, &[1]).await;
    server.kill(0);
    let new = join(&server).await;
    let new = tokio::spawn(async move {
        register(&new, 2).await;
        new
    });
    nobody_is_dropped_for(&mut watch, 3 * TTL).await;
    assert!(!new.is_finished() && !frontend.health().connected);
    server.start(0);
    puts(&mut watch, &[2]).await;
    let _new = new.await.unwrap();
    nobody_is_dropped_for(&mut watch, 2 * TTL).await;
    assert_eq!(server.records().len(), 2, "both leases are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_back_with_empty_data_is_written_again_and_drops_nobody_but_the_dead() {
    let Some(program) = program() else { return };
    let mut server = EtcdServer::one(&program);
    let (_one, two) = (worker(&server, 1).await, worker(&server, 2).await);
    // A stranger's, which nobody writes again.
    let dead = serde_json::to_string(&endpoint(3)).unwrap();
    server.ctl(&["put", &key(3), &dead]).unwrap();
    let frontend = join(&server).await;
    let mut watch = frontend.watch();
    puts(&mut watch, &[1, 2, 3]).await;
    server.kill(0);
    server.wipe(0);
    server.start(0);
    until("the living are written again", || server.records().len() == 2).await;
    assert_eq!(server.records().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(1), key(2)]);
    // The first thing that the frontend hears is the end of the dead one's grace.
    deleted(&mut watch, 3).await;
    two.withdraw_all().await;
    deleted(&mut watch, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_somebody_revoked_is_made_again() {
    let Some(program) = program() else { return };
    let server = EtcdServer::one(&program);
    let process = join(&server).await;
    let id = process.instance_id(&World::default()).0;
    register(&process, id).await;
    until("the watch", || process.health().connected).await;
    server.ctl(&["lease", "revoke", &format!("{id:x}")]).unwrap();
    until("the record is back", || server.records().iter().any(|(name, _)| *name == key(id))).await;
    assert_eq!(process.health().leases_lost, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_while_the_watch_is_away_hides_nothing() {
    let Some(program) = program() else { return };
    let mut server = EtcdServer::one(&program);
    let _one = worker(&server, 1).await;
    server.ctl(&["put", &key(3), &serde_json::to_string(&endpoint(3)).unwrap()]).unwrap();
    let frontend = join(&server).await;
    let mut watch = frontend.watch();
    puts(&mut watch, &[1, 3]).await;
    // The watch is cut; a change and a compaction past it happen before it can be back, unless it is very fast: then it
    // sees the delete itself.
    server.kill(0);
    server.start(0);
    server.until_healthy();
    server.ctl(&["del", &key(3)]).unwrap();
    let said = server.ctl(&["get", "nothing", "-w", "json"]).unwrap();
    let revision = serde_json::from_str::<serde_json::Value>(&said).unwrap()["header"]["revision"].to_string();
    server.ctl(&["compact", &revision]).unwrap();
    deleted(&mut watch, 3).await;
    let _two = worker(&server, 2).await;
    puts(&mut watch, &[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_three_is_killed_and_nobody_notices() {
    let Some(program) = program() else { return };
    let mut server = EtcdServer::three(&program);
    let one = worker(&server, 1).await;
    let frontend = join(&server).await;
    let mut watch = frontend.watch();
    puts(&mut watch, &[1]).await;
    let leader = server.leader();
    server.kill(leader);
    // What is registered during the election is there after it.
    register(&one, 2).await;
    puts(&mut watch, &[2]).await;
    nobody_is_dropped_for(&mut watch, 2 * TTL).await;
    assert_eq!(one.health().leases_lost, 0, "leases outlive an election");
    server.start(leader);
    register(&one, 3).await;
    puts(&mut watch, &[3]).await;
}

fn with_user(server: &EtcdServer, name: &str, password: &str) -> EtcdConfig {
    let user = EtcdUser { name: name.into(), password: password.into() };
    EtcdConfig { user: Some(user), ..config(&server.endpoints()) }
}

/// Why etcd will not have us; within seconds, which the cap stands for here.
async fn refused(config: EtcdConfig) -> EtcdError {
    match tokio::time::timeout(CAP, Discovery::etcd(config)).await.expect("an answer") {
        Err(DiscoveryError::Join(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn check(error: &EtcdError, fault: EtcdFault, words: &[&str]) {
    assert_eq!(error.fault, fault, "{error}");
    assert!(!error.may_heal());
    let said = format!("{error} {}", error.remedy());
    words.iter().for_each(|word| assert!(said.contains(word), "`{word}` is not in: {said}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_again_after_a_restart_and_a_wrong_password_is_told_at_once() {
    let Some(program) = program() else { return };
    let mut server = EtcdServer::one(&program);
    for args in [
        &["user", "add", "root:sesame"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "--prefix=true", "read", "v1/"],
        &["user", "add", "looker:look"],
        &["user", "grant-role", "looker", "reader"],
        &["auth", "enable"],
    ] {
        server.ctl(args).unwrap();
    }
    server.ctl_flags = vec!["--user".into(), "root:sesame".into()];
    let endpoint_name = server.endpoints();
    let wrong = refused(with_user(&server, "root", "open")).await;
    check(&wrong, EtcdFault::Login, &[&endpoint_name, "invalid user ID or password", "ETCD_AUTH_PASSWORD"]);
    let nobody = refused(config(&server.endpoints())).await;
    check(&nobody, EtcdFault::Login, &[&endpoint_name, "user name is empty", "ETCD_AUTH_USERNAME"]);

    let process = Discovery::etcd(with_user(&server, "root", "sesame")).await.unwrap();
    register(&process, 1).await;
    let mut watch = process.watch();
    puts(&mut watch, &[1]).await;
    // Tokens live in the server's memory: after its restart ours is worth nothing.
    server.kill(0);
    server.start(0);
    register(&process, 2).await;
    puts(&mut watch, &[2]).await;

    let looker = Discovery::etcd(with_user(&server, "looker", "look")).await.unwrap();
    puts(&mut looker.watch(), &[1, 2]).await;
    let denied = looker.register(&endpoint(3)).await.unwrap_err();
    let DiscoveryError::Register { source, .. } = denied else { panic!("{denied:?}") };
    check(&source, EtcdFault::Denied, &["permission denied", "v1/"]);
}

/// Certificates of one authority, as files.
struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
    folder: PathBuf,
}

impl Certificates {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = folder.join(format!("{name}.ca.pem"));
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), ca, folder: folder.to_owned() }
    }

    /// A certificate for `host` and its key.
    fn issue(&self, host: &str) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let (cert_path, key_path) =
            (self.folder.join(format!("{host}.pem")), self.folder.join(format!("{host}.key.pem")));
        std::fs::write(&cert_path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_needs_the_right_authority_name_and_client_certificate() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ours, others) = (Certificates::new(folder.path(), "ours"), Certificates::new(folder.path(), "others"));
    let (server_pem, client) = (ours.issue("etcd.test"), ours.issue("client.test"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let flags = ["--cert-file", &text(&server_pem.0), "--key-file", &text(&server_pem.1), "--client-cert-auth"]
        .map(str::to_owned)
        .into_iter()
        .chain(["--trusted-ca-file".to_owned(), text(&ours.ca)])
        .collect::<Vec<_>>();
    let ctl = ["--cacert", &text(&ours.ca), "--cert", &text(&client.0), "--key", &text(&client.1)]
        .map(str::to_owned)
        .into_iter()
        .chain(["--insecure-skip-tls-verify".to_owned()])
        .collect::<Vec<_>>();
    let server = EtcdServer::start_new(&program, 1, "https", &flags, &ctl);
    let good = EtcdTls { ca: Some(ours.ca.clone()), client: Some(client), server_name: Some("etcd.test".into()) };
    let with = |tls: EtcdTls| EtcdConfig { tls, ..config(&server.endpoints()) };

    let process = Discovery::etcd(with(good.clone())).await.unwrap();
    assert!(process.health().leases_lost == 0);
    register(&process, 1).await;
    assert_eq!(server.records().len(), 1);

    let wrong_name = refused(with(EtcdTls { server_name: None, ..good.clone() })).await;
    check(&wrong_name, EtcdFault::Tls, &["127.0.0.1", "certificate", "--etcd-tls-server-name"]);
    let wrong_ca = refused(with(EtcdTls { ca: Some(others.ca.clone()), ..good.clone() })).await;
    check(&wrong_ca, EtcdFault::Tls, &["certificate", "ETCD_AUTH_CA"]);
    // The server's alert may be lost in the end of the connection; then it is an etcd that does not answer.
    let stranger = Discovery::etcd(with(EtcdTls { client: None, ..good.clone() })).await;
    match stranger {
        Err(DiscoveryError::Join(error)) => {
            check(&error, EtcdFault::Tls, &["CertificateRequired", "ETCD_AUTH_CLIENT_CERT"]);
        }
        Err(other) => panic!("{other:?}"),
        Ok(stranger) => assert!(!stranger.health().connected && stranger.snapshot().is_empty()),
    }
    let no_file = refused(with(EtcdTls { ca: Some("/nowhere/ca.pem".into()), ..good.clone() })).await;
    check(&no_file, EtcdFault::Config, &["ETCD_AUTH_CA", "/nowhere/ca.pem"]);
    // Without TLS nobody answers; that may heal, so it is waited for.
    let plain = config(&server.endpoints().replace("https", "http"));
    let plain = tokio::time::timeout(CAP, Discovery::etcd(plain)).await.expect("it is known at once").unwrap();
    assert!(!plain.health().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_listens_is_left_for_one_where_etcd_is() {
    let Some(program) = program() else { return };
    let server = EtcdServer::one(&program);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // One that takes connections and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = format!("http://{nobody},http://{},{}", mute.local_addr().unwrap(), server.endpoints());
    let process = Discovery::etcd(config(&endpoints)).await.unwrap();
    register(&process, 1).await;
    until("the watch", || process.health().connected).await;
    assert_eq!(server.records().len(), 1);
}
