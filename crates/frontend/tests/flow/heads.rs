//! Scenario 56: heads that are too much, or no HTTP/1.1 at all. Each is answered or cut off, and the next client is served.

use crate::stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What comes back until the server closes, for bytes that may be more than it reads.
async fn answer_to(stage: &Stage, bytes: &[u8]) -> String {
    let (mut reader, mut writer) = TcpStream::connect(stage.frontend.address()).await.unwrap().into_split();
    // A server that has seen enough closes while this still writes.
    let write = async {
        let _ = writer.write_all(bytes).await;
    };
    let mut answer = Vec::new();
    let read = async {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut part).await {
            answer.extend_from_slice(&part[..length]);
        }
    };
    tokio::join!(write, read);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get_with(headers: usize, bytes_each: usize) -> Vec<u8> {
    let mut head = String::from("GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for number in 2..headers {
        head += &format!("x-h{number}: {}\r\n", "v".repeat(bytes_each));
    }
    (head + "\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_have_100_headers_and_64_kib_and_no_more() {
    let stage = Stage::new().await;
    for (headers, bytes_each, status) in [
        (3, 1, 200),
        (100, 10, 200),
        (101, 10, 431),
        (200, 500, 431),
        (20, 3000, 200),
        (50, 2000, 431),
        (10_000, 10, 431),
    ] {
        let answer = answer_to(&stage, &get_with(headers, bytes_each)).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{headers} headers of {bytes_each} bytes: {answer:.200}");
    }
    // The one long header, the one long address.
    let long = [b"GET /live HTTP/1.1\r\nx: ".as_slice(), &vec![b'v'; 200_000], b"\r\n\r\n"].concat();
    assert!(answer_to(&stage, &long).await.starts_with("HTTP/1.1 431"));
    let address = format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(200_000));
    assert!(answer_to(&stage, address.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(answer_to(&stage, &get_with(3, 1)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_1_is_refused_and_closed() {
    let stage = Stage::new().await;
    for (what, bytes, starts) in [
        // An HTTP/2 client that does not ask first would not understand an answer: the connection is closed at once.
        ("the preface of HTTP/2", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], ""),
        ("a TLS greeting", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "HTTP/1.1 400"),
        ("HTTP/0.9", b"GET /live\r\n\r\n", "HTTP/1.1 400"),
        ("HTTP/3.0", b"GET /live HTTP/3.0\r\n\r\n", "HTTP/1.1 400"),
        ("a method of another kind", b"GE<T /live HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        ("a header without a name", b"GET /live HTTP/1.1\r\n: x\r\n\r\n", "HTTP/1.1 400"),
        ("a NUL in a header", b"GET /live HTTP/1.1\r\nx: a\0b\r\n\r\n", "HTTP/1.1 400"),
        ("a folded header", b"GET /live HTTP/1.1\r\nx: a\r\n b\r\n\r\n", "HTTP/1.1 400"),
        (
            "two lengths",
            b"POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 400",
        ),
        ("a negative length", b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n", "HTTP/1.1 400"),
        ("a coding nobody knows", b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: zip\r\n\r\n", "HTTP/1.1 400"),
    ] {
        let answer = answer_to(&stage, bytes).await;
        assert!(answer.starts_with(starts), "{what}: {answer}");
        assert!(!answer.contains("200 OK"), "{what}: {answer}");
    }
    assert!(answer_to(&stage, &get_with(3, 1)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_a_route_does_not_have_are_named() {
    let stage = Stage::new().await;
    for (method, path, status) in [
        ("BREW", "/v1/models", 405),
        ("DELETE", "/v1/models/m", 405),
        ("TRACE", "/live", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("PUT", "/nowhere", 404),
        ("CONNECT", "/v1/models", 405),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = answer_to(&stage, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_http_2_is_passed_over() {
    let stage = Stage::new().await;
    let asks = "GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
                http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = answer_to(&stage, asks.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.to_lowercase().contains("upgrade"), "{answer}");
}
