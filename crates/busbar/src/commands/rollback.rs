//! `busbar rollback GRAPH`: gives a graph in a cluster the spec of an earlier revision.

use super::runtime;
use crate::cli::{Output, RollbackFlags};
use crate::report::Failure;
use ::operator::revision::{RollbackError, roll_back};

/// Goes back, and shows what that changed.
pub(crate) fn run(flags: &RollbackFlags, output: Output) -> Result<(), Failure> {
    runtime(Some(1))?.block_on(async {
        let client = ::operator::install::client(flags.kubeconfig.as_deref(), flags.context.as_deref())
            .await
            .map_err(|error| Failure::new(error.to_string()).remedy(error.remedy()))?;
        let k8s_namespace = flags.k8s_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let done = roll_back(&client, &k8s_namespace, &flags.graph, flags.to_revision)
            .await
            .map_err(|error| failed(&error))?;
        if output == Output::Json {
            let changes =
                done.changes.iter().map(|(path, from, to)| serde_json::json!({ "path": path, "from": from, "to": to }));
            println!(
                "{}",
                serde_json::json!({ "toRevision": done.to_revision, "changes": changes.collect::<Vec<_>>() })
            );
            return Ok(());
        }
        if done.changes.is_empty() {
            println!("{} is revision {} already", flags.graph, done.to_revision);
            return Ok(());
        }
        println!("{} goes back to revision {}:", flags.graph, done.to_revision);
        for (path, from, to) in &done.changes {
            println!("  {path}: {from} -> {to}");
        }
        println!("watch it: kubectl wait --for=condition=Ready dgd/{} -n {k8s_namespace}", flags.graph);
        Ok(())
    })
}

fn failed(error: &RollbackError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        RollbackError::NoRevision { .. } => failure
            .remedy("a revision is kept each time that a graph becomes ready; give one of those with --to-revision")
            .permanent(),
        RollbackError::Api { source, .. } => {
            failure.chain(source).remedy("check the name, and -n for its Kubernetes namespace")
        }
    }
}
