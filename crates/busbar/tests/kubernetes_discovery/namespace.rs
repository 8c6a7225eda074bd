//! A Kubernetes namespace of a test's own: pods that kwok makes ready, the Service that the operator would make for them,
//! and a service account that may do what the operator's Role lets it, and nothing else.

use crate::machine::until;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a pod of a graph may do; `pods` is for container mode.
pub(crate) const ROLE: [(&str, &str, &[&str]); 3] = [
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("nvidia.com", "dynamoworkermetadatas", &["list", "watch", "create", "patch", "delete"]),
    ("", "pods", &["list", "watch"]),
];

/// A cluster, by its kubeconfig.
#[derive(Clone)]
pub(crate) struct Cluster {
    kubectl: String,
    kubeconfig: PathBuf,
}

/// See the module. Dropping it deletes the namespace.
pub(crate) struct Namespace {
    pub(crate) cluster: Cluster,
    pub(crate) name: String,
}

/// A value of the environment that says where the cluster is. These tests exist for it alone, so that it is needed.
pub(crate) fn needed(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is unset: source STATE/env of tests-env/kubernetes"))
}

impl Cluster {
    /// The one that the environment names.
    pub(crate) fn shared() -> Self {
        Self::at(Path::new(&needed("BUSBAR_TEST_KUBECONFIG")))
    }

    pub(crate) fn at(kubeconfig: &Path) -> Self {
        Self { kubectl: needed("BUSBAR_TEST_KUBECTL"), kubeconfig: kubeconfig.to_owned() }
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.kubectl_with(args, "")
    }

    fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub(crate) fn apply(&self, object: &Value) {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &object.to_string()).unwrap();
    }

    /// Installs the one kind that discovery needs, as `busbar crds` prints it, where it is not there.
    pub(crate) fn define(&self, busbar: &mut Command) {
        if self.kubectl(&["get", "crd", "dynamoworkermetadatas.nvidia.com"]).is_ok() {
            return;
        }
        let printed = busbar.args(["crds", "-o", "json"]).output().unwrap();
        let list: Value = serde_json::from_slice(&printed.stdout).unwrap();
        let ours = |one: &&Value| one["metadata"]["name"] == "dynamoworkermetadatas.nvidia.com";
        self.apply(list["items"].as_array().unwrap().iter().find(ours).unwrap());
        until("the kind is served", || {
            self.kubectl(&["get", "dynamoworkermetadatas.nvidia.com", "--all-namespaces"]).ok()
        });
    }
}

impl Namespace {
    /// A new one with the Service, and a service account `graph` with the Role.
    pub(crate) fn new(cluster: Cluster) -> Self {
        let name = format!("discovery-{:08x}", rand::random::<u32>());
        cluster.kubectl(&["create", "namespace", &name]).unwrap();
        let it = Self { cluster, name };
        it.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "workers", "labels": {
                "nvidia.com/dynamo-discovery-backend": "kubernetes", "nvidia.com/dynamo-discovery-enabled": "true",
            }},
            "spec": {"selector": {"app": "worker"}, "ports": [{"name": "system", "port": 9090}]},
        }));
        it.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "graph"}}));
        let rules =
            ROLE.map(|(group, resource, verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}));
        it.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "graph"}, "rules": rules,
        }));
        it.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "graph"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "graph"},
            "subjects": [{"kind": "ServiceAccount", "name": "graph", "namespace": it.name}],
        }));
        it
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.kubectl(&[&["--namespace", &self.name], args].concat())
    }

    pub(crate) fn apply(&self, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!(self.name);
        self.cluster.apply(&object);
    }

    /// A ready pod behind the Service; gives its UID. It is held when it is deleted, until [`Namespace::let_go`].
    pub(crate) fn pod(&self, name: &str) -> String {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "finalizers": ["busbar.test/held"], "labels": {
                "app": "worker", "nvidia.com/dynamo-discovery-enabled": "true",
            }},
            "spec": {
                "nodeSelector": {"type": "kwok"}, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": "none"}, {"name": "engine-0", "image": "none"}],
            },
        }));
        until(&format!("pod {name} is ready"), || {
            let slices = self.kubectl(&["get", "endpointslices", "-o", "json"]).ok()?;
            let slices: Value = serde_json::from_str(&slices).ok()?;
            let endpoints = slices["items"].as_array()?.iter().filter_map(|slice| slice["endpoints"].as_array());
            let mut endpoints = endpoints.flatten();
            let ours = endpoints.find(|one| one["targetRef"]["name"] == name && one["conditions"]["ready"] == true)?;
            Some(ours["targetRef"]["uid"].as_str()?.to_owned())
        })
    }

    /// Lets a deleted pod go.
    pub(crate) fn let_go(&self, pod: &str) {
        let _ = self.kubectl(&["patch", "pod", pod, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    }

    /// What a pod tells.
    pub(crate) fn object(&self, name: &str) -> Option<Value> {
        let text = self.kubectl(&["get", "dynamoworkermetadatas", name, "-o", "json", "--show-managed-fields"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// A kubeconfig of a service account of the namespace.
    pub(crate) fn kubeconfig_of(&self, account: &str, folder: &Path) -> PathBuf {
        let token = self.kubectl(&["create", "token", account]).unwrap();
        let ours = self.cluster.kubectl(&["config", "view", "--raw", "-o", "json"]).unwrap();
        let mut config: Value = serde_json::from_str(&ours).unwrap();
        config["users"][0]["user"] = json!({"token": token});
        let path = folder.join(format!("kubeconfig-{account}"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let pods = self.kubectl(&["get", "pods", "-o", "name"]).unwrap_or_default();
        pods.lines().for_each(|pod| self.let_go(pod.trim_start_matches("pod/")));
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A cluster for one test alone, which may stop its parts.
pub(crate) struct OwnCluster {
    folder: tempfile::TempDir,
    script: PathBuf,
}

impl OwnCluster {
    pub(crate) fn up() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests-env/kubernetes/cluster.sh");
        let own = Self { folder: tempfile::tempdir().unwrap(), script: script.canonicalize().unwrap() };
        own.run(&["up"], &[]);
        own
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn run(&self, action: &[&str], rest: &[&str]) {
        let output = Command::new(&self.script).args(action).arg(self.state()).args(rest).output().unwrap();
        assert!(output.status.success(), "{action:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    pub(crate) fn kill_api_server(&self) {
        let pid = std::fs::read_to_string(self.state().join("data/pid/kube-apiserver")).unwrap();
        self.run(&["enter"], &["kill", "-KILL", pid.trim()]);
    }

    pub(crate) fn start_api_server(&self) {
        self.run(&["start"], &["kube-apiserver"]);
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("down").arg(self.state()).output();
    }
}
