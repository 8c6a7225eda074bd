//! A graph as the processes of one machine.

use crate::argv::{self, Module};
use crate::component::{Component, ComponentKind, EnvValue, Graph};
use crate::finding::Finding;

/// Processes of one graph on one machine. Each is a program with its own memory for a model.
pub const PROCESSES_MAX: u32 = 64;

/// The graph that runs without a file: `examples/agg_router.yaml`.
pub const BUILT_IN_GRAPH: &str = include_str!("../../../examples/agg_router.yaml");

/// One process to start and keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// `vllmdecodeworker-0`: component in lower case and replica.
    pub name: String,
    /// The component's name, as written.
    pub component: String,
    /// Frontend or worker.
    pub role: Role,
    /// The manifest's own command line, `$(VAR)` expanded; the process reads it as its own.
    pub argv: Vec<String>,
    /// Environment of the manifest, later values already applied. Secrets are not here: they are inherited.
    pub env: Vec<(String, String)>,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves HTTP.
    Frontend,
    /// Runs an engine.
    Worker,
}

/// What one machine runs of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPlan {
    /// In the order of the file; frontends need not come first.
    pub processes: Vec<Process>,
    /// What the manifest asks and one machine does not do, in sentences.
    pub notes: Vec<String>,
}

/// Renders `graph` to processes.
///
/// # Errors
/// Every component that one machine cannot run, with the reason.
pub fn render(graph: &Graph) -> Result<LocalPlan, Vec<Finding>> {
    let (mut processes, mut notes, mut findings) = (Vec::new(), Vec::new(), Vec::new());
    for component in &graph.components {
        match role_of(component) {
            Ok(role) => {
                processes.extend((0..component.replicas).map(|replica| process(component, role, replica)));
                notes.extend(notes_of(component));
            }
            Err(finding) => findings.push(finding),
        }
    }
    let total: u32 = graph.components.iter().map(|c| c.replicas).sum();
    if total > PROCESSES_MAX {
        let problem = format!("{total} replicas in all are more than the {PROCESSES_MAX} processes of one machine");
        findings.push(Finding::new("spec", problem, "lower the replica counts, or run the graph on a cluster"));
    }
    for role in [Role::Frontend, Role::Worker] {
        if findings.is_empty() && !processes.iter().any(|p| p.role == role) {
            let word = if role == Role::Frontend { "frontend" } else { "worker" };
            findings.push(Finding::new("spec", format!("no {word} has a replica"), format!("give a {word} 1 replica")));
        }
    }
    if findings.is_empty() { Ok(LocalPlan { processes, notes }) } else { Err(findings) }
}

fn role_of(component: &Component) -> Result<Role, Finding> {
    let role = match component.kind {
        ComponentKind::Frontend => Role::Frontend,
        ComponentKind::Worker => Role::Worker,
        ComponentKind::Prefill | ComponentKind::Decode => {
            return Err(Finding::new(
                &component.path,
                format!(
                    "a {} worker is part of disaggregated serving, which one machine does not do yet",
                    component.kind.word()
                ),
                "use workers of type worker (as in examples/agg_router.yaml)",
            ));
        }
        ComponentKind::Planner | ComponentKind::Epp => {
            return Err(Finding::new(
                &component.path,
                format!("a component of type {} needs a cluster", component.kind.word()),
                "remove it to run the graph on one machine",
            ));
        }
    };
    if component.argv.is_empty() {
        return match role {
            Role::Frontend => Ok(role),
            Role::Worker => Err(Finding::new(&component.path, "the worker has no command", argv::SHAPES)),
        };
    }
    let launch = argv::recognise(&component.argv).map_err(|error| {
        Finding::new(&component.path, format!("the command is not understood: {error}"), argv::SHAPES)
    })?;
    if (launch.module == Module::Frontend) == (role == Role::Frontend) {
        return Ok(role);
    }
    Err(Finding::new(
        &component.path,
        format!("the component is a {}, but its command starts something else", component.kind.word()),
        "make type and command agree",
    ))
}

fn process(component: &Component, role: Role, replica: u32) -> Process {
    let name = format!("{}-{replica}", component.name.to_lowercase());
    let mut env: Vec<(String, String)> = Vec::new();
    for (key, value) in &component.env {
        let value = match value {
            EnvValue::Literal(text) => {
                argv::expand(text, &|wanted| env.iter().rev().find(|(k, _)| k == wanted).map(|(_, v)| v.clone()))
            }
            EnvValue::PodField(field) => match field.as_str() {
                "metadata.name" => name.clone(),
                "metadata.namespace" => "default".to_owned(),
                "status.podIP" | "status.hostIP" => "127.0.0.1".to_owned(),
                _ => continue,
            },
            // The variable of the same name is inherited, so its value never stands in a plan or a log.
            EnvValue::External { .. } => continue,
        };
        env.retain(|(k, _)| k != key);
        env.push((key.clone(), value));
    }
    let lookup = |wanted: &str| env.iter().find(|(k, _)| k == wanted).map(|(_, v)| v.clone());
    let argv = if component.argv.is_empty() {
        ["python3", "-m", "dynamo.frontend"].map(str::to_owned).to_vec()
    } else {
        component.argv.iter().map(|word| argv::expand(word, &lookup)).collect()
    };
    Process { name, component: component.name.clone(), role, argv, env }
}

fn notes_of(component: &Component) -> Vec<String> {
    let mut notes = Vec::new();
    if !component.cluster_only.is_empty() {
        notes.push(format!("{}: {} count on a cluster only", component.name, component.cluster_only.join(", ")));
    }
    for (name, value) in &component.env {
        if let EnvValue::External { from, .. } = value {
            notes.push(format!(
                "{}: {name} comes from {from} on a cluster; here from your own environment",
                component.name
            ));
        }
    }
    notes
}
