//! The walls of the house, held by a test. Each failure says where and what to do.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panic and says on standard error what it did not run"
)]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate may import of ours, and what must not be below it. ARCHITECTURE.md, "Floors".
const WALLS: &[(&str, &[&str], &[&str])] = &[
    ("protocol", &[], &["tokio", "kube", "axum", "aws-config"]),
    ("telemetry", &[], &["tokio", "axum", "reqwest"]),
    ("crds", &[], &["kube-client", "tokio"]),
    ("router", &["protocol"], &["tokio", "reqwest", "axum"]),
    ("sim", &["protocol", "router"], &["tokio", "reqwest", "axum"]),
    ("graph", &["crds"], &["tokio", "reqwest", "kube-client"]),
    ("runtime", &["protocol", "crds", "telemetry"], &["tokenizers", "minijinja"]),
    ("frontend", &["protocol", "router", "runtime", "telemetry"], &["kube", "aws-config"]),
    ("worker", &["protocol", "sim", "runtime", "telemetry"], &["router"]),
    ("plan", &["crds", "graph"], &["tokio", "kube-client", "reqwest", "aws-config"]),
    ("deploy", &["plan", "graph", "crds", "telemetry"], &["axum", "frontend", "runtime"]),
    ("operator", &["crds", "graph", "telemetry"], &["aws-config", "deploy", "plan"]),
    (
        "busbar",
        &[
            "protocol",
            "telemetry",
            "crds",
            "router",
            "sim",
            "graph",
            "plan",
            "runtime",
            "frontend",
            "worker",
            "deploy",
            "operator",
        ],
        &[],
    ),
];

/// Crates whose ban holds through all normal dependencies; for the others it holds for direct ones.
const TRANSITIVE: &[&str] = &["protocol", "telemetry", "crds", "router", "sim", "graph", "plan"];

/// Clock and chance come into a brain as arguments.
const BRAINS: &[&str] = &["router", "sim", "graph", "plan"];
const BANNED_IN_BRAINS: &[(&str, &str)] = &[
    ("Instant::now", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("std::env::", "take the value as an argument"),
    ("std::fs::", "take the text as an argument"),
    ("std::net::", "leave the network to a hand"),
    ("rand::rng(", "take the generator as an argument"),
    ("thread_rng", "take the generator as an argument"),
    ("rand::random", "take the generator as an argument"),
];

const BANNED_MODULES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "types"];
const SOURCE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

fn ours(metadata: &Metadata) -> BTreeMap<String, &Package> {
    metadata.workspace_packages().into_iter().map(|package| (package.name.to_string(), package)).collect()
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_crate_imports_only_what_its_floor_allows() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let known: BTreeSet<&str> = WALLS.iter().map(|(name, ..)| *name).collect();
    let mut faults: Vec<String> = ours
        .keys()
        .filter(|name| !known.contains(name.as_str()))
        .map(|name| format!("crates/{name}: has no row in WALLS; add it there and in ARCHITECTURE.md"))
        .collect();
    for (name, may, must_not) in WALLS {
        let Some(package) = ours.get(*name) else { continue };
        let direct: BTreeSet<&str> =
            package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.as_str()).collect();
        for import in direct.iter().filter(|d| known.contains(**d) && !may.contains(d)) {
            faults.push(format!(
                "crates/{name}/Cargo.toml: must not import `{import}`; move the code to the floor where both may have it"
            ));
        }
        let below = if TRANSITIVE.contains(name) {
            all_below(&metadata, &package.id)
        } else {
            direct.iter().map(|d| (*d).to_owned()).collect()
        };
        for banned in must_not.iter().filter(|banned| below.contains(**banned)) {
            faults.push(format!("crates/{name}/Cargo.toml: must not depend on `{banned}`"));
        }
    }
    report(&faults);
}

/// Names of all normal dependencies below a package.
fn all_below(metadata: &Metadata, from: &PackageId) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.to_string())).collect();
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(id) = open.pop() {
        for dep in &nodes[id].deps {
            let normal = dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(&dep.pkg) {
                open.push(&dep.pkg);
            }
        }
    }
    seen.into_iter().map(|id| names[id].clone()).collect()
}

#[test]
fn nothing_imports_the_door() {
    let metadata = metadata();
    let importers = ours(&metadata).into_iter().filter(|(_, p)| p.dependencies.iter().any(|d| d.name == "busbar"));
    report(&importers.map(|(name, _)| format!("crates/{name}: must not import the door")).collect::<Vec<_>>());
}

/// Rust sources below `crates`, tests and benches included, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().join("crates")]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

#[test]
fn source_files_stay_small_and_are_named_for_what_they_are() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > SOURCE_LINES_MAX {
            faults
                .push(format!("{}: {lines} lines are more than {SOURCE_LINES_MAX}; split it by idea", path.display()));
        }
        let mut parts = path.components().filter_map(|c| c.as_os_str().to_str());
        if parts.any(|part| BANNED_MODULES.contains(&part.trim_end_matches(".rs"))) {
            faults.push(format!("{}: is named for nothing; name the idea it holds", path.display()));
        }
    }
    report(&faults);
}

#[test]
fn every_crate_says_its_invariant() {
    let mut faults = Vec::new();
    for (name, ..) in WALLS {
        let folder = root().join("crates").join(name);
        if !folder.exists() {
            continue;
        }
        let file = if *name == "busbar" { "src/main.rs" } else { "src/lib.rs" };
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        if !text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("**Invariant")) {
            faults.push(format!("crates/{name}/{file}: say the crate's `**Invariant:**` in its `//!`"));
        }
    }
    report(&faults);
}

#[test]
fn brains_have_no_clock_no_chance_and_no_files() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let in_brain = BRAINS.iter().any(|brain| path.starts_with(format!("crates/{brain}/src")));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().enumerate().filter(|(_, line)| in_brain && !line.trim_start().starts_with("//"));
        for (number, line) in lines {
            for (banned, remedy) in BANNED_IN_BRAINS.iter().filter(|(banned, _)| line.contains(banned)) {
                faults.push(format!("{}:{}: `{banned}` in a brain; {remedy}", path.display(), number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn unsafe_stands_only_where_the_engine_binding_needs_it() {
    let allowed = Path::new("crates/worker/src/engine/embedded");
    let own = Path::new("crates/busbar/tests/tidy.rs");
    let mut faults = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.starts_with(allowed) && path != own) {
        for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains("allow(unsafe_code)")) {
            faults.push(format!("{}:{}: unsafe outside of {}", path.display(), number + 1, allowed.display()));
        }
    }
    report(&faults);
}

#[test]
fn the_top_level_papers_are_there_and_the_readme_is_short() {
    const README_LINES_MAX: usize = 150;
    let mut faults = Vec::new();
    for paper in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SPECIFICATION.md", "CHANGELOG.md", "LICENSE"] {
        if !root().join(paper).exists() {
            faults.push(format!("{paper}: is missing"));
        }
    }
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap_or_default().lines().count();
    if lines > README_LINES_MAX {
        faults.push(format!("README.md: {lines} lines are more than {README_LINES_MAX}; move detail to docs/guides"));
    }
    report(&faults);
}
