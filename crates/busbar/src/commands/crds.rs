//! `busbar crds`: the CustomResourceDefinitions, for whoever installs them without the chart.

use crate::cli::{CrdsFlags, Output};
use crate::report::Failure;
use ::crds::definition::{ConversionService, definitions, files};
use std::io::Write;
use std::path::Path;

/// Prints them as one stream of YAML documents (a `List` as JSON), or writes a file a kind.
pub(crate) fn run(flags: &CrdsFlags, output: Output) -> Result<(), Failure> {
    let service = ConversionService { k8s_namespace: flags.k8s_namespace.clone(), ..ConversionService::default() };
    if flags.output_dir.is_none() && output == Output::Json {
        let items: Vec<_> = definitions(&service).into_iter().map(|(_, definition)| definition).collect();
        return print(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string());
    }
    let files = files(&service).map_err(|error| Failure::new("write the definitions").cause(error.to_string()))?;
    match &flags.output_dir {
        Some(folder) => write(folder, &files),
        None => print(&files.iter().map(|(_, text)| format!("---\n{text}")).collect::<String>()),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new("print the definitions").cause(error.to_string()))
}

fn write(folder: &Path, files: &[(String, String)]) -> Result<(), Failure> {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| {
            Failure::new(format!("write {}", path.display()))
                .cause(error.to_string())
                .remedy("give a folder that is there: --output-dir FOLDER")
        })?;
    }
    Ok(())
}
