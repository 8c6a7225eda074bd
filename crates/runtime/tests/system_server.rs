//! The status server over real TCP, spoken to in bare HTTP/1.1 so that paths go out exactly as written.

#![allow(clippy::unwrap_used, reason = "the functions of a test may fail it, not only the test itself")]

use protocol::ids::EndpointId;
use runtime::system_server::{Health, MetadataFiles, SystemServer, SystemServerConfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..at].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[at + 4..].to_vec() }
}

async fn started(metrics: &'static str) -> (SystemServer, Health, MetadataFiles) {
    let (health, files) = (Health::new(), MetadataFiles::new());
    let config = SystemServerConfig { host: "127.0.0.1".into(), port: 0 };
    let text: Arc<dyn Fn() -> String + Send + Sync> = Arc::new(move || metrics.to_owned());
    let server = SystemServer::start(config, health.clone(), text, files.clone()).await.unwrap();
    (server, health, files)
}

#[tokio::test]
async fn health_follows_the_worker_and_its_endpoints() {
    let (server, health, _files) = started("").await;
    let mut seen = Vec::new();
    let mut look = async |set: &dyn Fn()| {
        set();
        let answers = [get(server.address(), "/health").await, get(server.address(), "/live").await];
        for answer in &answers {
            assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(body["uptime"]["secs"].is_u64() && body["uptime"]["nanos"].is_u64(), "{body}");
            seen.push((answer.status, body["status"].clone(), body["endpoints"].clone()));
        }
    };
    look(&|| ()).await;
    look(&|| health.set_ready()).await;
    look(&|| health.endpoint("generate", false)).await;
    look(&|| health.endpoint("generate", true)).await;
    look(&|| health.set_draining()).await;
    let expected = [
        (503, json!("notready"), json!({})),
        (200, json!("ready"), json!({})),
        (503, json!("notready"), json!({"generate": "notready"})),
        (200, json!("ready"), json!({"generate": "ready"})),
        (503, json!("notready"), json!({"generate": "ready"})),
    ];
    let twice: Vec<_> = expected.into_iter().flat_map(|line| [line.clone(), line]).collect();
    assert_eq!(seen, twice);
}

#[tokio::test]
async fn metrics_say_which_text_they_are() {
    let (plain, _, _) = started("# TYPE x counter\nx_total 1\n").await;
    let answer = get(plain.address(), "/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"# TYPE x counter\nx_total 1\n"[..]));
    let (open, _, _) = started("# TYPE x counter\nx_total 1\n# EOF\n").await;
    let answer = get(open.address(), "/metrics").await;
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
}

#[tokio::test]
async fn published_files_are_served_whole_and_nothing_else_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(folder.path().join("tokenizer.json"), &large).unwrap();
    std::fs::write(folder.path().join("a b%.json"), b"odd name").unwrap();
    std::fs::write(folder.path().join("secret"), b"secret").unwrap();
    let (server, _, files) = started("").await;
    let endpoint = EndpointId::new("dynamo", "backend", "generate");
    let publish = |name: &str| files.publish(&endpoint, "tiny", "_base", folder.path().join(name)).unwrap();

    let url = publish("tokenizer.json");
    assert_eq!(url, "/v1/metadata/dynamo/backend/generate/tiny/_base/tokenizer.json");
    let answer = get(server.address(), &url).await;
    assert_eq!((answer.status, answer.body == large), (200, true));
    assert!(answer.head.contains("content-type: application/octet-stream"), "{}", answer.head);
    assert!(answer.head.contains("content-length: 1200000"), "{}", answer.head);
    assert_eq!(get(server.address(), &publish("a b%.json")).await.body, b"odd name");

    let base = "/v1/metadata/dynamo/backend/generate/tiny/_base";
    let wrong = [
        format!("{base}/secret"),
        format!("{base}/../_base/secret"),
        format!("{base}/tokenizer.json/../secret"),
        format!("{base}/..%2f..%2fsecret"),
        format!("{base}/%2e%2e/secret"),
        format!("{base}//tokenizer.json"),
        format!("{}{}", base, folder.path().join("secret").display()),
        "/v1/metadata/".into(),
        "/v1/metadata".into(),
        "/metadata".into(),
        "/".into(),
    ];
    for path in wrong {
        let answer = get(server.address(), &path).await;
        assert_eq!((answer.status, answer.body.as_slice()), (404, &b"Route not found"[..]), "{path}");
    }
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(get(server.address(), &url).await.status, 500, "published, but gone");
}

#[tokio::test]
async fn after_shutting_down_the_port_is_free() {
    let (server, _, _) = started("").await;
    let address = server.address();
    server.shut_down().await;
    std::net::TcpListener::bind(address).unwrap();
}
