//! `busbar plan`: what `up` would make of a platform file, and what of it is there already.

use super::platform::{self, Teller};
use super::runtime;
use crate::cli::{Output, PlanFlags};
use crate::report::Failure;
use ::plan::{Check, Plan};
use comfy_table::{ContentArrangement, Table, presets};
use deploy::cluster::diff::{Change, Deed, diff};
use deploy::cluster::preflight::{self, Outcome};
use deploy::cluster::{Cluster, ClusterError};
use serde_json::json;

/// What the cluster says to a plan.
struct Look {
    cluster: Cluster,
    outcomes: Vec<Outcome>,
    changes: Result<Vec<Change>, ClusterError>,
}

/// Prints the plan, with what is on the cluster where one can be asked.
pub(crate) fn run(flags: &PlanFlags, output: Output) -> Result<(), Failure> {
    let plan = platform::open(&flags.file)?.plan()?;
    if flags.offline {
        return print(&plan, None, output);
    }
    let teller = Teller::new(output);
    teller.tell(deploy::cluster::Progress::Stage("asking the cluster".to_owned()));
    let look = runtime(None)?.block_on(look(&plan));
    teller.done();
    match look {
        Ok(look) => print(&plan, Some(&look), output),
        Err(failure) => {
            // A plan needs no cluster: one that cannot be asked is told, and the plan is shown.
            if output == Output::Text {
                eprintln!("  no cluster was asked: {}", failure.line());
            }
            print(&plan, None, output)
        }
    }
}

async fn look(plan: &Plan) -> Result<Look, Failure> {
    let cluster = Cluster::connect(plan.context.as_deref()).await?;
    let helm = platform::helm(plan, &cluster)?;
    let outcomes = preflight::run(&cluster, &helm, plan).await;
    if let Some(Outcome::Fails { found, .. }) = outcomes.first() {
        return Err(Failure::new(found.clone()));
    }
    let changes = diff(&cluster, &helm, plan).await;
    Ok(Look { cluster, outcomes, changes })
}

fn print(plan: &Plan, look: Option<&Look>, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        let asked = look.map(|look| {
            let changes = match &look.changes {
                Ok(changes) => json!(changes),
                Err(error) => json!({ "unknown": preflight_line(error) }),
            };
            json!({ "at": look.cluster.shown(), "checks": look.outcomes, "changes": changes })
        });
        println!("{}", json!({ "plan": plan, "cluster": asked }));
        return Ok(());
    }
    print_plan(plan);
    let Some(look) = look else { return Ok(()) };
    println!("\ncluster ({})", look.cluster.shown());
    for outcome in &look.outcomes {
        print_outcome(outcome);
    }
    println!("\nchanges");
    match &look.changes {
        Ok(changes) => print_changes(changes),
        Err(error) => println!("  not known: {}", preflight_line(error)),
    }
    Ok(())
}

fn preflight_line(error: &ClusterError) -> String {
    let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    format!("{error}{source}")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

fn print_plan(plan: &Plan) {
    let how = if plan.image.packed { "this program, packed and pushed" } else { "as it is" };
    println!("platform {} in namespace {}", plan.name, plan.release.k8s_namespace);
    println!("image    {} ({how})\n", plan.image.reference);
    let mut steps = table(&["STEP", "WHAT", "WHERE"]);
    for namespace in &plan.k8s_namespaces {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        steps.add_row(["namespace", name, ""]);
    }
    steps.add_row(["release", &plan.release.name, &plan.release.k8s_namespace]);
    for graph in &plan.graphs {
        steps.add_row(["graph", &graph.name, &graph.k8s_namespace]);
    }
    for question in &plan.questions {
        steps.add_row(["ask", &question.question, &format!("{}/{}", question.k8s_namespace, question.service)]);
    }
    println!("{steps}");
    if plan.graphs.is_empty() {
        return;
    }
    println!();
    let mut components = table(&["GRAPH", "COMPONENT", "KIND", "REPLICAS", "GPUS EACH"]);
    for graph in &plan.graphs {
        for component in &graph.components {
            components.add_row([
                graph.name.as_str(),
                &component.name,
                component.kind,
                &component.replicas.to_string(),
                &component.gpus.to_string(),
            ]);
        }
    }
    println!("{components}");
}

fn print_outcome(outcome: &Outcome) {
    match outcome {
        Outcome::Holds { found } => println!("  ✓ {found}"),
        Outcome::Warning { found, remedy } => println!("  ! {found}; {remedy}"),
        Outcome::Fails { found, remedy } => println!("  ✗ {found}; {remedy}"),
    }
}

fn print_changes(changes: &[Change]) {
    for change in changes {
        println!("  {} {}", change.deed.sign(), change.what);
        change.details.iter().for_each(|detail| println!("      {detail}"));
    }
    if changes.iter().all(|change| change.deed == Deed::Keep) {
        println!("  nothing changes");
    }
}

/// Shows the checks of a platform before anything is done: those that hold only when they are few.
pub(crate) fn show_outcomes(outcomes: &[Outcome], check: &[Check], teller: &Teller) {
    for (outcome, check) in outcomes.iter().zip(check) {
        match (outcome, check) {
            (Outcome::Holds { .. }, Check::Permission { .. }) | (Outcome::Fails { .. }, _) => {}
            (Outcome::Holds { found }, _) => teller.line(&format!("  ✓ {found}")),
            (Outcome::Warning { found, remedy }, _) => teller.line(&format!("  ! {found}; {remedy}")),
        }
    }
}
