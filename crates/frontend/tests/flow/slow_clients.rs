//! Scenario 55: clients that take their time, in each direction, and more of them than there are places.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask, events, until};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

/// So long that only what the test is about can end a connection.
const NEVER: Duration = Duration::from_secs(3600);

/// A request whose body never ends.
const ENDLESS: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                         content-length: 1000\r\n\r\n{\"model\":";

async fn connect(stage: &Stage) -> TcpStream {
    TcpStream::connect(stage.frontend.address()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_holds_no_place() {
    let stage = Stage::with(|config| {
        config.limits.concurrent_requests_max = 1;
        config.limits.queued_requests_max = 1;
        config.http.body_read_timeout = NEVER;
    })
    .await;
    let _worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut socket = connect(&stage).await;
        socket.write_all(ENDLESS).await.unwrap();
        slow.push(socket);
    }
    for _ in 0..3 {
        assert_eq!(stage.chat(&ask("x", &json!({}))).await.status(), 200);
    }
    assert_eq!(stage.snapshot().await["frontend"]["waiting_for_a_place"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_end_in_time_is_told_so_and_cut_off() {
    let stage = Stage::with(|config| config.http.body_read_timeout = Duration::from_millis(200)).await;
    let mut socket = connect(&stage).await;
    socket.write_all(ENDLESS).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"body_too_slow\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_its_stream_frees_the_engine() {
    let stage = Stage::with(|config| config.http.write_stall_max = Duration::from_millis(300)).await;
    // Enough tokens to fill every buffer on the way, and not enough to end: the engine waits for a client that is stuck.
    let gate = Arc::new(Semaphore::new(25_000));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate), ..WorkerPlan::default() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(stage.frontend.address()).await.unwrap();
    // 32 answers of 900 tokens are 28,800, some 5 MB of events.
    let body = ask("x", &json!({ "stream": true, "n": 32, "max_tokens": 900 })).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    // Whether by the word to stop or by a write that finds nobody: with the permits that there are, none comes to its end.
    until("every sequence ran and none runs any more", || async {
        (worker.requests().len() == 32 && worker.running() == 0).then_some(())
    })
    .await;
    let left = "dynamo_frontend_model_cancellation_total{model=\"m\",endpoint=\"chat_completions\"";
    until("the client counts as gone", || async { (stage.metric(left).await == Some(1.0)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_closed_once_it_has_idled_long_enough_and_not_before() {
    let stage = Stage::with(|config| {
        config.http.header_read_timeout = NEVER;
        config.http.idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut socket = connect(&stage).await;
    let mut answers = String::new();
    for _ in 0..2 {
        socket.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut part = [0; 4096];
        let length = socket.read(&mut part).await.unwrap();
        answers += std::str::from_utf8(&part[..length]).unwrap();
    }
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let closed = tokio::time::timeout(Duration::from_secs(30), socket.read(&mut [0; 1])).await;
    assert_eq!(closed.expect("an idle connection is closed").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_cannot_keep_others_out() {
    let stage = Stage::with(|config| {
        config.http.connections_max = 4;
        (config.http.header_read_timeout, config.http.idle_timeout) = (NEVER, NEVER);
    })
    .await;
    // On the fifth connection and those after it.
    let mut silent = Vec::new();
    for round in 0..12 {
        let mut socket = connect(&stage).await;
        if round % 2 == 0 {
            socket.write_all(b"GET /live HTTP/1.1\r\nx-slow: ").await.unwrap();
        }
        silent.push(socket);
    }
    for _ in 0..5 {
        let mut socket = connect(&stage).await;
        socket.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(Duration::from_secs(30), socket.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        silent.push(socket);
    }
    let mut first = silent.swap_remove(0);
    assert_eq!(first.read(&mut [0; 1]).await.unwrap_or(0), 0, "the one that was silent for longest made room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_answer_never_makes_room() {
    let stage = Stage::with(|config| {
        config.http.connections_max = 2;
        (config.http.header_read_timeout, config.http.idle_timeout) = (NEVER, NEVER);
    })
    .await;
    // The worker is there before the places are taken: the snapshot needs one too.
    let gate = Arc::new(Semaphore::new(0));
    let worker = stage.worker(WorkerPlan { instance: 1, gate: Some(gate.clone()), ..WorkerPlan::default() }).await;
    let one = stage.chat(&ask("one", &json!({ "stream": true }))).await;
    let two = stage.chat(&ask("two", &json!({ "stream": true }))).await;
    assert_eq!(worker.running(), 2);
    let address = stage.frontend.address();
    let third = tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    });
    gate.add_permits(1000);
    for answer in [one, two] {
        assert_eq!(events(answer).await.last().unwrap(), "[DONE]");
    }
    assert!(third.await.unwrap().starts_with("HTTP/1.1 200"));
}
