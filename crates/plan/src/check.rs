//! What a well-formed platform file must mean.

use crds::platform::{Kubernetes, Platform, Settings};
use graph::Finding;
use std::collections::BTreeMap;

/// Bytes of a platform's name: with the longest suffix of the chart's objects, 63 are not exceeded.
const NAME_BYTES_MAX: usize = 40;
/// Bytes of a Kubernetes namespace.
const LABEL_BYTES_MAX: usize = 63;

/// Every violation of the meaning, in the order of the file.
pub(crate) fn check(platform: &Platform) -> Vec<Finding> {
    let mut findings = Vec::new();
    label(&platform.metadata.name, "metadata.name", NAME_BYTES_MAX, &mut findings);
    if let Some(cluster) = &platform.target.kubernetes {
        kubernetes(cluster, &mut findings);
        image(platform, cluster, &mut findings);
    }
    settings(&platform.platform, &mut findings);
    for (i, entry) in platform.graphs.iter().enumerate() {
        let path = format!("graphs[{i}]");
        match (&entry.file, &entry.graph) {
            (Some(_), Some(_)) => {
                findings.push(Finding::new(path.as_str(), "it has both `file` and `graph`", "keep one of them"));
            }
            (None, None) => {
                let remedy = "name a file, or write the DynamoGraphDeployment below `graph`";
                findings.push(Finding::new(path.as_str(), "it has neither `file` nor `graph`", remedy));
            }
            _ => {}
        }
        if let Some(name) = &entry.k8s_namespace {
            label(name, &format!("{path}.k8s_namespace"), LABEL_BYTES_MAX, &mut findings);
        }
    }
    if platform.verify.question.trim().is_empty() {
        findings.push(Finding::new("verify.question", "it is empty", "ask something, or leave it out"));
    }
    if let Some(expect) = &platform.verify.expect
        && let Err(error) = regex::Regex::new(expect)
    {
        let cause = error.to_string();
        let cause = cause.lines().last().unwrap_or_default().trim().to_owned();
        findings.push(Finding::new(
            "verify.expect",
            format!("`{expect}` is no regular expression: {cause}"),
            "correct it",
        ));
    }
    findings
}

fn kubernetes(cluster: &Kubernetes, findings: &mut Vec<Finding>) {
    let at = |key: &str| format!("target.kubernetes.{key}");
    label(&cluster.k8s_namespace, &at("k8s_namespace"), LABEL_BYTES_MAX, findings);
    if let Some(registry) = &cluster.registry {
        if !is_registry(&registry.address) {
            findings.push(Finding::new(
                at("registry.address"),
                format!("`{}` is no address of a registry", registry.address),
                "give HOST or HOST:PORT, without a scheme and without a repository",
            ));
        }
        if !is_repository(&registry.repository) {
            findings.push(Finding::new(
                at("registry.repository"),
                format!("`{}` is no name of a repository", registry.repository),
                "use lower-case letters, digits, `-`, `_`, `.` and `/`",
            ));
        }
    }
    if let Some(exposure) = &cluster.exposure {
        if exposure.tls_secret.is_none() && !exposure.plain_http {
            findings.push(Finding::new(
                at("exposure"),
                "frontends would be reached from outside without TLS",
                "name a certificate with tlsSecret, or say plainHttp: true where something in front speaks TLS",
            ));
        }
        if exposure.tls_secret.is_some() && exposure.plain_http {
            findings.push(Finding::new(at("exposure.plainHttp"), "it contradicts tlsSecret", "keep one of them"));
        }
    }
}

fn image(platform: &Platform, cluster: &Kubernetes, findings: &mut Vec<Finding>) {
    match &platform.image {
        None if cluster.registry.is_none() => findings.push(Finding::new(
            "target.kubernetes.registry",
            "there is no image to run and no registry to push one to",
            "give the registry's address, or name an image that is there with `image`",
        )),
        Some(reference) if split_reference(reference).is_none() => findings.push(Finding::new(
            "image",
            format!("`{reference}` is no reference of an image with a tag or digest"),
            "write REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@sha256:DIGEST",
        )),
        _ => {}
    }
}

fn settings(settings: &Settings, findings: &mut Vec<Finding>) {
    members("platform.nats", settings.nats.replicas, &settings.nats.storage, findings);
    members("platform.etcd", settings.etcd.replicas, &settings.etcd.storage, findings);
    if settings.discovery_backend == crds::platform::Discovery::Etcd && settings.etcd.install == Some(false) {
        findings.push(Finding::new(
            "platform.etcd.install",
            "workers are to be found in etcd, and it is not installed",
            "leave `install` out, or name an etcd of your own below platform.values",
        ));
    }
    if let Some(name) = &settings.operator.watch_namespace {
        label(name, "platform.operator.watchNamespace", LABEL_BYTES_MAX, findings);
    }
    empty_words(&settings.image_map, findings);
}

fn empty_words(map: &BTreeMap<String, String>, findings: &mut Vec<Finding>) {
    for (from, to) in map.iter().filter(|(from, to)| from.is_empty() || to.is_empty() || from.contains('=')) {
        let problem = format!("`{from}` to `{to}` maps nothing");
        findings.push(Finding::new("platform.imageMap", problem, "give two image repositories, without `=`"));
    }
}

/// A quorum needs an odd number; more than five only makes writes slower.
fn members(path: &str, replicas: u32, storage: &str, findings: &mut Vec<Finding>) {
    if !matches!(replicas, 1 | 3 | 5) {
        let problem = format!("{replicas} members have no better quorum than one fewer");
        findings.push(Finding::new(format!("{path}.replicas"), problem, "use 1, 3 or 5"));
    }
    if !is_quantity(storage) {
        let problem = format!("`{storage}` is no quantity of bytes");
        findings.push(Finding::new(format!("{path}.storage"), problem, "write it like 10Gi"));
    }
}

fn label(text: &str, path: &str, bytes_max: usize, findings: &mut Vec<Finding>) {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let valid = (1..=bytes_max).contains(&text.len())
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-');
    if !valid {
        findings.push(Finding::new(
            path,
            format!("`{text}` is no name that Kubernetes takes"),
            format!("use 1 to {bytes_max} lower-case letters, digits and `-`, a letter first and no `-` last"),
        ));
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let host_is = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    host_is && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_repository(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.split('/').all(|part| !part.is_empty() && part.chars().all(inner))
}

/// Repository and the tag or digest after it: `10.0.0.1:5000/busbar:1` gives `10.0.0.1:5000/busbar` and `:1`.
pub(crate) fn split_reference(reference: &str) -> Option<(&str, &str)> {
    let (name, version) = match reference.split_once('@') {
        Some((name, _)) => (name, &reference[name.len()..]),
        // A colon before the last slash is the registry's port.
        None => {
            let tag = reference.rfind(':').filter(|at| !reference[*at..].contains('/'))?;
            reference.split_at(tag)
        }
    };
    let path_is = name.split('/').all(|part| !part.is_empty()) && !name.contains(char::is_whitespace);
    (path_is && version.len() > 1).then_some((name, version))
}

/// A Kubernetes quantity that counts bytes: digits, perhaps with a fraction, and a unit.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok_and(|number| number > 0.0)
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && matches!(unit, "" | "k" | "M" | "G" | "T" | "P" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi")
}
