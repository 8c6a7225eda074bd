//! Scenario 61, logs: whatever a client sends, a log stays lines of ours.

use crate::machine::{Machine, block_on, post, until};
use serde_json::{Value, json};
use std::io::{Read, Write};

const FORGED: &str = "x\r\n2026-01-01T00:00:00.000000Z  INFO forged: all is well\u{1b}[2J\u{1b}[31m\u{7}\u{9b}1m\u{0}";

/// Sends what means to forge a line, by every way into the frontend that there is.
fn attack(url: &str) {
    let chat = format!("{url}/v1/chat/completions");
    for body in [
        json!({"model": FORGED, "messages": [{"role": "user", "content": "x"}]}),
        json!({"model": "mock", "messages": [{"role": "user", "content": FORGED}], "user": FORGED, "max_tokens": 1}),
        json!({"model": "mock", "messages": [{"role": "user", "content": "x", "name": FORGED}], "max_tokens": 1}),
        json!({"model": "mock", "messages": [{"role": FORGED, "content": "x"}]}),
        json!({"model": "mock", "messages": [], FORGED: 1}),
        json!({"model": "mock", "messages": [{"role": "user", "content": "x"}], "guided_regex": FORGED}),
        json!({"model": "mock", "messages": [{"role": "user", "content": "x"}], "nvext": {"annotations": [FORGED]}}),
        json!({"model": "mock", "messages": [{"role": "user", "content": "x"}], "nvext": {"cache_salt": FORGED}}),
    ] {
        let mut body = body;
        body["max_tokens"] = json!(1);
        post(&chat, &body);
    }
    for head in [
        format!("GET /v1/models/{FORGED} HTTP/1.1\r\n\r\n"),
        "GET /v1/models/a%0d%0a2026%20forged%1b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        format!("GET /live HTTP/1.1\r\nhost: x\r\nx-request-id: {FORGED}\r\nconnection: close\r\n\r\n"),
        "GET /live HTTP/1.1\r\nhost: x\r\nuser-agent: \u{9b}31m forged\r\nconnection: close\r\n\r\n".to_owned(),
        "GET /live HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \t forged\r\nx-dynamo-request-id: forged\r\nconnection: close\r\n\r\n".to_owned(),
    ] {
        let mut socket = std::net::TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    block_on(async {
        // As a client that gives an id with characters above ASCII.
        let request = reqwest::Client::new().get(format!("{url}/live"));
        let id = reqwest::header::HeaderValue::from_bytes("id-\u{85}forged".as_bytes()).unwrap();
        request.header("x-request-id", id).send().await.unwrap();
    });
}

/// Every file of logs as it lies on disk.
fn logs_on_disk(machine: &Machine) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![machine.home().join(".local/state/busbar")]);
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "log") {
                found.push(String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
            }
        }
    }
    found
}

#[test]
fn no_client_writes_a_line_into_a_log_or_a_command_for_a_terminal() {
    for json_lines in [false, true] {
        let machine = Machine::new();
        let form = if json_lines { "1" } else { "0" };
        let url = machine
            .up_with(&["--engine", "mock"], &[("DYN_LOG", "trace,tokenizers=info"), ("DYN_LOGGING_JSONL", form)]);
        attack(&url);
        until("the requests to be logged", || {
            machine.run(&["logs", "frontend"]).out.contains("a request ended").then_some(())
        });
        for log in logs_on_disk(&machine) {
            for line in log.lines() {
                assert!(!line.contains(|c: char| c.is_control()), "a control character: {line:?}");
                assert!(!line.starts_with("2026-01-01T00:00:00"), "a forged line: {line}");
                if json_lines && line.starts_with('{') {
                    assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
                }
            }
        }
    }
}
