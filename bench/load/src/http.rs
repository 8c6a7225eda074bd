//! One kept-alive HTTP/1.1 connection, and the lines of its answers with the time at which each was read.

use serde_json::Value;
use std::io::{Error, ErrorKind};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for the next bytes: a server that is silent for longer has lost the request.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of one read; several events of a fast stream fit.
const READ_LEN: usize = 16 * 1024;

/// What came back for one request.
pub struct Answer {
    pub status: u16,
    pub sent: Instant,
    pub first: Instant,
    pub last: Instant,
    /// When each SSE event with content was read. Empty for an answer that is not a stream.
    pub events: Vec<Instant>,
    /// `usage.completion_tokens` as the server tells it.
    pub tokens: u64,
    /// `usage.prompt_tokens` as the server tells it.
    pub prompt_tokens: u64,
}

pub struct Connection {
    address: String,
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> std::io::Result<Connection> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Connection { address: address.to_owned(), socket, buffer: Vec::new() })
    }

    /// Sends `body` and reads the whole answer. `on_event` is called at each event with content, with its number.
    pub async fn post(&mut self, path: &str, body: &Value, mut on_event: impl FnMut(usize)) -> std::io::Result<Answer> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.buffer.clear();
        let sent = Instant::now();
        self.socket.write_all(request.as_bytes()).await?;
        let head = self.head().await?;
        let mut lines = Lines { first: None, ..Lines::default() };
        loop {
            let complete = match head.length {
                Some(length) if self.buffer.len() >= length => {
                    lines.take(&self.buffer[..length], Instant::now(), &mut on_event);
                    true
                }
                Some(_) => false,
                None => self.chunks(&mut lines, &mut on_event)?,
            };
            if complete {
                let last = Instant::now();
                lines.end(last, &mut on_event);
                let first = lines.first.unwrap_or(last);
                let Lines { events, tokens, prompt_tokens, .. } = lines;
                return Ok(Answer { status: head.status, sent, first, last, events, tokens, prompt_tokens });
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        self.buffer.reserve(READ_LEN);
        let read = timeout(SILENCE_MAX, self.socket.read_buf(&mut self.buffer)).await;
        match read.map_err(|_| Error::new(ErrorKind::TimedOut, "no bytes for 60 s"))?? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, "closed within an answer")),
            _ => Ok(()),
        }
    }

    async fn head(&mut self) -> std::io::Result<Head> {
        let end = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.fill().await?,
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        self.buffer.drain(..end);
        let number = |text: &str| text.trim().parse().map_err(|_| Error::new(ErrorKind::InvalidData, "bad head"));
        let status = number(text.split(' ').nth(1).unwrap_or_default())?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).map(number).transpose()?;
        Ok(Head { status: u16::try_from(status).unwrap_or(0), length })
    }

    /// Takes every whole chunk of the buffer; true after the last one.
    fn chunks(&mut self, lines: &mut Lines, on_event: &mut impl FnMut(usize)) -> std::io::Result<bool> {
        let (mut at, now, mut ended) = (0, Instant::now(), false);
        while let Some(eol) = find(&self.buffer[at..], b"\r\n") {
            let size = std::str::from_utf8(&self.buffer[at..at + eol]).ok();
            let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
            let size = size.ok_or_else(|| Error::new(ErrorKind::InvalidData, "bad chunk size"))?;
            let from = at + eol + 2;
            if self.buffer.len() < from + size + 2 {
                break;
            }
            lines.take(&self.buffer[from..from + size], now, on_event);
            at = from + size + 2;
            if size == 0 {
                ended = true;
                break;
            }
        }
        self.buffer.drain(..at);
        Ok(ended)
    }
}

struct Head {
    status: u16,
    length: Option<usize>,
}

#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    first: Option<Instant>,
    events: Vec<Instant>,
    tokens: u64,
    prompt_tokens: u64,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], now: Instant, on_event: &mut impl FnMut(usize)) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(eol) = self.rest[at..].iter().position(|&byte| byte == b'\n') {
            let line = self.rest[at..at + eol].to_vec();
            at += eol + 1;
            self.line(&line, now, on_event);
        }
        self.rest.drain(..at);
    }

    fn end(&mut self, now: Instant, on_event: &mut impl FnMut(usize)) {
        let line = std::mem::take(&mut self.rest);
        self.line(&line, now, on_event);
    }

    fn line(&mut self, line: &[u8], now: Instant, on_event: &mut impl FnMut(usize)) {
        if let Some(tokens) = number_after(line, b"\"completion_tokens\":") {
            self.tokens = tokens;
        }
        if let Some(tokens) = number_after(line, b"\"prompt_tokens\":") {
            self.prompt_tokens = tokens;
        }
        // Content is a delta or a text that is not empty; the events of role, end and usage are not counted.
        let content = [&b"\"content\":\""[..], b"\"text\":\""].iter().any(|key| {
            line.starts_with(b"data: ") && find(line, key).is_some_and(|at| line.get(at + key.len()) != Some(&b'"'))
        });
        if content {
            self.first.get_or_insert(now);
            self.events.push(now);
            on_event(self.events.len());
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn number_after(line: &[u8], key: &[u8]) -> Option<u64> {
    let digits = line[find(line, key)? + key.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
