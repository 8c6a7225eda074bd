//! `busbar verify`: whether a platform is as its file says, and answers.

use super::platform::{self, Teller};
use super::platform_up::print_answers;
use super::runtime;
use crate::cli::{Output, VerifyFlags};
use crate::report::Failure;
use deploy::cluster::diff::{Deed, diff};
use deploy::cluster::{Cluster, ask};
use serde_json::json;

/// Compares, and asks every graph; changes nothing.
pub(crate) fn run(flags: &VerifyFlags, output: Output) -> Result<(), Failure> {
    let plan = platform::open(&flags.file)?.plan()?;
    let teller = Teller::new(output);
    let asked = runtime(None)?.block_on(async {
        let cluster = Cluster::connect(plan.context.as_deref()).await?;
        let helm = platform::helm(&plan, &cluster)?;
        let tell = |progress| teller.tell(progress);
        let changes = diff(&cluster, &helm, &plan).await?;
        let others: Vec<_> = changes.iter().filter(|change| change.deed != Deed::Keep).collect();
        if !others.is_empty() {
            let failure = Failure::new(format!("platform {} is not as {} says", plan.name, flags.file.display()));
            let failure = others.into_iter().fold(failure, |failure, change| {
                let word = if change.deed == Deed::Make { "is not there" } else { "is another" };
                failure.cause(format!("{} {word}\n{}", change.what, change.details.join("\n")).trim_end())
            });
            return Err(failure.remedy(format!("bring it there: busbar up {}", flags.file.display())));
        }
        ask::require_ready(&cluster, &plan, &tell).await?;
        Ok((ask::ask_all(&cluster, &plan.questions, &tell).await?, cluster))
    });
    teller.done();
    let (answers, cluster) = asked?;
    if output == Output::Json {
        println!("{}", json!({ "platform": plan.name, "state": "unchanged", "answers": answers }));
        return Ok(());
    }
    println!("platform {} is as {} says", plan.name, flags.file.display());
    print_answers(&answers, &cluster);
    Ok(())
}
