//! The processes of this machine, by `/proc`.

use crate::machine;

/// A process that lives.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// Its name, as it gave it to itself, and its command line.
    pub(crate) what: String,
}

fn all() -> Vec<Process> {
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(one).collect()
}

fn one(pid: u32) -> Option<Process> {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&read("stat")).into_owned();
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent) = (rest.next()?, rest.next()?.parse().ok()?);
    let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
    let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    // A zombie is over; only its parent has not looked yet.
    (state != "Z").then_some(Process { pid, parent, what: format!("{name} {line}") })
}

/// Whether it has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    one(pid).is_some()
}

/// What lives below a process.
pub(crate) fn below(pid: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            found.push(process.clone());
            open.push(process.pid);
        }
    }
    found
}

/// The one whose name begins so.
pub(crate) fn named<'a>(processes: &'a [Process], name: &str) -> &'a Process {
    processes.iter().find(|process| process.what.starts_with(name)).unwrap_or_else(|| panic!("{name}: {processes:?}"))
}

/// Waits until all of a vLLM is gone.
pub(crate) fn all_gone(what: &str, processes: &[Process]) {
    assert!(processes.len() >= 3, "keeper, API server and engine were there: {processes:?}");
    machine::until(what, || {
        let left = all();
        let alive = |process: &Process| left.iter().any(|other| other.pid == process.pid);
        (!processes.iter().any(alive)).then_some(())
    });
}
