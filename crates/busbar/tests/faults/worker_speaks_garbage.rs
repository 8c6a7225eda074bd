//! Scenario 8: a worker that is registered like any other answers what is no answer.

use crate::crowd::{Crowd, chats};
use crate::stage::{Frontend, PACED, Stage, in_routing, states};
use futures::future::BoxFuture;
use protocol::discovery::{Codec, EndpointRecord, Record, RequestTransport};
use protocol::ids::InstanceId;
use runtime::discovery::Discovery;
use runtime::request_plane::{Incoming, RequestServer, RequestServerConfig, Responder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const INSTANCE: InstanceId = InstanceId(0xbad);
const PATH: &str = "bad/dynamo/backend/generate";

/// A worker of this test, on a runtime of its own.
struct Babbler {
    asked: Arc<AtomicUsize>,
    discovery: Discovery,
    runtime: Runtime,
    _server: Option<RequestServer>,
}

impl Babbler {
    /// Announces itself with the card of a worker that is there already. With `acknowledges` it takes requests by the
    /// rules and sends items that are none; without, not even its acknowledgements are any.
    fn join(stage: &Stage, acknowledges: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (discovery, server) = runtime.block_on(async {
            let (address, server) =
                if acknowledges { no_items(asked.clone()).await } else { (noise(asked.clone()).await, None) };
            let discovery = Discovery::file(stage.machine.home().join("discovery")).await.unwrap();
            let records = discovery.snapshot();
            let mut model = records.iter().find_map(|(_, record)| match &**record {
                Record::Model(model) => Some(model.clone()),
                _ => None,
            });
            model.as_mut().unwrap().instance_id = INSTANCE;
            let endpoint = EndpointRecord {
                namespace: "dynamo".into(),
                component: "backend".into(),
                endpoint: "generate".into(),
                instance_id: INSTANCE,
                transport: RequestTransport::Tcp(format!("{address}/{PATH}")),
                device_type: Some("cpu".into()),
                request_plane_codec: Some(Codec::Msgpack),
            };
            discovery.register(&Record::Endpoint(endpoint)).await.unwrap();
            discovery.register(&Record::Model(model.unwrap())).await.unwrap();
            (discovery, server)
        });
        Self { asked, discovery, runtime, _server: server }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.runtime.block_on(self.discovery.withdraw_all());
    }
}

/// Whatever comes, 64 bytes that begin no frame.
async fn noise(asked: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    asked.fetch_add(1, Ordering::SeqCst);
                    if stream.write_all(&[0xff; 64]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Takes every request and answers it with a number in place of tokens.
async fn no_items(asked: Arc<AtomicUsize>) -> (String, Option<RequestServer>) {
    let config = RequestServerConfig { host: "127.0.0.1".into(), ..RequestServerConfig::default() };
    let server = RequestServer::bind(config).await.unwrap();
    let answer = move |_: Incoming, mut out: Responder| -> BoxFuture<'static, ()> {
        asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if out.raw_item(&42).await.is_ok() {
                out.finish().await;
            }
        })
    };
    server.serve(PATH.to_owned(), Arc::new(answer));
    (server.address(), Some(server))
}

struct Scene {
    stage: Stage,
    frontend: Frontend,
    babbler: Babbler,
}

impl Scene {
    fn new(acknowledges: bool) -> Self {
        let mut stage = Stage::new();
        stage.workers(2, PACED);
        let frontend = stage.frontend(&[]);
        stage.serves(&frontend, 2);
        let babbler = Babbler::join(&stage, acknowledges);
        Self { stage, frontend, babbler }
    }

    fn answers_are_whole(&self) {
        Crowd::start(&[&self.frontend], &chats(32)).finish_whole(&self.stage);
    }

    fn the_log_says_so(&self) {
        let log = std::fs::read_to_string(self.stage.log(&self.frontend.name)).unwrap();
        let told = log.lines().any(|line| line.contains("WARN") && line.contains("worker_id=bad"));
        assert!(told, "the log says which worker, and why\n{}", self.stage.logs());
    }
}

#[test]
fn a_worker_whose_acknowledgements_are_noise_is_never_asked_for_an_answer() {
    let scene = Scene::new(false);
    // The first look at it is enough.
    scene.stage.until("it to be known and out of routing", || {
        (!in_routing(states(&scene.frontend)?.get(&INSTANCE.0)?)).then_some(())
    });
    scene.answers_are_whole();
    assert!(!in_routing(&states(&scene.frontend).unwrap()[&INSTANCE.0]));
    scene.the_log_says_so();
    let moved = scene.frontend.migrations("new_request") + scene.frontend.migrations("ongoing_request");
    assert_eq!(moved, 0.0, "a request was sent there");
}

#[test]
fn a_worker_whose_items_are_no_tokens_costs_no_request_and_is_asked_no_more() {
    let scene = Scene::new(true);
    scene.stage.serves(&scene.frontend, 3);
    scene.answers_are_whole();
    let asked = scene.babbler.asked();
    assert!(asked > 0, "nobody asked it");
    scene.answers_are_whole();
    let again = scene.babbler.asked() - asked;
    eprintln!("asked {asked} times by the first 32 requests, {again} times by the next");
    assert!(again <= 4, "it is out of routing, but for a look now and then");
    scene.the_log_says_so();
}
