//! An HTTP worker for routers that forward HTTP: answers chats with a fixed text as fast as it can, on kept-alive
//! connections. It shows what forwarding costs, so it does no work of its own.

use crate::Options;
use serde_json::{Value, json};
use std::fmt::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Largest request head and body that are read; prompts of the bench have under 1 MB.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Serves at `options.address` until the process is ended.
pub async fn run(options: &Options) -> Result<Value, String> {
    let listener = TcpListener::bind(&options.address).await.map_err(|e| e.to_string())?;
    loop {
        let (socket, _) = listener.accept().await.map_err(|e| e.to_string())?;
        let model = options.model.clone();
        // A connection that breaks is a router's own affair.
        tokio::spawn(async move { converse(socket, &model).await });
    }
}

async fn converse(mut socket: TcpStream, model: &str) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut inbox = Vec::new();
    loop {
        let Some((head, body)) = next_request(&mut socket, &mut inbox).await? else { return Ok(()) };
        answer(&mut socket, &head, &body, model).await?;
    }
}

/// Head and body of the next request; `None` when the peer closed or sent what is no request.
async fn next_request(socket: &mut TcpStream, inbox: &mut Vec<u8>) -> std::io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&inbox[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if inbox.len() >= whole {
                let body = inbox[end + 4..whole].to_vec();
                inbox.drain(..whole);
                return Ok(Some((head, body)));
            }
        }
        if inbox.len() > REQUEST_BYTES_MAX || socket.read_buf(inbox).await? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(socket: &mut TcpStream, head: &str, body: &[u8], model: &str) -> std::io::Result<()> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    if !head.starts_with("post ") {
        let about = json!({
            "object": "list", "data": [{"id": model, "object": "model", "created": 1, "owned_by": "bench"}],
            "model_path": model, "served_model_name": model, "is_generation": true, "tp_size": 1, "dp_size": 1,
        });
        return unary(socket, &about).await;
    }
    let tokens = request["max_tokens"].as_u64().unwrap_or(1);
    let usage = json!({"prompt_tokens": 16, "completion_tokens": tokens, "total_tokens": 16 + tokens});
    if request["stream"] == true {
        return stream(socket, model, tokens, &usage).await;
    }
    let message = json!({"role": "assistant", "content": " word".repeat(tokens as usize)});
    let choice = json!({"index": 0, "message": message, "finish_reason": "length", "logprobs": null});
    let whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [choice], "usage": usage});
    unary(socket, &whole).await
}

async fn unary(socket: &mut TcpStream, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).await
}

/// One write a token, as an engine makes them.
async fn stream(socket: &mut TcpStream, model: &str, tokens: u64, usage: &Value) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish, "logprobs": null});
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]})
    };
    let token = event(&chunk(json!({"content": " word"}), Value::Null).to_string());
    for _ in 0..tokens {
        socket.write_all(token.as_bytes()).await?;
        tokio::task::yield_now().await;
    }
    let mut usage_chunk = chunk(json!({}), Value::Null);
    usage_chunk["choices"] = json!([]);
    usage_chunk["usage"] = usage.clone();
    let mut rest = event(&chunk(json!({}), json!("length")).to_string());
    rest += &event(&usage_chunk.to_string());
    rest += &event("[DONE]");
    rest += "0\r\n\r\n";
    socket.write_all(rest.as_bytes()).await
}

/// One SSE event as one chunk.
fn event(text: &str) -> String {
    let event = format!("data: {text}\n\n");
    let mut chunk = String::with_capacity(event.len() + 16);
    let _ = write!(chunk, "{:x}\r\n{event}\r\n", event.len());
    chunk
}
