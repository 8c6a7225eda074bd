//! Processes that stand for pods: each has a pod of the namespace, its name in POD_NAME, and the pod's service account.

use crate::machine::{Machine, free_port, get, post, until};
use crate::namespace::{Cluster, Namespace, needed};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) namespace: Namespace,
    pub(crate) kubeconfig: PathBuf,
    /// More environment for every process.
    pub(crate) env: Vec<(String, String)>,
    model: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::on(Cluster::shared())
    }

    pub(crate) fn on(cluster: Cluster) -> Self {
        let machine = Machine::new();
        cluster.define(&mut machine.busbar());
        let namespace = Namespace::new(cluster);
        let kubeconfig = namespace.kubeconfig_of("graph", machine.home());
        Self { machine, namespace, kubeconfig, env: Vec::new(), model: needed("BUSBAR_TEST_MODEL_DIR") }
    }

    /// Gives a process its pod, and starts it.
    fn spawn(&mut self, mut command: Command, pod: &str) -> u32 {
        let uid = self.namespace.pod(pod);
        self.dress(&mut command, pod, &uid);
        let log = std::fs::File::create(self.machine.home().join(format!("{pod}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.machine.spawn(command)
    }

    /// The environment that the operator gives.
    pub(crate) fn dress(&self, command: &mut Command, pod: &str, uid: &str) {
        command.env("DYN_DISCOVERY_BACKEND", "kubernetes").env("KUBECONFIG", &self.kubeconfig);
        // The machine may be a pod itself.
        command
            .env_remove("CONTAINER_NAME")
            .env("POD_NAME", pod)
            .env("POD_UID", uid)
            .env("POD_NAMESPACE", &self.namespace.name);
        command.env("DYN_EVENT_PLANE", "zmq").env("DYN_LOG", "info");
        for host in ["DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST"] {
            command.env(host, "127.0.0.1");
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }

    pub(crate) fn our_worker(&mut self, pod: &str) -> u32 {
        let mut command = self.machine.busbar();
        command.args(["worker", "--engine", "mock", "--model", &self.model, "--served-model-name", "tiny"]);
        command.args(["--block-size", "16"]);
        self.spawn(command, pod)
    }

    pub(crate) fn our_frontend(&mut self, pod: &str) -> String {
        let port = free_port();
        let mut command = self.machine.busbar();
        command.args(["frontend", "--router-mode", "kv", "--http-port", &port.to_string()]);
        self.spawn(command, pod);
        format!("http://127.0.0.1:{port}")
    }

    pub(crate) fn stock_mocker(&mut self, pod: &str) -> u32 {
        let mut command = self.machine.command(needed("BUSBAR_TEST_DYNAMO_PYTHON"));
        command.args(["-m", "dynamo.mocker", "--model-path", &self.model, "--model-name", "tiny"]);
        command.args(["--num-workers", "1", "--block-size", "16", "--speedup-ratio", "1"]);
        self.spawn(command, pod)
    }

    pub(crate) fn stock_frontend(&mut self, pod: &str) -> String {
        let port = free_port();
        let mut command = self.machine.command(needed("BUSBAR_TEST_DYNAMO_PYTHON"));
        command.args(["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", &port.to_string()]);
        command.args(["--router-mode", "kv", "--migration-limit", "3"]);
        self.spawn(command, pod);
        format!("http://127.0.0.1:{port}")
    }

    pub(crate) fn logs(&self) -> String {
        let tail = |entry: std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            format!("--- {}\n{tail}\n", entry.file_name().display())
        };
        let entries = std::fs::read_dir(self.machine.home()).unwrap().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "log")).map(tail).collect()
    }

    /// Waits until the frontend has exactly these instances of the model's endpoint.
    pub(crate) fn serves(&self, url: &str, instances: &[u64]) {
        until(&format!("{instances:?} behind {url}\n{}", self.logs()), || {
            let health: Value = serde_json::from_str(&get(&format!("{url}/health")).1).ok()?;
            let all = health["instances"].as_array()?.iter().filter(|one| one["endpoint"] == "generate");
            let mut ids: Vec<_> = all.filter_map(|one| one["instance_id"].as_u64()).collect();
            ids.sort_unstable();
            let mut expected = instances.to_vec();
            expected.sort_unstable();
            let listed = get(&format!("{url}/v1/models")).1.contains("\"tiny\"");
            (ids == expected && listed != instances.is_empty()).then_some(())
        });
    }

    /// The instance that an object tells of, once it does.
    pub(crate) fn instance_in(&self, object: &str) -> u64 {
        until(&format!("a model card in {object}\n{}", self.logs()), || {
            let object = self.namespace.object(object)?;
            let cards = object["spec"]["data"]["model_cards"].as_object()?;
            cards.values().next()?["instance_id"].as_u64()
        })
    }

    pub(crate) fn answers(&self, url: &str) {
        let (status, answer) = post(&format!("{url}/v1/chat/completions"), &chat("Tell me of rivers."));
        assert_eq!(status, 200, "{answer}\n{}", self.logs());
        assert_eq!(answer["usage"]["completion_tokens"], 24, "{answer}");
    }

    /// A repeated prompt is known to be cached: events are found through the cluster too.
    pub(crate) fn hears_of_caches(&self, url: &str) {
        let long = "A long beginning that several questions share, word after word. ".repeat(16);
        until(&format!("cached tokens on a repeated prompt\n{}", self.logs()), || {
            let answer = post(&format!("{url}/v1/chat/completions"), &chat(&long)).1;
            let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
            (cached > 100).then_some(())
        });
    }
}

pub(crate) fn chat(text: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0})
}
