//! `busbar up platform.yaml`: a platform on its cluster, from the image to the first answer.

use super::plan::show_outcomes;
use super::platform::{self, PlatformFile, Teller};
use super::runtime;
use crate::cli::{Output, UpFlags};
use crate::report::Failure;
use crate::shutdown;
use ::plan::Plan;
use deploy::cluster::ask::{Answer, try_it};
use deploy::cluster::helm::Helm;
use deploy::cluster::up::{self, Done, Manner};
use deploy::cluster::{Cluster, preflight};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long graphs may take when nothing is said: images of ten gigabytes and weights of a hundred are pulled.
const READY_TIMEOUT: Duration = Duration::from_secs(1800);

/// Brings the cluster to what the file says.
pub(crate) fn run(file: &PlatformFile, flags: &UpFlags, output: Output) -> Result<(), Failure> {
    refuse_flags_of_a_machine(flags)?;
    let started = Instant::now();
    let plan = file.plan()?;
    let teller = Teller::new(output);
    teller.line(&format!("{}: platform {}, {} graphs", file.path.display(), plan.name, plan.graphs.len()));
    let done = runtime(None)?.block_on(async {
        let shutdown =
            shutdown::listen().map_err(|error| Failure::new("listen for signals").cause(error.to_string()))?;
        let cluster = Cluster::connect(plan.context.as_deref()).await?;
        let helm = platform::helm(&plan, &cluster)?;
        tokio::select! {
            prepared = prepare(&plan, &cluster, &helm, &teller) => prepared?,
            () = shutdown.first.cancelled() => return Err(Failure::new("interrupted before anything was changed")),
        }
        let tell = |progress| teller.tell(progress);
        let manner = Manner {
            ready_timeout: flags.ready_timeout.map_or(READY_TIMEOUT, Duration::from_secs),
            force_conflicts: flags.force_conflicts,
        };
        let done = up::run((&cluster, &helm, &plan), manner, &tell, &shutdown.first).await;
        teller.done();
        Ok((done?, cluster))
    });
    teller.done();
    let (done, cluster) = done?;
    announce(&plan, &done, &cluster, started, output);
    Ok(())
}

/// The checks, and the image.
async fn prepare(plan: &Plan, cluster: &Cluster, helm: &Helm, teller: &Teller) -> Result<(), Failure> {
    teller.tell(deploy::cluster::Progress::Stage("checking the cluster".to_owned()));
    let outcomes = preflight::run(cluster, helm, plan).await;
    teller.done();
    show_outcomes(&outcomes, &plan.checks, teller);
    preflight::require(&outcomes)?;
    platform::push_image(plan, teller).await
}

/// What is meant for processes of this machine would be ignored in silence.
fn refuse_flags_of_a_machine(flags: &UpFlags) -> Result<(), Failure> {
    let given = [
        ("--model", flags.model.is_some(), "the graph's own arguments name the model"),
        ("--engine", flags.engine.is_some(), "the graph's own command names the engine"),
        ("--api-keys", flags.api_keys.is_some(), "give the graph a Secret with BUSBAR_API_KEYS"),
        ("--detach", flags.detach, "a cluster keeps what runs"),
        ("--host", !flags.host.is_loopback(), "see target.kubernetes.exposure"),
    ];
    match given.into_iter().find(|(_, is_given, _)| *is_given) {
        None => Ok(()),
        Some((flag, _, remedy)) => Err(Failure::new(format!("{flag} is for graphs on this machine"))
            .cause("the file is a Platform")
            .remedy(format!("leave it out; {remedy}"))
            .permanent()),
    }
}

fn announce(plan: &Plan, done: &Done, cluster: &Cluster, started: Instant, output: Output) {
    let seconds = started.elapsed().as_secs_f64();
    if output == Output::Json {
        let state = if done.changes == 0 { "unchanged" } else { "changed" };
        println!(
            "{}",
            json!({
                "platform": plan.name, "k8s_namespace": plan.release.k8s_namespace, "state": state,
                "changes": done.changes, "answers": done.answers, "seconds": seconds,
            })
        );
        return;
    }
    let what = match done.changes {
        0 => "is there already, unchanged".to_owned(),
        1 => "is there, 1 change".to_owned(),
        count => format!("is there, {count} changes"),
    };
    println!("platform {} {what} ({seconds:.1} s)", plan.name);
    print_answers(&done.answers, cluster);
}

/// Questions, answers, and how to ask more.
pub(crate) fn print_answers(answers: &[Answer], cluster: &Cluster) {
    for answer in answers {
        println!("\n  graph     {}/{}, model {}", answer.k8s_namespace, answer.graph, answer.model);
        println!("  question  {}", answer.question);
        println!("  answer    {}", answer.text);
        let [forward, curl] = try_it(answer, cluster.context.as_deref());
        println!("  try it    {forward} &");
        println!("            {curl}");
    }
}
