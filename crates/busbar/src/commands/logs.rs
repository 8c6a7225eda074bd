//! `busbar logs COMPONENT`.

use crate::cli::LogFlags;
use crate::folders;
use crate::report::Failure;
use deploy::local::logs;
use deploy::local::state::{RunFolder, runs};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How often a followed log is looked at.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// Prints the last lines of each process of the component, then follows if asked.
pub(crate) fn run(flags: &LogFlags) -> Result<(), Failure> {
    let (folder, names) = find(flags)?;
    let many = names.len() > 1;
    let mut open = Vec::new();
    for name in &names {
        let path = folder.log(name);
        let lines = logs::tail(&path, flags.lines)
            .map_err(|error| Failure::new(format!("read {}", path.display())).cause(error.to_string()))?;
        let prefix = if many { format!("{name} | ") } else { String::new() };
        let mut out = std::io::stdout().lock();
        for line in lines {
            // A closed pipe (`| head`) ends the command, quietly.
            if writeln!(out, "{prefix}{line}").is_err() {
                return Ok(());
            }
        }
        open.push((prefix, path));
    }
    if flags.follow { follow(&open) } else { Ok(()) }
}

fn find(flags: &LogFlags) -> Result<(RunFolder, Vec<String>), Failure> {
    let root = folders::state()?;
    let mut graphs: Vec<String> = runs(&root).into_iter().map(|run| run.graph).collect();
    if graphs.is_empty() {
        graphs = past_runs(&root);
    }
    if let Some(wanted) = &flags.graph {
        graphs = vec![wanted.clone()];
    }
    let mut known = Vec::new();
    for graph in &graphs {
        let folder = RunFolder::new(&root, graph);
        let names = logs::matching(&folder, &flags.component);
        if !names.is_empty() {
            return Ok((folder, names));
        }
        known.extend(logs::all(&folder));
    }
    let known =
        if known.is_empty() { "there is no log yet".to_owned() } else { format!("there are: {}", known.join(", ")) };
    Err(Failure::new(format!("no log of `{}`", flags.component))
        .cause(known)
        .remedy("give one of these names")
        .permanent())
}

/// Runs that have ended keep their logs.
fn past_runs(root: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("runs")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn follow(open: &[(String, PathBuf)]) -> Result<(), Failure> {
    let mut positions: Vec<u64> = open.iter().map(|(_, path)| path.metadata().map_or(0, |m| m.len())).collect();
    loop {
        for ((prefix, path), position) in open.iter().zip(&mut positions) {
            let length = path.metadata().map_or(0, |m| m.len());
            if length < *position {
                // Turned over: the new file begins anew.
                *position = 0;
            }
            if length > *position && print_from(prefix, path, position).is_err() {
                return Ok(());
            }
        }
        std::thread::sleep(FOLLOW_POLL);
    }
}

fn print_from(prefix: &str, path: &PathBuf, position: &mut u64) -> std::io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(*position))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // Only whole lines; the rest comes with the next look.
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    *position += whole as u64;
    let mut out = std::io::stdout().lock();
    for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
        writeln!(out, "{prefix}{line}")?;
    }
    Ok(())
}
