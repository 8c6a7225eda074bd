//! What a platform brought into the cluster that does not carry its label: the definitions of the kinds.
//!
//! It is a ConfigMap beside the release, written before the definitions are: a run that is cut off in between has said
//! too much, never too little. Everything else that `up` makes is found by its labels.

use super::object::{Address, Manner};
use super::{Cluster, ClusterError};
use crds::platform::{PART_OF, PART_OF_LABEL, PLATFORM_LABEL};
use kube::Client;
use plan::Plan;
use serde_json::{Value, json};

/// The kind that stands for all: the platform's definitions come and go together.
pub(crate) const DEFINITION: &str = "dynamographdeployments.nvidia.com";

fn address(k8s_namespace: &str, platform: &str) -> Address {
    Address::new("v1", "ConfigMap", Some(k8s_namespace), &format!("{platform}-record"))
}

/// Whether the definitions are in the cluster.
pub(crate) async fn definitions_are_there(client: &Client) -> Result<bool, ClusterError> {
    let definition = Address::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, DEFINITION);
    Ok(definition.get(client).await?.is_some())
}

/// Writes the record, unless there is one.
pub(crate) async fn write(cluster: &Cluster, plan: &Plan) -> Result<(), ClusterError> {
    let address = address(&plan.release.k8s_namespace, &plan.name);
    if address.get(&cluster.client).await?.is_some() {
        return Ok(());
    }
    let brings = !definitions_are_there(&cluster.client).await?;
    let record = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": address.name,
            "namespace": plan.release.k8s_namespace,
            "labels": { PART_OF_LABEL: PART_OF, PLATFORM_LABEL: plan.name },
        },
        "data": { "bringsDefinitions": brings.to_string() },
    });
    address.apply(&cluster.client, &record, Manner::default()).await?;
    Ok(())
}

/// Whether this platform brought the definitions; `false` without a record.
pub(crate) async fn brought_definitions(
    client: &Client,
    k8s_namespace: &str,
    platform: &str,
) -> Result<bool, ClusterError> {
    let record = address(k8s_namespace, platform).get(client).await?;
    let says = |record: Value| record.pointer("/data/bringsDefinitions").and_then(Value::as_str) == Some("true");
    Ok(record.is_some_and(says))
}
