//! A hub of the test's own: the two paths of its API that matter, over real TCP, with faults on order.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Every answer is this status.
    pub(crate) status: Option<(u16, &'static str)>,
    /// So many bodies of large files end after half of what is left.
    pub(crate) cuts: u32,
    /// So many bodies of large files have a wrong byte.
    pub(crate) flips: u32,
    /// So many answers for files are HTTP 503.
    pub(crate) busy: u32,
    /// So many answers of any kind are HTTP 429 that ask to come again at once.
    pub(crate) too_many: u32,
    /// `Range` is ignored.
    pub(crate) no_ranges: bool,
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

pub(crate) struct Hub {
    pub(crate) endpoint: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) faults: Arc<Mutex<Faults>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hub {
    /// Serves `files` as the repository `owner/name`; files over 100 bytes are "lfs" and have a sha256.
    pub(crate) async fn start(files: Vec<(&'static str, Vec<u8>)>, faults: Faults) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (seen, faults) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(Mutex::new(faults)));
        let files: Arc<HashMap<&str, Vec<u8>>> = Arc::new(files.into_iter().collect());
        let (log, state) = (Arc::clone(&seen), Arc::clone(&faults));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("no delay");
                tokio::spawn(serve(stream, Arc::clone(&files), Arc::clone(&log), Arc::clone(&state)));
            }
        });
        Hub { endpoint, seen, faults, task }
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn ranges(&self) -> Vec<String> {
        self.requests().into_iter().filter_map(|seen| seen.range).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    files: Arc<HashMap<&'static str, Vec<u8>>>,
    log: Arc<Mutex<Vec<Seen>>>,
    faults: Arc<Mutex<Faults>>,
) {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let seen = Seen { path: path.clone(), authorization: header("authorization"), range: header("range") };
    log.lock().expect("not poisoned").push(seen.clone());
    let answer = answer(&path, seen.range.as_deref(), &files, &mut faults.lock().expect("not poisoned"));
    let (status, code, length, body) = answer;
    let head = format!(
        "HTTP/1.1 {status} X\r\nx-error-code: {code}\r\ncontent-length: {length}\r\nretry-after: 0\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

/// Status, error code, promised length, body (which a fault makes shorter than promised).
fn answer(
    path: &str,
    range: Option<&str>,
    files: &HashMap<&'static str, Vec<u8>>,
    faults: &mut Faults,
) -> (u16, &'static str, usize, Vec<u8>) {
    let whole = |status, body: Vec<u8>| (status, "", body.len(), body);
    if let Some((status, code)) = faults.status {
        return (status, code, 0, Vec::new());
    }
    if faults.too_many > 0 {
        faults.too_many -= 1;
        return whole(429, Vec::new());
    }
    if path == "/api/models/owner/name/revision/main?blobs=true" {
        return whole(200, listing(files));
    }
    let Some(body) = path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/")).and_then(|name| files.get(name))
    else {
        return (404, "EntryNotFound", 0, Vec::new());
    };
    if faults.busy > 0 {
        faults.busy -= 1;
        return whole(503, Vec::new());
    }
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !faults.no_ranges);
    let mut rest = body[from.unwrap_or(0)..].to_vec();
    let length = rest.len();
    if body.len() > 100 && faults.flips > 0 {
        faults.flips -= 1;
        rest[length / 2] ^= 1;
    }
    if body.len() > 100 && faults.cuts > 0 {
        faults.cuts -= 1;
        rest.truncate(length / 2);
    }
    (if from.is_some() { 206 } else { 200 }, "", length, rest)
}

fn listing(files: &HashMap<&'static str, Vec<u8>>) -> Vec<u8> {
    let of = |(name, body): (&&str, &Vec<u8>)| {
        let mut file = serde_json::json!({"rfilename": name, "size": body.len(), "blobId": "x"});
        if body.len() > 100 {
            let sum: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
            file["lfs"] = serde_json::json!({"sha256": sum, "size": body.len(), "pointerSize": 130});
        }
        file
    };
    let files: Vec<_> = files.iter().map(of).collect();
    serde_json::json!({"_id": "1", "id": "owner/name", "sha": COMMIT, "private": false, "siblings": files})
        .to_string()
        .into_bytes()
}
