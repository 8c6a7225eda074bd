//! `busbar lint`: what is wrong with a file, without a cluster and without starting anything.

use super::platform;
use crate::cli::Output;
use crate::report::Failure;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Checks every file; the first that is wrong ends it, with all that is wrong in it.
pub(crate) fn run(files: &[PathBuf], output: Output) -> Result<(), Failure> {
    let mut checked = Vec::new();
    for file in files {
        let said = check(file)?;
        if output == Output::Text {
            println!("{}: {said}", file.display());
        }
        checked.push(json!({ "file": file, "said": said }));
    }
    if output == Output::Json {
        println!("{}", json!({ "files": checked }));
    }
    Ok(())
}

fn check(file: &Path) -> Result<String, Failure> {
    if let Some(platform) = platform::named_by(Some(file))? {
        let plan = platform.plan()?;
        return Ok(format!("platform {}, {} graphs", plan.name, plan.graphs.len()));
    }
    let shown = file.display().to_string();
    let graph = graph::parse(&platform::read_text(file)?).map_err(|found| Failure::findings(&shown, &found))?;
    Ok(format!("graph {}, {} components", graph.name, graph.components.len()))
}
