//! The official OpenAI client against the real binary: streaming, unary, errors, timeouts, cancel.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

mod machine;

use machine::{Machine, ended, part};
use std::path::Path;

#[test]
fn the_official_client_works_with_the_mock_engine() {
    let Some(python) = part("BUSBAR_TEST_PYTHON") else { return };
    let machine = Machine::new();
    let url = machine.up(&["--engine", "mock"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/openai_client.py");
    let output = ended(&machine.command(python).arg(script).arg(format!("{url}/v1")).output().unwrap());
    assert_eq!(output.code, Some(0), "{}\n{}\n{}", output.out, output.err, machine.logs());
    assert!(output.out.contains("all checks passed"), "{}", output.out);
}
