//! `busbar crds`: the CustomResourceDefinitions, printed, written or put into a cluster.

use crate::cli::{CrdsFlags, Output};
use crate::report::Failure;
use ::crds::definition::{ConversionService, definitions, files};
use ::operator::install;
use std::io::Write;
use std::path::Path;

/// Prints them as one stream of YAML documents (a `List` as JSON), or writes a file a kind.
pub(crate) fn run(flags: &CrdsFlags, output: Output) -> Result<(), Failure> {
    let service = ConversionService { k8s_namespace: flags.k8s_namespace.clone(), ..ConversionService::default() };
    if flags.apply {
        return super::runtime(Some(1))?.block_on(apply(flags, &service, output));
    }
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

async fn apply(flags: &CrdsFlags, service: &ConversionService, output: Output) -> Result<(), Failure> {
    let failed = |error: install::InstallError| {
        let failure = Failure::new(error.to_string()).remedy(error.remedy());
        match std::error::Error::source(&error) {
            Some(source) => failure.chain(source),
            None => failure,
        }
    };
    let client = install::client(flags.kubeconfig.as_deref(), flags.context.as_deref()).await.map_err(failed)?;
    let mut done = Vec::new();
    let applied = install::apply(&client, service, |name, outcome| {
        if output == Output::Text {
            println!("{name} {}", outcome.word());
        }
        done.push(serde_json::json!({ "name": name, "outcome": outcome.word() }));
    });
    applied.await.map_err(failed)?;
    match output {
        Output::Text => Ok(()),
        Output::Json => print(&serde_json::json!({ "definitions": done }).to_string()),
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
