//! Scenario 55: thousands of connections that say next to nothing, and descriptors that run out.

use crate::machine::{Machine, get};
use crate::{frontend, status_kib, until_live};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

const SLOW: usize = 3000;
/// What each may cost, KiB.
const EACH_KIB_MAX: u64 = 64;

fn connect(url: &str, says: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    socket.write_all(says).unwrap();
    socket
}

#[test]
fn thousands_of_slow_connections_cost_little_and_keep_nobody_out() {
    let mut machine = Machine::new();
    let (command, url) = frontend(&machine, &["--connections-max", "3000"]);
    let pid = machine.spawn(command);
    until_live(&url);
    let before = status_kib(pid, "VmRSS");
    let slow: Vec<TcpStream> =
        (0..SLOW).map(|_| connect(&url, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-slow: ")).collect();
    // The last of them is accepted and read; every place is taken.
    assert_eq!(get(&format!("{url}/live")).0, 200, "one more is served");
    let after = status_kib(pid, "VmRSS");
    let each = after.saturating_sub(before) as f64 / SLOW as f64;
    eprintln!("{SLOW} slow connections: {before} KiB before, {after} KiB with them, {each:.1} KiB each");
    assert!(after.saturating_sub(before) < EACH_KIB_MAX * SLOW as u64, "{each} KiB each");
    drop(slow);
    assert_eq!(get(&format!("{url}/live")).0, 200);
}

#[test]
fn a_frontend_that_runs_out_of_descriptors_serves_on() {
    let mut machine = Machine::new();
    let (frontend, url) = frontend(&machine, &[]);
    // The hard limit: the binary raises the soft one itself.
    let mut limited: Command = machine.command("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(frontend.get_program()).args(frontend.get_args());
    limited.env("DYN_FILE_KV", machine.home().join("records"));
    let log = std::fs::File::create(machine.home().join("frontend.err")).unwrap();
    limited.stderr(log);
    machine.spawn(limited);
    until_live(&url);
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(&url, b"GET /live HTTP/1.1\r\nx-slow: ")).collect();
    for _ in 0..3 {
        assert_eq!(get(&format!("{url}/live")).0, 200, "silent connections give their descriptors up");
    }
    let log = std::fs::read_to_string(machine.home().join("frontend.err")).unwrap();
    assert!(log.contains("accepting connections fails"), "the operator is told:\n{log}");
    assert!(log.lines().count() < 100, "once, and not for each try");
    // Those that gave way were closed, not forgotten.
    let closed = silent.iter().filter(|socket| matches!((&mut &**socket).read(&mut [0; 1]), Ok(0) | Err(_))).count();
    assert!(closed > 100, "{closed} of 200 were closed");
}
