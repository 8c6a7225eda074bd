//! A machine of its own for a black-box test: a new home, a free port, the real binary.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

#[path = "../../../runtime/tests/ports/mod.rs"]
mod ports;

pub use ports::free_port;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest wait for anything; generous, so that a busy machine fails no test.
pub const CAP: Duration = Duration::from_secs(120);

/// A home folder with what runs in it; all of it ends with the value.
pub struct Machine {
    home: tempfile::TempDir,
    children: Vec<Child>,
}

/// What a command printed and how it ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Machine {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), children: Vec::new() }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A file in the home folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The binary, with this home and nothing of the tester's settings.
    pub fn busbar(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_busbar"))
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars() {
            if ["DYN_", "BUSBAR_", "XDG_", "HF_", "NATS_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.home()).env("HF_HUB_OFFLINE", "1").current_dir(self.home()).stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        ended(&self.busbar().args(args).output().unwrap())
    }

    /// `busbar up --detach` with these flags on a free port; gives the base URL.
    pub fn up(&self, args: &[&str]) -> String {
        self.up_with(args, &[])
    }

    pub fn up_with(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let port = free_port();
        let mut command = self.busbar();
        command.args(["up", "--detach", "-o", "json", "--port", &port.to_string()]).args(args);
        let output = ended(&command.envs(env.iter().copied()).output().unwrap());
        assert_eq!(output.code, Some(0), "up failed:\n{}\n{}", output.err, self.logs());
        let said: Value = serde_json::from_str(output.out.trim()).unwrap();
        said["endpoints"][0].as_str().unwrap().to_owned()
    }

    /// Starts something that ends with the machine.
    pub fn spawn(&mut self, mut command: Command) -> u32 {
        // A group of its own: what it started ends with it, even if it was killed first.
        let child = command.process_group(0).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    pub fn status(&self) -> Value {
        let output = self.run(&["status", "-o", "json"]);
        serde_json::from_str(&output.out).unwrap_or(Value::Null)
    }

    /// Processes of the first run whose name begins so: name and pid.
    pub fn pids(&self, prefix: &str) -> Vec<(String, u32)> {
        let status = self.status();
        let processes = status["runs"][0]["processes"].as_array().cloned().unwrap_or_default();
        processes
            .iter()
            .filter(|p| p["name"].as_str().unwrap().starts_with(prefix))
            .filter_map(|p| Some((p["name"].as_str()?.to_owned(), u32::try_from(p["identity"]["pid"].as_u64()?).ok()?)))
            .collect()
    }

    /// The process whose worker has this instance id: its name and pid, from its own log.
    pub fn process_of(&self, instance: u64) -> (String, u32) {
        let marker = format!("instance={instance:x}");
        let found = self.pids("").into_iter().find(|(name, _)| self.run(&["logs", name]).out.contains(&marker));
        found.unwrap_or_else(|| panic!("no process logged {marker}\n{}", self.logs()))
    }

    /// Every log, for the message of a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut open = vec![self.home().join(".local/state/busbar")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "log") {
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<_> = log.lines().rev().take(30).collect();
                    text += &format!("--- {}\n", path.file_name().unwrap().display());
                    tail.iter().rev().for_each(|line| text += &format!("{line}\n"));
                }
            }
        }
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.busbar().arg("down").output();
        for child in &mut self.children {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).output();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn ended(output: &Output) -> Ended {
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < CAP, "waited {CAP:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A value of the environment that `make test` sets; says so when the test is not run.
pub fn part(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        eprintln!("NOT RUN: {variable} is unset; `make test` sets it");
    }
    value
}

/// Runs async code of a test.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// The client of all tests: made once, because reading the system's certificates takes longer than most requests. It
/// keeps no connection, so that it belongs to no runtime, and a fault of one request is none of the next.
pub fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap())
}

/// POSTs JSON and gives status and body.
pub fn post(url: &str, body: &Value) -> (u16, Value) {
    let (url, body) = (url.to_owned(), body.to_string());
    block_on(async move {
        let request = client().post(url).header("content-type", "application/json").body(body);
        let response = request.timeout(CAP).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    })
}

pub fn get(url: &str) -> (u16, String) {
    let url = url.to_owned();
    block_on(async move {
        match client().get(url).timeout(CAP).send().await {
            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    })
}

/// One streamed answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Streamed {
    /// HTTP status; 0 when no connection was made.
    pub status: u16,
    pub text: String,
    pub deltas: usize,
    pub finish: Option<String>,
    pub usage: Option<Value>,
    pub done: bool,
    pub errors: Vec<Value>,
    /// `nvext.worker_id.decode_worker_id` of each event that has one, repeated ones left out.
    pub workers: Vec<u64>,
    /// Every event's JSON, in order.
    pub chunks: Vec<Value>,
    /// Why the connection ended before the body did, or what was said in place of a stream.
    pub broken: Option<String>,
}

/// Streams a chat; `each` sees what there is so far after each event. Anything but a whole stream fails the test.
pub fn stream(url: &str, body: &Value, each: impl FnMut(&Streamed)) -> Streamed {
    let got = block_on(stream_on(client(), url, body, each));
    assert!((200..300).contains(&got.status) && got.broken.is_none(), "{}: {:?}", got.status, got.broken);
    got
}

/// Streams a chat on `client`, and takes whatever comes of it.
pub async fn stream_on(client: &reqwest::Client, url: &str, body: &Value, mut each: impl FnMut(&Streamed)) -> Streamed {
    let mut got = Streamed::default();
    let request = client.post(format!("{url}/v1/chat/completions")).header("content-type", "application/json");
    let mut response = match request.body(body.to_string()).timeout(CAP).send().await {
        Ok(response) => response,
        Err(error) => return Streamed { broken: Some(chain(&error)), ..got },
    };
    got.status = response.status().as_u16();
    let mut buffer = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => {
                got.broken = Some(chain(&error));
                return got;
            }
        }
        while let Some(at) = buffer.windows(2).position(|w| w == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..at + 2).collect();
            let event = String::from_utf8(event).unwrap();
            let Some(payload) = event.trim().strip_prefix("data: ") else { continue };
            if payload == "[DONE]" {
                got.done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(payload).unwrap();
            take(&mut got, &chunk);
            got.chunks.push(chunk);
            each(&got);
        }
    }
    if !buffer.is_empty() {
        got.broken = Some(String::from_utf8_lossy(&buffer).into_owned());
    }
    got
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn take(got: &mut Streamed, chunk: &Value) {
    if chunk.get("error").is_some() {
        got.errors.push(chunk["error"].clone());
    }
    if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        got.text += text;
        got.deltas += 1;
    }
    if let Some(finish) = chunk["choices"][0]["finish_reason"].as_str() {
        got.finish = Some(finish.to_owned());
    }
    if let Some(worker) = chunk["nvext"]["worker_id"]["decode_worker_id"].as_u64()
        && got.workers.last() != Some(&worker)
    {
        got.workers.push(worker);
    }
    if chunk["usage"].is_object() {
        got.usage = Some(chunk["usage"].clone());
    }
}
