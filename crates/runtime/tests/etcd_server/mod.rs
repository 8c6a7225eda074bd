//! A real etcd of one or three members on free ports, with its faults: killed, started again, its data removed.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use super::free_port;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything; generous, so that a busy machine fails no test.
const CAP: Duration = Duration::from_secs(120);

/// A cluster; all of it ends with the value.
pub struct EtcdServer {
    program: PathBuf,
    folder: tempfile::TempDir,
    members: Vec<Member>,
    scheme: &'static str,
    extra: Vec<String>,
    /// Flags of etcdctl: certificates, a user.
    pub ctl_flags: Vec<String>,
}

struct Member {
    port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl EtcdServer {
    /// A running cluster of one. `program` is the path of `etcd`; `etcdctl` lies beside it.
    pub fn one(program: &str) -> Self {
        Self::start_new(program, 1, "http", &[], &[])
    }

    /// A running cluster of three.
    pub fn three(program: &str) -> Self {
        Self::start_new(program, 3, "http", &[], &[])
    }

    /// A running cluster of `size` under `scheme`, with further flags of etcd and of etcdctl.
    pub fn start_new(program: &str, size: usize, scheme: &'static str, extra: &[String], ctl_flags: &[String]) -> Self {
        let member = |_| Member { port: free_port(), peer_port: free_port(), child: None };
        let mut server = Self {
            program: PathBuf::from(program),
            folder: tempfile::tempdir().unwrap(),
            members: (0..size).map(member).collect(),
            scheme,
            extra: extra.to_vec(),
            ctl_flags: ctl_flags.to_vec(),
        };
        (0..size).for_each(|index| server.start(index));
        server.until_healthy();
        server
    }

    /// `ETCD_ENDPOINTS`.
    pub fn endpoints(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(|m| format!("{}://127.0.0.1:{}", self.scheme, m.port)).collect();
        urls.join(",")
    }

    /// Starts a member on the data that it has.
    pub fn start(&mut self, index: usize) {
        let peers: Vec<_> =
            self.members.iter().enumerate().map(|(i, m)| format!("m{i}=http://127.0.0.1:{}", m.peer_port)).collect();
        let member = &self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.port);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let log = std::fs::File::options().create(true).append(true).open(self.log(index)).unwrap();
        let child = Command::new(&self.program)
            .args(["--name", &format!("m{index}"), "--data-dir"])
            .arg(self.data(index))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
            // The tests' disks are slow and their data worth nothing.
            .args(["--unsafe-no-fsync"])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        self.members[index].child = Some(child);
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        let mut child = self.members[index].child.take().expect("the member runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Removes the data of a member that does not run.
    pub fn wipe(&self, index: usize) {
        assert!(self.members[index].child.is_none(), "the member runs");
        std::fs::remove_dir_all(self.data(index)).unwrap();
    }

    pub fn pid(&self, index: usize) -> u32 {
        self.members[index].child.as_ref().expect("the member runs").id()
    }

    /// The member that leads, as one of the running ones says.
    pub fn leader(&self) -> usize {
        self.until("a leader", || {
            (0..self.members.len()).filter(|index| self.members[*index].child.is_some()).find(|index| {
                let endpoint = format!("{}://127.0.0.1:{}", self.scheme, self.members[*index].port);
                let status = self.ctl_at(&endpoint, &["endpoint", "status", "-w", "json"]).unwrap_or_default();
                let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                let status = &status[0]["Status"];
                status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
            })
        })
    }

    /// Runs etcdctl and gives what it says.
    pub fn ctl(&self, args: &[&str]) -> Result<String, String> {
        self.ctl_at(&self.endpoints(), args)
    }

    fn ctl_at(&self, endpoints: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(self.program.with_file_name("etcdctl"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", endpoints, "--dial-timeout", "5s"])
            .args(&self.ctl_flags)
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(said + &String::from_utf8_lossy(&output.stderr)) }
    }

    /// Keys and values under `v1/`.
    pub fn records(&self) -> Vec<(String, String)> {
        let said = self.ctl(&["get", "v1/", "--prefix"]).unwrap_or_default();
        let mut lines = said.lines();
        std::iter::from_fn(|| Some((lines.next()?.to_owned(), lines.next()?.to_owned()))).collect()
    }

    pub fn until_healthy(&self) {
        self.until("a healthy etcd", || self.ctl(&["get", "nothing"]).ok());
    }

    /// Waits until `look` finds something.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(started.elapsed() < CAP, "waited {CAP:?} for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn logs(&self) -> String {
        let tail = |index| {
            let text = std::fs::read_to_string(self.log(index)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        (0..self.members.len()).map(tail).collect::<Vec<_>>().join("\n---\n")
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}"))
    }

    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}.log"))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The path of `etcd` that `make test` sets; says so when the test is not run.
pub fn program() -> Option<String> {
    let value = std::env::var("BUSBAR_TEST_ETCD").ok().filter(|value| !value.is_empty());
    if value.is_none() {
        #[allow(clippy::print_stderr, reason = "a test says on standard error what it did not run")]
        {
            eprintln!("NOT RUN: BUSBAR_TEST_ETCD is unset; `make test` sets it");
        }
    }
    value
}
