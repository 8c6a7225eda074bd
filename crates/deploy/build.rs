//! Puts the platform chart into the binary: a table of its files, in the order of their paths.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

const CHART: &str = "../../assets/charts/busbar-platform";

fn main() -> std::io::Result<()> {
    let root = Path::new(CHART).canonicalize()?;
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root).map_err(std::io::Error::other)?;
        // Writing to a String cannot fail.
        let _ =
            writeln!(table, "({:?}, include_bytes!({:?})),", name.display().to_string(), file.display().to_string());
    }
    table.push(']');
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("cargo gives OUT_DIR"))?;
    std::fs::write(Path::new(&out).join("chart.rs"), table)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
