//! The status page in a real browser: chat typed and answered, a worker killed and shown, plots equal to `/metrics`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Machine, ended, part};
use std::path::Path;

#[test]
fn the_page_chats_and_shows_a_killed_worker() {
    let (Some(python), Some(chromium)) = (part("BUSBAR_TEST_PYTHON"), part("BUSBAR_TEST_CHROMIUM")) else { return };
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/page.py");
    let (_, pid) = machine.pids("vllmdecodeworker").remove(0);
    let mut command = machine.command(python);
    // Machine::command keeps the tester's settings out; this one is for the script.
    if let Some(folder) = std::env::var_os("BUSBAR_TEST_SCREENSHOTS") {
        command.env("BUSBAR_TEST_SCREENSHOTS", folder);
    }
    command.arg(script).args([&url, &chromium, &pid.to_string()]);
    let output = ended(&command.output().unwrap());
    assert_eq!(output.code, Some(0), "{}\n{}\n{}", output.out, output.err, machine.logs());
    assert!(output.out.contains("all checks passed"), "{}", output.out);
}
