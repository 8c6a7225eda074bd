//! A platform on a real control plane, up and down, cut off and gone on with. Needs `tests-env/kubernetes/cluster.sh` and
//! its env file; fails without. The operator is off: what it does with graphs is the journey's to show.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../machine/mod.rs"]
mod machine;

use machine::{CAP, Ended, Machine};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: source the env file of tests-env/kubernetes/cluster.sh"))
}

/// A platform of its own name, and a machine from which it is managed.
struct Site {
    machine: Machine,
    name: String,
}

impl Site {
    fn new(name: &str) -> Self {
        let site = Self { machine: Machine::new(), name: format!("{name}-{}", std::process::id()) };
        site.write("  nats: {install: false}\n");
        site
    }

    /// The file, with these lines below `platform:`.
    fn write(&self, settings: &str) -> String {
        let (name, registry) = (&self.name, env("BUSBAR_TEST_REGISTRY"));
        let text = format!(
            "apiVersion: busbar.dev/v1alpha1\nkind: Platform\nmetadata: {{name: {name}}}\ntarget:\n  kubernetes:\n    \
             k8s_namespace: {name}-system\nimage: {registry}/busbar:none\nplatform:\n{settings}  \
             values: {{dynamo-operator: {{enabled: false}}}}\n"
        );
        self.machine.file("platform.yaml", &text).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let file = self.machine.home().join("platform.yaml").display().to_string();
        let mut command = self.machine.busbar();
        command.arg(words[0]).arg(file).args(&words[1..]);
        command.env("KUBECONFIG", env("BUSBAR_TEST_KUBECONFIG")).env("BUSBAR_HELM", env("BUSBAR_TEST_HELM"));
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        machine::ended(&self.command(words).output().unwrap())
    }

    /// Ends with 0 and says a JSON value.
    fn says(&self, words: &[&str]) -> Value {
        let ended = self.run(&[words, &["-o", "json"]].concat());
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.err, ended.out);
        serde_json::from_str(ended.out.trim()).unwrap()
    }

    fn namespace(&self) -> String {
        format!("{}-system", self.name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--yes"]).output();
        let _ = Command::new(env("BUSBAR_TEST_KUBECTL"))
            .args(["--kubeconfig", &env("BUSBAR_TEST_KUBECONFIG"), "delete", "namespace", &self.namespace()])
            .args(["--ignore-not-found", "--wait=false"])
            .output();
    }
}

fn kubectl(words: &[&str]) -> String {
    let output = Command::new(env("BUSBAR_TEST_KUBECTL"))
        .args(["--kubeconfig", &env("BUSBAR_TEST_KUBECONFIG")])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < CAP, "{what}: not within {CAP:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_second_up_changes_nothing_and_down_leaves_nothing_twice() {
    let site = Site::new("twice");
    assert_eq!(site.run(&["verify"]).code, Some(1), "verify of what is not there");
    let plan = site.says(&["plan"]);
    assert!(plan["cluster"]["changes"].as_array().unwrap().iter().all(|change| change["deed"] == "make"), "{plan}");
    assert_eq!(site.says(&["up"])["state"], "changed");
    assert_eq!(site.says(&["up"])["state"], "unchanged");
    assert_eq!(site.says(&["verify"])["state"], "unchanged");
    let labels = kubectl(&["get", "namespace", &site.namespace(), "-o", "jsonpath={.metadata.labels}"]);
    assert!(labels.contains(&format!("\"busbar.dev/platform\":\"{}\"", site.name)), "{labels}");
    assert_eq!(site.says(&["down"])["kept"], Value::Array(Vec::new()));
    assert_eq!(kubectl(&["get", "namespace", &site.namespace(), "--ignore-not-found"]), "");
    let again = site.run(&["down"]);
    assert_eq!((again.code, again.out.contains("nothing of platform")), (Some(0), true), "{}", again.err);
}

#[test]
fn what_somebody_removed_is_made_again() {
    let site = Site::new("whole");
    site.says(&["up"]);
    let objects = kubectl(&["-n", &site.namespace(), "get", "networkpolicies", "-o", "name"]);
    let first = objects.lines().next().expect("the release has a network policy");
    kubectl(&["-n", &site.namespace(), "delete", first]);
    let ended = site.run(&["verify"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("is gone") && ended.err.contains("busbar up"), "{}", ended.err);
    assert_eq!(site.says(&["up"])["state"], "changed");
    assert_eq!(kubectl(&["-n", &site.namespace(), "get", "networkpolicies", "-o", "name"]), objects);
}

#[test]
fn a_namespace_with_something_of_somebody_stays() {
    let site = Site::new("shared");
    site.says(&["up"]);
    kubectl(&["-n", &site.namespace(), "create", "configmap", "somebodys"]);
    let kept = site.says(&["down"])["kept"].to_string();
    assert!(kept.contains("somebodys"), "{kept}");
    assert!(kubectl(&["-n", &site.namespace(), "get", "configmaps", "-o", "name"]).contains("somebodys"));
}

/// An `up` that waits for a NATS whose image is nowhere.
fn up_that_waits(site: &Site) -> std::process::Child {
    let image = format!("{}/nowhere/nats:1", env("BUSBAR_TEST_REGISTRY"));
    site.write(&format!("  nats: {{image: \"{image}\", storage: 1Gi}}\n"));
    let child = site.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let namespace = site.namespace();
    eventually("helm is in the middle of it", || {
        let words = ["-n", &namespace, "get", "secrets", "-l", "owner=helm,status=pending-install", "-o", "name"];
        !kubectl(&words).is_empty()
    });
    child
}

fn send(signal: &str, pid: u64) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success(), "kill {signal} {pid}");
}

#[test]
fn an_interrupted_up_ends_soon_and_another_goes_on() {
    let site = Site::new("interrupted");
    let mut child = up_that_waits(&site);
    send("-INT", child.id().into());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    site.write("  nats: {install: false}\n");
    assert_eq!(site.says(&["up"])["state"], "changed");
    assert_eq!(site.says(&["up"])["state"], "unchanged");
}

#[test]
fn an_up_that_was_killed_with_its_helm_is_gone_on_with() {
    let site = Site::new("killed");
    let mut child = up_that_waits(&site);
    let note = site.machine.home().join(format!(".local/state/busbar/platforms/{}/helm.json", site.name));
    let note: Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
    send("-KILL", child.id().into());
    child.wait().unwrap();
    send("-KILL", note["process"]["pid"].as_u64().unwrap());
    site.write("  nats: {install: false}\n");
    let ended = site.run(&["up"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("pending-install when helm was killed"), "{}", ended.err);
    assert_eq!(site.says(&["up"])["state"], "unchanged");
}

#[test]
fn volumes_go_only_when_it_is_said() {
    let site = Site::new("volumes");
    let mut child = up_that_waits(&site);
    send("-INT", child.id().into());
    child.wait().unwrap();
    eventually("a claim is there", || !kubectl(&["-n", &site.namespace(), "get", "pvc", "-o", "name"]).is_empty());
    let ended = site.run(&["down"]);
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("--yes") && ended.err.contains("--keep-data"), "{}", ended.err);
    let kept = site.says(&["down", "--keep-data"])["kept"].to_string();
    assert!(kept.contains("PersistentVolumeClaim"), "{kept}");
    assert_eq!(site.says(&["down", "--yes"])["kept"], Value::Array(Vec::new()));
    assert_eq!(kubectl(&["get", "namespace", &site.namespace(), "--ignore-not-found"]), "");
}

#[test]
fn a_cluster_that_cannot_take_it_is_told_before_anything_is_made() {
    let site = Site::new("refused");
    let file = site.write("  nats: {install: true}\n");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("image:", "    storageClass: nowhere\nimage:")).unwrap();
    let mut command = site.command(&["up"]);
    let ended = machine::ended(&command.env("BUSBAR_HELM", "/nowhere/helm").output().unwrap());
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for part in ["no storage class `nowhere`", "no `/nowhere/helm`", "BUSBAR_HELM", "storageClass"] {
        assert!(ended.err.contains(part), "`{part}` is not said:\n{}", ended.err);
    }
    assert_eq!(kubectl(&["get", "namespace", &site.namespace(), "--ignore-not-found"]), "");
}
