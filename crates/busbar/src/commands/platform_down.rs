//! `busbar down platform.yaml`: the platform and all that it made, removed from its cluster.

use super::platform::{self, PlatformFile, Teller};
use super::runtime;
use crate::cli::{DownFlags, Output};
use crate::report::Failure;
use crate::shutdown;
use deploy::cluster::Cluster;
use deploy::cluster::down::{self, Keep, Survey};
use serde_json::json;
use std::io::{BufRead, IsTerminal};

/// Removes it; nothing to remove is no failure, so that it is safe to run twice.
pub(crate) fn run(file: &PlatformFile, flags: &DownFlags, output: Output) -> Result<(), Failure> {
    let plan = file.plan()?;
    let teller = Teller::new(output);
    let keep = Keep { data: flags.keep_data, definitions: flags.keep_crds };
    let runtime = runtime(None)?;
    let (cluster, helm, survey) = runtime.block_on(async {
        let cluster = Cluster::connect(plan.context.as_deref()).await?;
        let helm = platform::helm(&plan, &cluster)?;
        teller.tell(deploy::cluster::Progress::Stage("looking at what is there".to_owned()));
        let survey = down::survey(&cluster, &helm, &plan).await?;
        Ok::<_, Failure>((cluster, helm, survey))
    })?;
    teller.done();
    if survey.is_empty() {
        report(&plan.name, &survey, &[], output);
        return Ok(());
    }
    if !survey.claims.is_empty() && !flags.keep_data && !flags.yes {
        ask(&survey)?;
    }
    let tell = |progress| teller.tell(progress);
    let kept = runtime.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        Ok::<_, Failure>(down::run((&cluster, &helm, &plan), &survey, keep, &tell, &shutdown.first).await?)
    });
    teller.done();
    report(&plan.name, &survey, &kept?, output);
    Ok(())
}

/// Asks whether the data may go; whoever cannot be asked is told what to say.
fn ask(survey: &Survey) -> Result<(), Failure> {
    let refused = |cause: &str| {
        Failure::new("remove the data volumes")
            .cause(cause)
            .cause(survey.claims.join("\n"))
            .remedy("give --yes to remove them, or --keep-data to keep them")
            .permanent()
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused("nobody can be asked: standard input is no terminal"));
    }
    eprintln!("these volumes and all that is on them go too:");
    survey.claims.iter().for_each(|claim| eprintln!("  {claim}"));
    eprint!("remove them? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(refused("the answer was no")),
    }
}

fn report(platform: &str, survey: &Survey, kept: &[String], output: Output) {
    if output == Output::Json {
        println!("{}", json!({ "platform": platform, "removed": survey, "kept": kept }));
        return;
    }
    if survey.is_empty() {
        println!("nothing of platform {platform} is there");
        return;
    }
    println!("platform {platform} is removed; nothing of it is left{}", if kept.is_empty() { "" } else { " but:" });
    kept.iter().for_each(|kept| println!("  {kept}"));
}
