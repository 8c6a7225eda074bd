//! The HTTP edge: statuses, limits, keys and bind rules.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask, error_of, events, until};
use frontend::FrontendConfig;
use runtime::discovery::Discovery;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_openais_error_object() {
    let stage = Stage::with(|config| config.http.body_limit_mb = 1).await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let json_post = |body: String| {
        stage.http.post(stage.url("/v1/chat/completions")).header("content-type", "application/json").body(body)
    };
    let model = |name: &str| json!({ "model": name, "messages": [{ "role": "user", "content": "x" }] }).to_string();
    for (what, request, expected, message) in [
        ("bad JSON", json_post("{".into()), 400, ""),
        ("no body", json_post(String::new()), 400, ""),
        ("no messages", json_post(json!({ "model": "m" }).to_string()), 400, "messages"),
        ("unknown model", json_post(model("gpt")), 404, "Model not found"),
        ("too large", json_post(format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20))), 413, "limit of 1 MB"),
        ("plain text", stage.http.post(stage.url("/v1/completions")).body("{}"), 415, "application/json"),
        ("wrong method", stage.http.get(stage.url("/v1/chat/completions")), 405, "GET is not allowed"),
        ("no such route", stage.http.get(stage.url("/v2/nothing")), 404, "Route not found: GET /v2/nothing"),
        ("no such model", stage.http.get(stage.url("/v1/models/gpt")), 404, "Model not found"),
        ("prompt over the context", json_post(ask(&"long ".repeat(4000), &json!({})).to_string()), 400, "context"),
    ] {
        let (status, error) = error_of(request.send().await.unwrap()).await;
        assert_eq!(status, expected, "{what}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{what}: {error}");
    }
    let wrong_method = stage.http.get(stage.url("/v1/chat/completions")).send().await.unwrap();
    assert_eq!(wrong_method.headers()["allow"], "POST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_on_its_header_alone() {
    let stage = Stage::with(|config| config.http.body_limit_mb = 1).await;
    let mut socket = tokio::net::TcpStream::connect(stage.frontend.address()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_end_are_cut_off() {
    let stage = Stage::with(|config| config.http.header_read_timeout = Duration::from_millis(200)).await;
    let mut socket = tokio::net::TcpStream::connect(stage.frontend.address()).await.unwrap();
    socket.write_all(b"GET /live HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_places_and_the_queue_comes_429_and_past_the_wait_503() {
    let stage = Stage::with(|config| {
        config.limits.concurrent_requests_max = 1;
        config.limits.queued_requests_max = 1;
        config.limits.queue_wait_max = Duration::from_millis(500);
    })
    .await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate.clone()), ..WorkerPlan::default() }).await;
    let running = stage.chat(&ask("one", &json!({ "stream": true }))).await;
    let url = stage.url("/v1/chat/completions");
    let waiting = tokio::spawn(stage.http.post(&url).json(&ask("two", &json!({}))).send());
    until("one waits", || async { (stage.snapshot().await["frontend"]["waiting_for_a_place"] == 1).then_some(()) })
        .await;
    let refused = stage.chat(&ask("three", &json!({}))).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(error_of(refused).await.0, 429);
    assert_eq!(error_of(waiting.await.unwrap().unwrap()).await.0, 503);
    gate.add_permits(100);
    events(running).await;
    assert_eq!(stage.chat(&ask("four", &json!({}))).await.status(), 200, "the stream's end freed the place");
    assert_eq!(worker.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_where_there_is_a_keys_file_and_its_name_is_counted() {
    use sha2::Digest;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let hash: String = sha2::Sha256::digest(b"sk-alpha").iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&path, format!("# team\nalice sha256:{hash}\n")).unwrap();
    let stage = Stage::with(|config| config.http.api_keys_file = Some(path)).await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    for request in [
        stage.http.post(stage.url("/v1/chat/completions")).json(&ask("x", &json!({}))),
        stage.http.post(stage.url("/v1/chat/completions")).bearer_auth("sk-wrong").json(&ask("x", &json!({}))),
        stage.http.get(stage.url("/v1/models")),
    ] {
        let (status, error) = error_of(request.send().await.unwrap()).await;
        assert_eq!((status, error["code"].as_str()), (401, Some("invalid_api_key")));
    }
    let request = stage.http.post(stage.url("/v1/chat/completions")).bearer_auth("sk-alpha");
    assert_eq!(request.json(&ask("x", &json!({}))).send().await.unwrap().status(), 200);
    let by_key = "busbar_frontend_requests_by_key_total{key=\"alice\",model=\"m\"}";
    assert_eq!(stage.metric(by_key).await, Some(1.0));
    assert_eq!(stage.metric("busbar_frontend_auth_failures_total{reason=\"wrong\"}").await, Some(1.0));
    assert_eq!(stage.http.get(stage.url("/live")).send().await.unwrap().status(), 200, "probes have no key");
}

#[tokio::test]
async fn an_address_that_others_reach_needs_keys_or_the_explicit_word() {
    let config = |change: fn(&mut FrontendConfig)| {
        let mut config = FrontendConfig::default();
        config.http.host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        (config.http.port, config.http.admin_port) = (0, 0);
        config.response_host = Some("127.0.0.1".into());
        change(&mut config);
        config
    };
    let Err(refused) = frontend::start(config(|_| ()), Discovery::memory()).await else { panic!("it must not start") };
    for word in ["0.0.0.0", "--api-keys", "--allow-open", "127.0.0.1"] {
        assert!(refused.to_string().contains(word), "{refused}");
    }
    let open = frontend::start(config(|config| config.http.allow_open = true), Discovery::memory()).await.unwrap();
    assert_ne!(open.address(), open.admin_address());
    assert!(open.admin_address().ip().is_loopback());
    let get = async |port: u16, path: &str| {
        reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.unwrap().status().as_u16()
    };
    let (api, admin) = (open.address().port(), open.admin_address().port());
    for path in ["/", "/metrics", "/status/snapshot"] {
        assert_eq!((get(api, path).await, get(admin, path).await), (404, 200), "{path}");
    }
    assert_eq!(get(api, "/v1/models").await, 200);
    let scraped = config(|config| (config.http.allow_open, config.http.metrics_with_api) = (true, true));
    let scraped = frontend::start(scraped, Discovery::memory()).await.unwrap();
    let api = scraped.address().port();
    assert_eq!(
        (get(api, "/metrics").await, get(api, "/status/snapshot").await),
        (200, 404),
        "metrics alone, when asked"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_its_address() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = FrontendConfig::default();
    config.http.port = held.local_addr().unwrap().port();
    let Err(refused) = frontend::start(config, Discovery::memory()).await else { panic!("it must not start") };
    assert!(refused.to_string().contains(&held.local_addr().unwrap().to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_a_running_stream_finish_and_takes_no_more() {
    let stage = Stage::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate.clone()), ..WorkerPlan::default() }).await;
    let running = stage.chat(&ask("one", &json!({ "stream": true }))).await;
    let address = stage.frontend.address();
    let shutdown = tokio::spawn(stage.frontend.shutdown());
    until("the port is closed", || async { tokio::net::TcpStream::connect(address).await.is_err().then_some(()) })
        .await;
    gate.add_permits(100);
    assert_eq!(events(running).await.last().unwrap(), "[DONE]");
    shutdown.await.unwrap();
    assert_eq!(worker.running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_cuts_what_does_not_finish_in_time() {
    let stage = Stage::with(|config| config.http.graceful_shutdown_timeout = Duration::from_millis(200)).await;
    let worker = stage.worker(WorkerPlan { instance: 1, silent: true, ..WorkerPlan::default() }).await;
    let request = stage.http.post(stage.url("/v1/chat/completions")).json(&ask("x", &json!({}))).send();
    let asking = tokio::spawn(request);
    until("it runs", || async { (worker.running() == 1).then_some(()) }).await;
    stage.frontend.shutdown().await;
    assert!(asking.await.unwrap().is_err(), "the connection was cut");
    until("the engine has stopped", || async { (worker.running() == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_live_answer_without_any_worker() {
    let stage = Stage::new().await;
    let get =
        async |path: &str| -> Value { stage.http.get(stage.url(path)).send().await.unwrap().json().await.unwrap() };
    assert_eq!(get("/health").await, json!({ "status": "healthy", "endpoints": [], "instances": [] }));
    assert_eq!(get("/live").await["status"], "live");
    assert_eq!(get("/v1/models").await, json!({ "object": "list", "data": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_let_unknown_fields_pass_and_switch_nvext_off() {
    let unknown = ask("x", &json!({ "frobnicate": 1 }));
    let nvext = ask("x", &json!({ "nvext": { "annotations": [] } }));
    for (ignore, refuse) in [(false, false), (true, true)] {
        let stage = Stage::with(|config| {
            (config.ignore_unsupported_fields, config.disable_nvext) = (ignore, refuse);
        })
        .await;
        let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
        assert_eq!(stage.chat(&unknown).await.status(), if ignore { 200 } else { 400 });
        assert_eq!(stage.chat(&nvext).await.status(), if refuse { 400 } else { 200 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_added_to_the_file_is_good_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let line = |name: &str, key: &[u8]| {
        use sha2::{Digest, Sha256};
        let hex: String = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
        format!("{name} sha256:{hex}\n")
    };
    std::fs::write(&path, line("alice", b"sk-a")).unwrap();
    let file = path.clone();
    let stage = Stage::with(|config| config.http.api_keys_file = Some(file)).await;
    let status =
        async |key: &str| stage.http.get(stage.url("/v1/models")).bearer_auth(key).send().await.unwrap().status();
    assert_eq!((status("sk-a").await.as_u16(), status("sk-b").await.as_u16()), (200, 401));
    std::fs::write(&path, line("bob", b"sk-b")).unwrap();
    until("bob is let in", || async { (status("sk-b").await == 200).then_some(()) }).await;
    assert_eq!(status("sk-a").await, 401, "alice is no longer in the file");
}
