//! The process between a worker and its vLLM, so that no kill of the worker leaves a vLLM behind.
//!
//! A worker that is killed with -9 can end nobody, and vLLM's own processes do not watch it. The keeper does: the
//! worker holds the other end of its standard input. A byte there asks vLLM to end, the end of it ends the whole process
//! group at once. Worker and keeper are one program, told apart by [`KEEP_VERB`].

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

/// First argument that makes the program a keeper; the command line to keep follows.
pub const KEEP_VERB: &str = "keep-engine";

/// What asks for a graceful end.
pub(super) const END: &[u8] = b"e";

/// Runs a command line until it ends; its own process group ends with the standard input.
///
/// # Errors
/// A program that cannot be started.
pub fn keep(command: &[String]) -> std::io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    // In a container nobody else would reap vLLM's own processes when their parents are gone. A kernel that refuses
    // leaves them to the container's first process. Before the start, for a parent may be gone at once.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    std::thread::spawn(move || watch(std::io::stdin().lock(), pid));
    match pid {
        Some(pid) => reap_until(pid),
        None => child.wait(),
    }
}

/// Waits for every process that becomes ours, until `child` is among them.
fn reap_until(child: rustix::process::Pid) -> std::io::Result<ExitStatus> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends the child when it is asked to, and the group when nobody is there to ask.
fn watch(mut asked: impl Read, child: Option<rustix::process::Pid>) {
    use rustix::process::{Signal, kill_current_process_group, kill_process};
    let mut buffer = [0u8; 16];
    while matches!(asked.read(&mut buffer), Ok(n) if n > 0) {
        if let Some(child) = child {
            // A child that is gone already is what is wanted.
            let _ = kill_process(child, Signal::TERM);
        }
    }
    let _ = kill_current_process_group(Signal::KILL);
}
