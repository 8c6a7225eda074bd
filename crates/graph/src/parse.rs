//! From the text of a manifest to a [`Graph`]: all violations at once.

use crate::argv;
use crate::component::{Component, ComponentKind, EnvValue, Graph};
use crate::finding::Finding;
use crds::{v1alpha1, v1beta1};
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Bytes of a manifest that are read; the API server's own limit for an object is 1.5 MiB.
pub const MANIFEST_BYTES_MAX: usize = 1_572_864;
/// Components of a graph, as in Dynamo's CRD.
pub const COMPONENTS_MAX: usize = 25;
/// Replicas of one component. Beyond what one file should ask for; catches a slip of the finger.
pub const REPLICAS_MAX: i64 = 1_000;

/// Reads one DynamoGraphDeployment, `v1alpha1` or `v1beta1`.
///
/// # Errors
/// Every violation, each with its path and remedy. A file that is no YAML has one finding with line and column.
pub fn parse(text: &str) -> Result<Graph, Vec<Finding>> {
    if text.len() > MANIFEST_BYTES_MAX {
        let problem = format!("the file has {} bytes, more than {MANIFEST_BYTES_MAX}", text.len());
        return Err(vec![Finding::new("", problem, "give one DynamoGraphDeployment")]);
    }
    let mut value: Value = serde_saphyr::from_str(text).map_err(|error| vec![yaml_finding(&error.to_string())])?;
    // A status is the operator's; a manifest that was read out of a cluster may hold one of another release.
    if let Value::Object(object) = &mut value {
        object.shift_remove("status");
    }
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (field("apiVersion"), field("kind"));
    if kind != crds::DYNAMO_GRAPH_DEPLOYMENT {
        let problem = if kind.is_empty() { "there is no kind".to_owned() } else { format!("`{kind}` is not run here") };
        return Err(vec![Finding::new("kind", problem, "give a file of kind DynamoGraphDeployment")]);
    }
    match api_version.as_str() {
        "nvidia.com/v1alpha1" => from_v1alpha1(&value),
        "nvidia.com/v1beta1" => from_v1beta1(&value),
        other => Err(vec![Finding::new(
            "apiVersion",
            format!("`{other}` is not a version of DynamoGraphDeployment"),
            "use nvidia.com/v1alpha1 or nvidia.com/v1beta1",
        )]),
    }
}

fn yaml_finding(error: &str) -> Finding {
    // The first line names place and cause; what follows is a drawing of the source.
    let problem = error.lines().next().unwrap_or("unreadable").to_owned();
    if problem.contains("duplicate") {
        return Finding::new("", problem, "give each key once: two components of one name cannot be told apart");
    }
    Finding::new("", format!("the file is not YAML: {problem}"), "correct that line")
}

/// Types the value and reports unknown keys; both kinds of finding together where possible.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(T, Vec<Finding>), Vec<Finding>> {
    let parsed: T = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        vec![Finding::new(path, error.inner().to_string(), "correct the value")]
    })?;
    let unknown = crds::strict::unknown_keys(value, &parsed)
        .map_err(|error| vec![Finding::new("", error.to_string(), "use text keys only")])?;
    let findings = unknown
        .into_iter()
        .map(|path| {
            let key = path.rsplit('.').next().unwrap_or(&path).to_owned();
            Finding::new(path, format!("the field `{key}` is not known"), "remove it or correct its name")
        })
        .collect();
    Ok((parsed, findings))
}

fn from_v1alpha1(value: &Value) -> Result<Graph, Vec<Finding>> {
    let (dgd, mut findings) = typed::<v1alpha1::DynamoGraphDeployment>(value)?;
    let mut components = Vec::new();
    for (name, service) in &dgd.spec.services.0 {
        let path = format!("spec.services.{name}");
        let pod = service.extra_pod_spec.as_ref();
        let container = pod.and_then(|pod| pod.main_container.clone()).unwrap_or_default();
        let mut env = env_values(&dgd.spec.envs);
        env.extend(env_values(&service.envs));
        env.extend(env_values(container.env.as_deref().unwrap_or_default()));
        let raw = RawComponent {
            name: name.clone(),
            type_path: format!("{path}.componentType"),
            kind: service.component_type.as_deref(),
            sub_kind: service.sub_component_type.as_deref(),
            replicas: service.replicas,
            env,
            cluster_only: cluster_only_v1alpha1(service),
            path,
            container,
        };
        collect(raw, &mut components, &mut findings);
    }
    finish(&dgd.api_version, dgd.metadata.name.as_deref(), "spec.services", components, findings)
}

fn from_v1beta1(value: &Value) -> Result<Graph, Vec<Finding>> {
    let (dgd, mut findings) = typed::<v1beta1::DynamoGraphDeployment>(value)?;
    let mut components = Vec::new();
    for (i, component) in dgd.spec.components.iter().enumerate() {
        let path = format!("spec.components[{i}]");
        let pod = component.pod_template.as_ref().and_then(|template| template.spec.as_ref());
        let main = pod.and_then(|pod| pod.containers.iter().find(|c| c.name == crds::MAIN_CONTAINER));
        if pod.is_some() && main.is_none() {
            findings.push(Finding::new(
                format!("{path}.podTemplate.spec.containers"),
                "no container is named `main`",
                "name the container that runs the component `main`",
            ));
            continue;
        }
        let container = main.cloned().unwrap_or_default();
        let mut env = env_values(&dgd.spec.env);
        env.extend(env_values(container.env.as_deref().unwrap_or_default()));
        let raw = RawComponent {
            name: component.name.clone(),
            type_path: format!("{path}.type"),
            kind: component.component_type.as_deref(),
            sub_kind: None,
            replicas: component.replicas,
            env,
            cluster_only: cluster_only_v1beta1(component),
            path,
            container,
        };
        collect(raw, &mut components, &mut findings);
    }
    finish(&dgd.api_version, dgd.metadata.name.as_deref(), "spec.components", components, findings)
}

/// A component before its checks.
struct RawComponent<'a> {
    name: String,
    path: String,
    type_path: String,
    kind: Option<&'a str>,
    sub_kind: Option<&'a str>,
    replicas: Option<i64>,
    env: Vec<(String, EnvValue)>,
    container: Container,
    cluster_only: Vec<&'static str>,
}

fn collect(raw: RawComponent<'_>, components: &mut Vec<Component>, findings: &mut Vec<Finding>) {
    let argv = command_line(&raw.container);
    let (kind, replicas, name) = (kind_of(&raw, &argv), replicas_of(&raw), check_name(&raw));
    match (kind, replicas, name) {
        (Ok(kind), Ok(replicas), Ok(())) => components.push(Component {
            name: raw.name,
            path: raw.path,
            kind,
            replicas,
            argv,
            env: raw.env,
            image: raw.container.image,
            cluster_only: raw.cluster_only,
        }),
        (kind, replicas, name) => findings.extend([kind.err(), replicas.err(), name.err()].into_iter().flatten()),
    }
}

/// What Kubernetes would run: without a command, Dynamo's base container hands the arguments to `/bin/sh -c`.
pub(crate) fn command_line(container: &Container) -> Vec<String> {
    let args = container.args.clone().unwrap_or_default();
    match container.command.clone().unwrap_or_default() {
        command if command.is_empty() && args.is_empty() => Vec::new(),
        command if command.is_empty() => ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(args).collect(),
        command => command.into_iter().chain(args).collect(),
    }
}

fn kind_of(raw: &RawComponent<'_>, argv: &[String]) -> Result<ComponentKind, Finding> {
    if let Some(sub) = raw.sub_kind {
        return match sub {
            "prefill" => Ok(ComponentKind::Prefill),
            "decode" => Ok(ComponentKind::Decode),
            other => Err(Finding::new(
                format!("{}.subComponentType", raw.path),
                format!("`{other}` is no part of a worker"),
                "use prefill or decode",
            )),
        };
    }
    match raw.kind {
        // `default` and `main` are the API's old words for "as the command says".
        Some(word) if !matches!(word, "default" | "main") => ComponentKind::parse(word, &raw.type_path),
        _ => match argv::recognise(argv) {
            Ok(launch) if launch.module == argv::Module::Frontend => Ok(ComponentKind::Frontend),
            Ok(_) => Ok(ComponentKind::Worker),
            Err(_) => Err(Finding::new(
                &raw.type_path,
                "there is no type, and the command does not tell it",
                "set it to frontend or worker",
            )),
        },
    }
}

fn replicas_of(raw: &RawComponent<'_>) -> Result<u32, Finding> {
    let count = raw.replicas.unwrap_or(1);
    u32::try_from(count).ok().filter(|_| count <= REPLICAS_MAX).ok_or_else(|| {
        Finding::new(
            format!("{}.replicas", raw.path),
            format!("{count} is no replica count"),
            format!("use 0 to {REPLICAS_MAX}"),
        )
    })
}

fn check_name(raw: &RawComponent<'_>) -> Result<(), Finding> {
    let valid = (1..=63).contains(&raw.name.len())
        && raw.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && raw.name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if valid {
        return Ok(());
    }
    Err(Finding::new(
        &raw.path,
        format!("`{}` is no component name", raw.name),
        "use 1 to 63 letters, digits and `-`, a letter or digit first",
    ))
}

fn finish(
    api_version: &str,
    name: Option<&str>,
    path: &str,
    components: Vec<Component>,
    mut findings: Vec<Finding>,
) -> Result<Graph, Vec<Finding>> {
    let name = name.unwrap_or_default();
    let valid_name = (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !valid_name {
        findings.push(Finding::new(
            "metadata.name",
            format!("`{name}` is no name of a graph"),
            "use 1 to 63 lower-case letters, digits and `-`",
        ));
    }
    for (i, component) in components.iter().enumerate() {
        if components[..i].iter().any(|earlier| earlier.name.eq_ignore_ascii_case(&component.name)) {
            findings.push(Finding::new(
                &component.path,
                format!("a component named `{}` is there already", component.name),
                "give each component a name of its own (case does not count)",
            ));
        }
    }
    if components.len() > COMPONENTS_MAX {
        let problem = format!("{} components are more than {COMPONENTS_MAX}", components.len());
        findings.push(Finding::new(path, problem, "split the graph"));
    }
    // With other findings the frontend may be among the components that were dropped.
    if findings.is_empty() && !components.iter().any(|c| c.kind == ComponentKind::Frontend) {
        findings.push(Finding::new(path, "no component is a frontend", "add a component of type frontend"));
    }
    if findings.is_empty() {
        Ok(Graph { name: name.to_owned(), api_version: api_version.to_owned(), components })
    } else {
        Err(findings)
    }
}

fn env_values(vars: &[EnvVar]) -> Vec<(String, EnvValue)> {
    vars.iter().map(|var| (var.name.clone(), env_value(var))).collect()
}

fn env_value(var: &EnvVar) -> EnvValue {
    let Some(source) = &var.value_from else {
        return EnvValue::Literal(var.value.clone().unwrap_or_default());
    };
    if let Some(field) = &source.field_ref {
        return EnvValue::PodField(field.field_path.clone());
    }
    let (from, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(secret), _) => (format!("secret {}, key {}", secret.name, secret.key), secret.optional),
        (None, Some(map)) => (format!("config map {}, key {}", map.name, map.key), map.optional),
        (None, None) => ("a source that only a cluster has".to_owned(), None),
    };
    EnvValue::External { from, optional: optional.unwrap_or(false) }
}

fn present<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter_map(|(name, is_present)| is_present.then_some(name)).collect()
}

fn container_only_in_cluster(env_from: Option<&Vec<EnvFromSource>>) -> bool {
    env_from.is_some_and(|sources| !sources.is_empty())
}

fn cluster_only_v1alpha1(service: &v1alpha1::ServiceSpec) -> Vec<&'static str> {
    let container = service.extra_pod_spec.as_ref().and_then(|pod| pod.main_container.as_ref());
    present([
        ("resources", service.resources.is_some()),
        ("volumeMounts", service.volume_mounts.is_some()),
        ("ingress", service.ingress.is_some()),
        ("sharedMemory", service.shared_memory.is_some()),
        ("multinode", service.multinode.is_some()),
        ("scalingAdapter", service.scaling_adapter.is_some()),
        ("autoscaling", service.autoscaling.is_some()),
        ("envFromSecret", service.env_from_secret.is_some()),
        ("envFrom", container.is_some_and(|c| container_only_in_cluster(c.env_from.as_ref()))),
        ("dynamoNamespace", service.dynamo_namespace.is_some()),
    ])
}

fn cluster_only_v1beta1(component: &v1beta1::ComponentSpec) -> Vec<&'static str> {
    let pod = component.pod_template.as_ref().and_then(|template| template.spec.as_ref());
    let main = pod.and_then(|pod| pod.containers.iter().find(|c| c.name == crds::MAIN_CONTAINER));
    present([
        ("resources", main.is_some_and(|c| c.resources.is_some())),
        ("volumes", pod.is_some_and(|pod| pod.volumes.is_some())),
        ("envFrom", main.is_some_and(|c| container_only_in_cluster(c.env_from.as_ref()))),
        ("multinode", component.multinode.is_some()),
        ("scalingAdapter", component.scaling_adapter.is_some()),
        ("compilationCache", component.compilation_cache.is_some()),
        ("frontendSidecar", component.frontend_sidecar.is_some()),
        ("dynamoSidecar", component.dynamo_sidecar.is_some()),
    ])
}
