//! The test cluster, as `tests-env/kubernetes/cluster.sh up FOLDER; . FOLDER/env` leaves it, and an operator in this
//! process that works on it.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use operator::kinds::{COMPONENT, GRAPH, Kind};
use operator::leader::LeaderConfig;
use operator::{Config, OperatorError};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; the machine may be busy.
pub(crate) const CAP: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long nothing may change for the cluster to count as at rest.
const REST: Duration = Duration::from_secs(4);

/// A Kubernetes namespace of one test.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) k8s_namespace: String,
}

impl Cluster {
    /// Connects, puts the definitions there, makes a namespace.
    pub(crate) async fn connect(test: &str) -> Self {
        let path = std::env::var("BUSBAR_TEST_KUBECONFIG")
            .expect("no test cluster: tests-env/kubernetes/cluster.sh up FOLDER; . FOLDER/env");
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        install_definitions(&client).await;
        let k8s_namespace = format!("operator-{test}-{}", std::process::id());
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta { name: Some(k8s_namespace.clone()), ..Default::default() },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Self { client, k8s_namespace }
    }

    pub(crate) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        kind.api(&self.client, Some(&self.k8s_namespace))
    }

    /// A graph of a fixture, v1beta1, whose frontend goes to a node of kwok as its workers do by asking for a GPU: the
    /// image that it names is not to be had here, and a real node would try.
    pub(crate) fn fixture(name: &str) -> Value {
        let mut graph = Self::untouched_fixture(name);
        let pod = &mut graph["spec"]["components"][0]["podTemplate"]["spec"];
        pod["nodeSelector"] = json!({ "node.kubernetes.io/instance-type": "c5.2xlarge" });
        pod["tolerations"] = json!([{ "key": "kwok.x-k8s.io/node", "operator": "Exists" }]);
        graph
    }

    /// A graph as the fixture has it.
    pub(crate) fn untouched_fixture(name: &str) -> Value {
        let path = format!("{}/../crds/tests/fixtures/{name}.v1beta1.yaml", env!("CARGO_MANIFEST_DIR"));
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Applies as a user does.
    pub(crate) async fn apply(&self, graph: &Value) {
        let params = PatchParams::apply("a-user").force();
        let name = graph["metadata"]["name"].as_str().unwrap();
        self.api(GRAPH)
            .patch(name, &params, &Patch::Apply(graph))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Merges into an object as someone else than the operator.
    pub(crate) async fn meddle(&self, kind: Kind, name: &str, patch: Value) {
        let params = PatchParams { field_manager: Some("someone".to_owned()), ..PatchParams::default() };
        self.api(kind).patch(name, &params, &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        self.api(kind).get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap())
    }

    pub(crate) async fn list(&self, kind: Kind) -> Vec<Value> {
        let found = self.api(kind).list(&ListParams::default()).await.unwrap();
        found.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    pub(crate) async fn names(&self, kind: Kind) -> Vec<String> {
        let mut names: Vec<_> =
            self.list(kind).await.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// The `Ready` condition of a graph, once `is` is true of it and the graph's spec is the one it tells of.
    pub(crate) async fn until_ready(&self, graph: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(what, || async {
            let graph = self.get(GRAPH, graph).await.unwrap_or_default();
            let ready = condition(&graph, "Ready");
            let is_current = graph["status"]["observedGeneration"] == graph["metadata"]["generation"];
            (is_current && is(&ready)).then(|| ready.clone()).ok_or_else(|| json!({"status": graph["status"]}))
        })
        .await
    }

    /// Waits until `look` has an answer; fails with what it saw last.
    pub(crate) async fn until<T, Look, Seen>(&self, what: &str, look: Look) -> T
    where
        Look: Fn() -> Seen,
        Seen: Future<Output = Result<T, Value>>,
    {
        let end = Instant::now() + CAP;
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) if Instant::now() > end => panic!("not after {CAP:?}: {what}; last seen: {seen:#}"),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Every object that a graph leads to, by kind and name, without what differs between two runs of the same.
    pub(crate) async fn snapshot(&self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        for kind in
            operator::kinds::CHILDREN.into_iter().chain([GRAPH, COMPONENT, operator::kinds::CONTROLLER_REVISION])
        {
            for mut object in self.list(kind).await {
                let name = format!("{} {}", kind.kind, object["metadata"]["name"].as_str().unwrap());
                strip(&mut object);
                all.push((name, object));
            }
        }
        // The namespace's own account is not of the graph.
        all.retain(|(name, _)| name != "ServiceAccount default");
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Versions of every object, once none has changed for [`REST`].
    pub(crate) async fn versions_at_rest(&self) -> Vec<(String, String)> {
        let (mut before, mut since) = (self.versions().await, Instant::now());
        let end = Instant::now() + CAP;
        loop {
            sleep(LOOK).await;
            let now = self.versions().await;
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() >= REST {
                return before;
            }
            assert!(Instant::now() < end, "objects still change after {CAP:?}");
        }
    }

    async fn versions(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for kind in
            operator::kinds::CHILDREN.into_iter().chain([GRAPH, COMPONENT, operator::kinds::CONTROLLER_REVISION])
        {
            for object in self.list(kind).await {
                let text = |key: &str| object["metadata"][key].as_str().unwrap().to_owned();
                all.push((format!("{} {}", kind.kind, text("name")), text("resourceVersion")));
            }
        }
        all.sort();
        all
    }

    /// Deletes every graph and waits until nothing is left.
    pub(crate) async fn delete_graphs(&self) {
        let graphs = self.api(GRAPH);
        graphs.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
        self.until("everything that graphs made is gone", || async {
            let left: Vec<_> = self.snapshot().await.into_iter().map(|(name, _)| name).collect();
            if left.is_empty() { Ok(()) } else { Err(json!(left)) }
        })
        .await;
    }

    /// An operator of this namespace.
    pub(crate) fn operator(&self, identity: &str, writes_max: Option<u64>) -> Running {
        let config = Config {
            client: self.client.clone(),
            image: None,
            watch_namespace: Some(self.k8s_namespace.clone()),
            settings: graph::cluster::Settings::default(),
            leader: LeaderConfig::new("busbar-operator", &self.k8s_namespace, identity),
            webhook: None,
            health_address: free_address(),
            metrics_address: free_address(),
            writes_max,
        };
        let (metrics, health) = (config.metrics_address, config.health_address);
        let stop = CancellationToken::new();
        let task = tokio::spawn(operator::run(config, stop.clone()));
        Running { stop, task, metrics, health }
    }
}

/// An operator that runs.
pub(crate) struct Running {
    stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), OperatorError>>,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

pub(crate) fn condition(object: &Value, about: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == about).unwrap_or_default()
}

/// What the API server and the clock add.
fn strip(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            for key in [
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "managedFields",
                "generation",
                "observedGeneration",
                "lastTransitionTime",
                "lastUpdateTime",
                "startTime",
                "endTime",
                "clusterIP",
                "clusterIPs",
                "deployment.kubernetes.io/revision",
                "revision",
                // A hash over the owner's uid among others.
                "busbar.dev/applied-hash",
            ] {
                fields.shift_remove(key);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The definitions, without conversion: these tests run no webhook, and write the stored version.
async fn install_definitions(client: &Client) {
    let kind = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    for (_, mut definition) in crds::definition::definitions(&crds::definition::ConversionService::default()) {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        definition["spec"]["conversion"] = json!({ "strategy": "None" });
        api.patch(&name, &PatchParams::apply("busbar-tests").force(), &Patch::Apply(&definition)).await.unwrap();
        let end = Instant::now() + CAP;
        loop {
            let served = api.get(&name).await.unwrap();
            let conditions = served.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
                break;
            }
            assert!(Instant::now() < end, "{name} is not served");
            sleep(LOOK).await;
        }
    }
}
