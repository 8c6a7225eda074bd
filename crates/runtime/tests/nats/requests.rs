//! Requests over NATS: the bytes of a stock frontend, and every way a request ends.

use crate::nats_server::NatsServer;
use crate::plane::{PATH, count, handler_of, local_server, server_with, token, tokens};
use crate::{connected, nats, until, within};
use futures::StreamExt;
use protocol::discovery::{Codec, EndpointRecord, RequestTransport};
use protocol::dynamo::{RequestControl, TwoPart};
use protocol::ids::{EndpointId, InstanceId};
use runtime::nats::Nats;
use runtime::request_plane::{
    ErrorClass, Handler, RequestClient, RequestClientConfig, RequestServer, RequestServerConfig, ServiceName,
};
use std::sync::Arc;

pub(crate) const SUBJECT: &str = "dynamo_backend.generate-8efc80f73ac882a4";

pub(crate) fn target() -> EndpointRecord {
    let endpoint = EndpointId::new("dynamo", "backend", "generate");
    assert_eq!(EndpointRecord::nats_subject(&endpoint, InstanceId(0x8efc_80f7_3ac8_82a4)), SUBJECT);
    let mut record = crate::plane::target("unused:1", Codec::Msgpack);
    record.transport = RequestTransport::NatsTcp(SUBJECT.into());
    record
}

/// A worker that listens on [`SUBJECT`].
pub(crate) async fn worker_with(nats: &Nats, config: RequestServerConfig, handler: Arc<dyn Handler>) -> RequestServer {
    let server = server_with(config, handler).await;
    server.serve_over_nats(nats, &ServiceName::of("dynamo", "backend"), SUBJECT, PATH);
    server
}

pub(crate) async fn worker(nats: &Nats, handler: Arc<dyn Handler>) -> RequestServer {
    let server = worker_with(nats, local_server(), handler).await;
    within("the worker listens", server.subscribed_over_nats(1)).await;
    server
}

pub(crate) async fn client(nats: &Nats) -> RequestClient {
    let config = RequestClientConfig { response_host: "127.0.0.1".into(), ..RequestClientConfig::default() };
    let client = RequestClient::start_with(config, Some(nats.clone())).await.unwrap();
    connected(nats).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through_the_server_and_its_answer_comes_over_tcp() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let worker = worker(&workers, handler_of(count)).await;
    let client = client(&frontend).await;
    for _ in 0..50 {
        let mut stream = within("sent", client.send(&target(), "an-id", &5u32)).await.unwrap();
        assert_eq!(tokens(&mut stream).await, (vec![0, 1, 2, 3, 4], None));
    }
    until("nothing runs", || worker.running() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_bytes_are_those_of_a_stock_frontend_and_one_header_of_ours() {
    let Some(server) = NatsServer::start("") else { return };
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let mut requests = stranger.queue_subscribe(SUBJECT, "q".into()).await.unwrap();
    stranger.flush().await.unwrap();
    let frontend = nats(&server);
    let client = client(&frontend).await;
    let sending = tokio::spawn(async move { client.send(&target(), "an-id", &5u32).await.map(drop) });
    let message = within("the request", requests.next()).await.unwrap();
    let headers = message.headers.unwrap();
    let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
    names.sort();
    let expected = ["request-id", "x-busbar-caller", "x-frontend-send-ts-ns"];
    assert_eq!(names, expected, "one more of ours, which a stock worker passes over; and no x-endpoint-path");
    assert_eq!(headers.get("request-id").unwrap().as_str(), "an-id");
    assert!(message.reply.unwrap().starts_with("_INBOX."));
    let mut rest = bytes::BytesMut::from(message.payload);
    let two_part = TwoPart::decode(&mut rest).unwrap().unwrap();
    assert!(rest.is_empty());
    let control: RequestControl = serde_json::from_slice(&two_part.header).unwrap();
    assert_eq!((control.id.as_str(), control.codec()), ("an-id", Codec::Msgpack));
    assert_eq!(Codec::Msgpack.decode::<u32>(&two_part.body).unwrap(), 5);
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_on_the_subject_is_told_at_once_and_may_be_retried() {
    let Some(server) = NatsServer::start("") else { return };
    let frontend = nats(&server);
    let client = client(&frontend).await;
    let error = within("an error", client.send(&target(), "id", &1u32)).await.unwrap_err();
    assert_eq!((error.class, error.is_retryable()), (ErrorClass::CannotConnect, true), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_max_payload_is_refused_by_size_and_hurts_no_other() {
    let Some(server) = NatsServer::start("max_payload: 65536") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let _worker = worker(&workers, handler_of(|_, out| out_finish(out))).await;
    let client = client(&frontend).await;
    let large = vec![u64::MAX; 10_000];
    let error = within("an error", client.send(&target(), "id", &large)).await.unwrap_err();
    assert_eq!((error.class, error.is_retryable()), (ErrorClass::PayloadTooLarge, false));
    assert!(error.message.contains("65536") && error.message.contains("max_payload"), "{error}");
    // Just below, in every length around the edge: never a broken connection.
    for length in (65_536 - 1_200)..(65_536 - 1_000) {
        let body = "x".repeat(length);
        match within("an end", client.send(&target(), "id", &body)).await {
            Ok(mut stream) => assert_eq!(tokens(&mut stream).await, (vec![], None)),
            Err(error) => assert_eq!(error.class, ErrorClass::PayloadTooLarge),
        }
    }
    assert_eq!(frontend.counts().sessions(), 1, "the server never cut the connection");
}

async fn out_finish(out: runtime::request_plane::Responder) {
    out.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_worker_and_one_that_leaves_say_so_in_words_that_every_frontend_knows() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hold = gate.clone();
    let handler = handler_of(move |_, mut out| {
        let hold = hold.clone();
        async move {
            out.item(&token(1)).await.unwrap();
            let _turn = hold.acquire().await.unwrap();
            out.finish().await;
        }
    });
    let one_place = RequestServerConfig { requests_running_max: 1, requests_queued_max: 0, ..local_server() };
    let worker = worker_with(&workers, one_place, handler).await;
    within("the worker listens", worker.subscribed_over_nats(1)).await;
    let client = client(&frontend).await;
    let mut running = within("sent", client.send(&target(), "id", &1u32)).await.unwrap();
    let full = within("an error", client.send(&target(), "id", &1u32)).await.unwrap_err();
    assert_eq!(full.class, ErrorClass::WorkerOverloaded, "{full}");

    worker.stop_accepting();
    until("its subscription is gone", || {
        let asked = futures::FutureExt::now_or_never(worker.subscribed_over_nats(1));
        asked.is_none()
    })
    .await;
    let leaving = within("an error", client.send(&target(), "id", &1u32)).await.unwrap_err();
    assert!(matches!(leaving.class, ErrorClass::CannotConnect | ErrorClass::WorkerUnavailable), "{leaving}");
    gate.add_permits(1);
    assert_eq!(tokens(&mut running).await, (vec![1], None), "what runs may end");
    drop(running);
    within("drained", worker.drained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_worker_can_read_hurts_nobody() {
    let Some(server) = NatsServer::start("") else { return };
    let (workers, frontend) = (nats(&server), nats(&server));
    let _worker = worker(&workers, handler_of(count)).await;
    let stranger = async_nats::connect(server.url()).await.unwrap();
    for garbage in ["", "garbage", "\0\0\0\0\0\0\0\u{7f}"] {
        stranger.publish(SUBJECT, garbage.to_owned().into()).await.unwrap();
        let reply = within("an ack", stranger.request(SUBJECT, garbage.to_owned().into())).await.unwrap();
        assert!(reply.payload.is_empty());
    }
    let client = client(&frontend).await;
    let mut stream = within("sent", client.send(&target(), "id", &2u32)).await.unwrap();
    assert_eq!(tokens(&mut stream).await, (vec![0, 1], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_nats_find_the_worker_as_a_service() {
    let Some(server) = NatsServer::start("") else { return };
    let workers = nats(&server);
    let worker = worker(&workers, handler_of(count)).await;
    let client = client(&workers).await;
    let mut stream = within("sent", client.send(&target(), "id", &1u32)).await.unwrap();
    tokens(&mut stream).await;
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let ask = async |subject: &str| -> serde_json::Value {
        let reply = within("an answer", stranger.request(subject.to_owned(), "".into())).await.unwrap();
        serde_json::from_slice(&reply.payload).unwrap()
    };
    let ping = ask("$SRV.PING").await;
    assert_eq!((&ping["type"], &ping["name"]), (&"io.nats.micro.v1.ping_response".into(), &"dynamo_backend".into()));
    let info = ask("$SRV.INFO.dynamo_backend").await;
    assert_eq!(info["endpoints"][0]["subject"], SUBJECT);
    assert_eq!(info["endpoints"][0]["queue_group"], "q");
    let stats = ask(&format!("$SRV.STATS.dynamo_backend.{}", ping["id"].as_str().unwrap())).await;
    assert_eq!((&stats["id"], &stats["endpoints"][0]["num_requests"]), (&ping["id"], &1.into()));
    drop(worker);
}
