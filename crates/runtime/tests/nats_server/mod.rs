//! A real nats-server of a test's own, to be killed, restarted, wiped and stopped.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(clippy::print_stderr, reason = "a test says on standard error what it did not run")]

use super::free_port;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the program; `make test` sets it.
const PROGRAM: &str = "BUSBAR_TEST_NATS";

/// Longest wait for the server to listen; generous, so that a busy machine fails no test.
const CAP: Duration = Duration::from_secs(60);

/// The server ends with the value.
pub struct NatsServer {
    program: PathBuf,
    folder: tempfile::TempDir,
    pub port: u16,
    pub monitor_port: u16,
    child: Option<Child>,
}

impl NatsServer {
    /// A server with `more` in its configuration, JetStream on. `None`, said on standard error, without the program.
    pub fn start(more: &str) -> Option<Self> {
        let mut server = Self::prepared(more)?;
        server.run();
        Some(server)
    }

    /// The same, not running yet.
    pub fn prepared(more: &str) -> Option<Self> {
        let Some(program) = std::env::var(PROGRAM).ok().filter(|program| !program.is_empty()) else {
            eprintln!("NOT RUN: {PROGRAM} is unset; `make test` sets it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (port, monitor_port) = (free_port(), free_port());
        let server = Self { program: program.into(), folder, port, monitor_port, child: None };
        server.configure(more);
        Some(server)
    }

    /// Replaces the rest of the configuration, for the next start.
    pub fn configure(&self, more: &str) {
        let (port, monitor, store) = (self.port, self.monitor_port, self.store().display().to_string());
        let text = format!(
            "host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\njetstream {{ store_dir: \"{store}\" }}\n{more}\n"
        );
        std::fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    /// Starts it, at the same port as before, and waits until it listens.
    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("nats.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < CAP, "nats-server: {ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Deletes what the server stored. It must not run.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "a running server writes on");
        let _ = std::fs::remove_dir_all(self.store());
    }

    /// SIGSTOP: it holds its connections and says nothing.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("nats.log")
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
