//! What the platform chart is told. Only what differs from its defaults for a reason of the file is written, and all of
//! what the file decides, so that another default in a later chart changes nothing that was decided.
//!
//! The names are the chart's, which are Dynamo's where its chart has the same thing.

use crate::check::split_reference;
use crate::plan::Image;
use crds::platform::{Discovery, Exposure, Kubernetes, Platform, Settings};
use serde_json::{Map, Value, json};

/// The chart's values.
pub(crate) fn values(platform: &Platform, cluster: &Kubernetes, image: &Image) -> Value {
    let settings = &platform.platform;
    let mut values = json!({
        "global": {
            "nats": { "install": settings.nats.install },
            "etcd": { "install": installs_etcd(settings) },
        },
        "dynamo-operator": operator(settings, cluster, image),
        "serviceMonitors": { "enabled": settings.monitoring.service_monitors },
        "dashboards": { "enabled": settings.monitoring.dashboards },
        "networkPolicy": { "enabled": settings.network_policies },
    });
    if settings.nats.install {
        values["nats"] = nats(settings, cluster);
    }
    if installs_etcd(settings) {
        values["etcd"] = etcd(settings, cluster);
    }
    merge(&mut values, &Value::Object(settings.values.clone()));
    values
}

/// Whether the chart makes any volume.
pub(crate) fn has_volumes(settings: &Settings) -> bool {
    settings.nats.install || installs_etcd(settings)
}

fn installs_etcd(settings: &Settings) -> bool {
    settings.etcd.install.unwrap_or(settings.discovery_backend == Discovery::Etcd)
}

fn operator(settings: &Settings, cluster: &Kubernetes, image: &Image) -> Value {
    let mut operator = json!({
        "discoveryBackend": settings.discovery_backend,
        "controllerManager": {
            "replicas": settings.operator.replicas,
            "manager": { "image": repository(&image.reference) },
        },
        "dynamo": {
            "metrics": { "podMonitors": { "enabled": settings.monitoring.service_monitors } },
        },
    });
    if let Some(k8s_namespace) = &settings.operator.watch_namespace {
        operator["namespaceRestriction"] = json!({ "enabled": true, "targetNamespace": k8s_namespace });
    }
    if !settings.image_map.is_empty() {
        let map: Vec<_> = settings.image_map.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect();
        operator["imageMap"] = Value::Array(map);
    }
    if !settings.image_pull_secrets.is_empty() {
        operator["imagePullSecrets"] = pull_secrets(settings);
    }
    if let Some(exposure) = &cluster.exposure {
        operator["dynamo"]["ingress"] = ingress(exposure);
        operator["dynamo"]["ingressHostSuffix"] = json!(exposure.host_suffix);
    }
    operator
}

fn ingress(exposure: &Exposure) -> Value {
    let mut ingress = json!({ "enabled": true, "className": exposure.ingress_class });
    if let Some(secret) = &exposure.tls_secret {
        ingress["tlsSecretName"] = json!(secret);
    }
    ingress
}

fn nats(settings: &Settings, cluster: &Kubernetes) -> Value {
    let replicas = settings.nats.replicas;
    let mut members = json!({ "enabled": replicas > 1 });
    if replicas > 1 {
        members["replicas"] = json!(replicas);
    }
    let mut nats = json!({
        "config": {
            "cluster": members,
            "jetstream": { "fileStore": { "pvc": {
                "size": settings.nats.storage,
                "storageClassName": storage_class(cluster),
            } } },
        },
    });
    if let Some(image) = &settings.nats.image {
        nats["container"] = json!({ "image": repository(image) });
    }
    if !settings.image_pull_secrets.is_empty() {
        nats["imagePullSecrets"] = pull_secrets(settings);
    }
    nats
}

fn etcd(settings: &Settings, cluster: &Kubernetes) -> Value {
    let mut etcd = json!({
        "replicaCount": settings.etcd.replicas,
        "persistence": { "size": settings.etcd.storage, "storageClass": storage_class(cluster) },
    });
    if let Some(image) = &settings.etcd.image {
        etcd["image"] = repository(image);
    }
    if !settings.image_pull_secrets.is_empty() {
        etcd["imagePullSecrets"] = pull_secrets(settings);
    }
    etcd
}

/// Empty is the chart's word for the cluster's default; without it the chart would take one of its own.
fn storage_class(cluster: &Kubernetes) -> &str {
    cluster.storage_class.as_deref().unwrap_or_default()
}

fn pull_secrets(settings: &Settings) -> Value {
    Value::Array(settings.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect())
}

/// A reference in the chart's form. A digest wins over the chart's own tag.
fn repository(reference: &str) -> Value {
    match split_reference(reference) {
        Some((name, version)) => match version.strip_prefix('@') {
            Some(digest) => json!({ "repository": name, "digest": digest }),
            None => json!({ "repository": name, "tag": &version[1..], "digest": "" }),
        },
        None => json!({ "repository": reference }),
    }
}

/// Puts what `over` says onto `values`; maps are joined, everything else is replaced.
fn merge(values: &mut Value, over: &Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => {
            for (key, value) in over {
                merge(values.entry(key.clone()).or_insert(Value::Object(Map::new())), value);
            }
        }
        (values, over) => *values = over.clone(),
    }
}
