//! The generated pages of docs/reference are what the binary would write now.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_reference_pages_are_fresh() {
    let fresh = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_busbar")).arg("reference").arg(fresh.path()).status().unwrap();
    assert!(status.success());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let mut compared = 0;
    for entry in std::fs::read_dir(fresh.path()).unwrap().flatten() {
        let name = entry.file_name();
        let new = std::fs::read_to_string(entry.path()).unwrap();
        let old = std::fs::read_to_string(committed.join(&name));
        assert!(old.is_ok_and(|old| old == new), "docs/reference/{} is stale; run `make reference`", name.display());
        compared += 1;
    }
    assert_eq!(compared, 4);
}
