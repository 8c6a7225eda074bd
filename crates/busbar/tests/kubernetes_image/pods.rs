//! Pods of the test cluster, as small as the tests need them.

use crate::machine::{CAP, Machine};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(100);

/// A Kubernetes namespace of a test's own; it goes with the value.
pub(crate) struct Cluster {
    kubectl: String,
    kubeconfig: String,
    pub(crate) registry: String,
    k8s_namespace: String,
}

fn needed(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set; start a cluster with tests-env/kubernetes/cluster.sh"))
}

impl Cluster {
    pub(crate) fn connect(test: &str) -> Self {
        let cluster = Self {
            kubectl: needed("BUSBAR_TEST_KUBECTL"),
            kubeconfig: needed("BUSBAR_TEST_KUBECONFIG"),
            registry: needed("BUSBAR_TEST_REGISTRY"),
            k8s_namespace: format!("image-{test}-{}", std::process::id()),
        };
        // Admission refuses whatever is less than restricted: no root, no capability, no host's folder.
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": cluster.k8s_namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }));
        cluster
    }

    /// A reference in the cluster's registry.
    pub(crate) fn image(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.registry)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(["--kubeconfig", &self.kubeconfig, "-n", &self.k8s_namespace]).args(args);
        command
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn apply(&self, object: &Value) {
        let mut child =
            self.command(&["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{object:#}");
    }

    pub(crate) fn run(&self, pod: &Value) {
        // Admission of pods waits for the namespace's service account, which a controller makes.
        eventually("the service account is there", self, || {
            self.command(&["get", "serviceaccount", "default"]).output().unwrap().status.success()
        });
        self.apply(pod);
    }

    /// The pod's address, once it has one.
    pub(crate) fn address(&self, pod: &str) -> String {
        let mut address = String::new();
        eventually("the pod has an address", self, || {
            address = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
            !address.is_empty()
        });
        address
    }

    pub(crate) fn ready(&self, pod: &str) {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        eventually("the pod is ready", self, || self.kubectl(&["get", "pod", pod, "-o", path]) == "True");
    }

    /// A volume of the cluster with the default model, filled on this machine as a Job would fill it.
    pub(crate) fn model_volume(&self, machine: &Machine) -> String {
        let folder = machine.home().join("volume");
        let kept = needed("HOME") + "/.cache/busbar-tests-env/cache/models/smollm2";
        std::fs::create_dir(&folder).unwrap();
        let copied = Command::new("cp").args(["-a", &kept]).arg(&folder).status().unwrap();
        assert!(copied.success(), "the default model is not in {kept}; `make test` brings it there");
        open_to_all(machine.home());
        let folder = folder.to_string_lossy();
        let filled = machine.run(&["model", "fetch", "smollm2", "--into", &folder]);
        assert_eq!(filled.code, Some(0), "{}", filled.err);
        let name = format!("{}-models", self.k8s_namespace);
        let size = json!({"storage": "1Gi"});
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": size, "accessModes": ["ReadOnlyMany"], "hostPath": {"path": folder},
                     "storageClassName": "", "claimRef": {"namespace": self.k8s_namespace, "name": "models"}},
        }));
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
            "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": size}, "storageClassName": "",
                     "volumeName": name},
        }));
        "models".to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = self.command(&["describe", "pods"]).output().map(|output| output.stdout).unwrap_or_default();
            let _ = std::io::stderr().write_all(&told);
        }
        let volume = format!("{}-models", self.k8s_namespace);
        let name = self.k8s_namespace.clone();
        let _ = self.command(&["delete", "namespace", &name, "--wait=false"]).output();
        let _ = self.command(&["delete", "pv", &volume, "--ignore-not-found", "--wait=false"]).output();
    }
}

/// A home is its user's alone, and the pod's user is another one.
fn open_to_all(folder: &std::path::Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, mode).unwrap();
}

/// A container that may write nowhere but at /tmp, and has no home.
pub(crate) fn container(name: &str, image: &str, command: &[&str]) -> Value {
    json!({
        "name": name, "image": image, "command": command, "imagePullPolicy": "Always",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                            "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}},
    })
}

/// A pod with one container; `claims` are volumes that other containers may mount.
pub(crate) fn pod(name: &str, image: &str, command: &[&str], claims: &[&String]) -> Value {
    let mut volumes = vec![json!({"name": "tmp", "emptyDir": {}})];
    volumes.extend(claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [container("main", image, command)], "volumes": volumes, "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    })
}

/// Until it is true, or the test fails and shows the pods' logs.
pub(crate) fn eventually(what: &str, cluster: &Cluster, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > CAP {
            let pods = cluster.kubectl(&["get", "pods", "-o", "wide"]);
            let names = cluster.kubectl(&["get", "pods", "-o", "name"]);
            let logs: Vec<_> = names
                .lines()
                .map(|name| cluster.command(&["logs", name, "--all-containers", "--tail=30"]).output().unwrap().stdout)
                .map(|log| String::from_utf8_lossy(&log).into_owned())
                .collect();
            panic!("{what}: not within {CAP:?}\n{pods}\n{}", logs.join("\n"));
        }
        std::thread::sleep(LOOK);
    }
}

/// The body of a good answer.
pub(crate) fn http(url: &str) -> Result<String, String> {
    asked(|client| client.get(url).header("accept", "application/vnd.oci.image.manifest.v1+json, */*"))
}

pub(crate) fn post(url: &str, body: &Value) -> Result<Value, String> {
    let text = asked(|client| client.post(url).json(body))?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn asked(request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(CAP).build().unwrap();
        let answer = request(&client).send().await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
        if status.is_success() { Ok(text) } else { Err(format!("HTTP {status}: {text}")) }
    })
}
