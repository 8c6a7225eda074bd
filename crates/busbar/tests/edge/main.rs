//! The edge under attack and overload: the real binary, real TCP, one scenario a file. What it prints are figures of the
//! machine that it ran on; no promise of time is asserted here.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod bombs;
mod logs;
#[path = "../machine/mod.rs"]
mod machine;
mod overload;
mod secrets;
mod slow;

use machine::{Machine, free_port, get, until};
use std::process::Command;

/// A frontend of its own, without a worker: the command to be spawned and its base URL.
fn frontend(machine: &Machine, args: &[&str]) -> (Command, String) {
    let port = free_port();
    let mut command = machine.busbar();
    command.args(["frontend", "--http-port", &port.to_string()]).args(args);
    command.env("DYN_FILE_KV", machine.home().join("records"));
    (command, format!("http://127.0.0.1:{port}"))
}

fn until_live(url: &str) {
    until("the frontend to listen", || (get(&format!("{url}/live")).0 == 200).then_some(()));
}

/// A figure of `/proc/PID/status` in KiB, such as `VmRSS`.
fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The value at this share of sorted values.
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or(f64::NAN)
}
