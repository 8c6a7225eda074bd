//! A cluster with the definitions, and the webhooks and adapters that serve it for as long as the tests run.

use crds::definition::ConversionService;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use operator::webhook::{self, WebhookConfig};
use operator::{adapter, install};
use serde_json::{Value, json};
use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

/// Longest wait for a condition; the machine may be busy.
pub(crate) const CAP: Duration = Duration::from_secs(120);

pub(crate) struct Stage {
    runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) config: WebhookConfig,
    pub(crate) first_install: Vec<install::Outcome>,
    namespaces: AtomicU32,
}

pub(crate) static STAGE: LazyLock<Stage> = LazyLock::new(Stage::build);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; start a cluster by tests-env/kubernetes/cluster.sh up FOLDER and source FOLDER/env")
    })
}

/// Tests that take away what the others need run alone.
static UNDISTURBED: RwLock<()> = RwLock::const_new(());

/// Runs a test on the stage's own threads: what serves has to outlive each test.
pub(crate) fn on_stage<T>(test: impl Future<Output = T>) -> T {
    let shared = async {
        let _shared = UNDISTURBED.read().await;
        within_cap(test).await
    };
    STAGE.runtime.block_on(shared)
}

/// The same for a test that takes something away, and waits until it is back.
pub(crate) fn alone_on_stage<T>(test: impl Future<Output = T>) -> T {
    let alone = async {
        let _alone = UNDISTURBED.write().await;
        within_cap(test).await
    };
    STAGE.runtime.block_on(alone)
}

async fn within_cap<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(4 * CAP, test).await.expect("the test hangs")
}

/// The client config of `kubectl`, as another user where one is given.
async fn client_as(user: Option<&str>, group: &str) -> Client {
    let file = Kubeconfig::read_from(variable("BUSBAR_TEST_KUBECONFIG")).unwrap();
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    config.auth_info.impersonate_groups = user.map(|_| vec![group.to_owned()]);
    Client::try_from(config).unwrap()
}

impl Stage {
    fn build() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(client_as(None, ""));
        let mut first_install = Vec::new();
        runtime
            .block_on(install::apply(&client, &ConversionService::default(), |_, outcome| first_install.push(outcome)))
            .unwrap();
        let host = variable("BUSBAR_TEST_MACHINE_ADDRESS");
        let port = TcpListener::bind((host.as_str(), 0)).unwrap().local_addr().unwrap().port();
        let config = WebhookConfig {
            address: format!("{host}:{port}").parse().unwrap(),
            k8s_namespace: "default".to_owned(),
            service: "busbar-operator-webhook".to_owned(),
            url: Some(format!("https://{host}:{port}")),
            watch_namespace: None,
            secret: webhook::SECRET_NAME.to_owned(),
        };
        let (ready, mut is_ready) = tokio::sync::watch::channel(false);
        runtime.spawn(webhook::serve(client.clone(), config.clone(), ready, CancellationToken::new()));
        runtime.spawn(adapter::run(client.clone(), None, CancellationToken::new()));
        runtime
            .block_on(async { tokio::time::timeout(CAP, is_ready.wait_for(|ready| *ready)).await.unwrap().unwrap() });
        // The API server hears of a new address after a moment; until then it asks at that of an earlier run.
        runtime.block_on(until("the API server asks here", || async { serves(&client, "default").await.ok() }));
        Self { runtime, client, config, first_install, namespaces: AtomicU32::new(0) }
    }

    /// A client of someone else: a member of `group`.
    pub(crate) async fn client_of(&self, user: &str, group: &str) -> Client {
        client_as(Some(user), group).await
    }

    /// A new Kubernetes namespace.
    pub(crate) async fn namespace(&self, what: &str) -> String {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("webhook-{what}-{}-{number}", std::process::id());
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let namespace: Namespace = serde_json::from_value(namespace).unwrap();
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        name
    }
}

/// The kinds of `nvidia.com` in one version.
pub(crate) fn objects(client: &Client, k8s_namespace: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let gvk = GroupVersionKind::gvk("nvidia.com", version, kind);
    Api::namespaced_with(client.clone(), k8s_namespace, &ApiResource::from_gvk_with_plural(&gvk, &plural))
}

pub(crate) fn graphs(client: &Client, k8s_namespace: &str, version: &str) -> Api<DynamicObject> {
    objects(client, k8s_namespace, version, crds::DYNAMO_GRAPH_DEPLOYMENT)
}

pub(crate) async fn create(api: &Api<DynamicObject>, object: &Value) -> Result<Value, String> {
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    match api.create(&PostParams::default(), &object).await {
        Ok(object) => Ok(serde_json::to_value(object).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error:?}"),
    }
}

/// Graphs can be created (checked, and converted to be stored) and listed in v1alpha1.
pub(crate) async fn serves(client: &Client, k8s_namespace: &str) -> Result<(), String> {
    let mut manifest = fixture("agg.v1alpha1.yaml");
    manifest["metadata"]["name"] = json!("probe");
    let graph = serde_json::from_value(manifest).unwrap();
    let api = graphs(client, k8s_namespace, "v1alpha1");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &graph).await.map_err(|error| error.to_string())?;
    api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// A manifest of the examples, by its file's name.
pub(crate) fn fixture(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/tests/fixtures");
    serde_saphyr::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// Waits until `probe` gives a value.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(CAP, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Runs `kubectl` in a Kubernetes namespace.
pub(crate) fn kubectl(k8s_namespace: &str, arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(variable("BUSBAR_TEST_KUBECTL"))
        .args(["--kubeconfig", &variable("BUSBAR_TEST_KUBECONFIG"), "--namespace", k8s_namespace])
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
