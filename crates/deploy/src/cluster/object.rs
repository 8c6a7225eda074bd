//! Objects of any kind: read, apply, delete.

use super::{ClusterError, FIELD_MANAGER};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// What applying an object did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It was not there.
    Made,
    /// It was another.
    Changed,
    /// It was so already.
    Unchanged,
}

/// How an object is applied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Take fields from another manager.
    pub(crate) force: bool,
    /// Only say what would be.
    pub(crate) dry_run: bool,
}

/// An object's address in the API.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) k8s_namespace: Option<String>,
    resource: ApiResource,
}

impl Address {
    /// Of an object as it is written.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let k8s_namespace = Some(text("/metadata/namespace")).filter(|name| !name.is_empty());
        Self { resource: resource(&api_version, &kind), kind, name: text("/metadata/name"), k8s_namespace }
    }

    /// Of a kind, by name.
    pub(crate) fn new(api_version: &str, kind: &str, k8s_namespace: Option<&str>, name: &str) -> Self {
        Self {
            resource: resource(api_version, kind),
            kind: kind.to_owned(),
            name: name.to_owned(),
            k8s_namespace: k8s_namespace.map(str::to_owned),
        }
    }

    /// Of a kind as the API server describes it.
    pub(crate) fn listed(resource: &ApiResource, k8s_namespace: Option<String>, name: String) -> Self {
        Self { resource: resource.clone(), kind: resource.kind.clone(), name, k8s_namespace }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.k8s_namespace {
            Some(k8s_namespace) => Api::namespaced_with(client.clone(), k8s_namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }

    /// `Service default/web`.
    pub(crate) fn shown(&self) -> String {
        match &self.k8s_namespace {
            Some(k8s_namespace) => format!("{} {k8s_namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// The object, where it is there; a kind that the cluster does not know is not there either.
    pub(crate) async fn get(&self, client: &Client) -> Result<Option<Value>, ClusterError> {
        let found = self.api(client).get_opt(&self.name).await;
        let found = found.map_err(ClusterError::api(format!("read {}", self.shown())))?;
        Ok(found.map(|object| serde_json::to_value(object).unwrap_or(Value::Null)))
    }

    /// Server-side apply, strict about unknown fields.
    pub(crate) async fn apply(
        &self,
        client: &Client,
        object: &Value,
        manner: Manner,
    ) -> Result<(Applied, Value), ClusterError> {
        let before = self.get(client).await?;
        let params = PatchParams {
            dry_run: manner.dry_run,
            force: manner.force,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let after = self.api(client).patch(&self.name, &params, &Patch::Apply(object)).await;
        let after = after.map_err(ClusterError::api(format!("apply {}", self.shown())))?;
        let after = serde_json::to_value(after).unwrap_or(Value::Null);
        let applied = match &before {
            None => Applied::Made,
            Some(before) if same(before, &after) => Applied::Unchanged,
            Some(_) => Applied::Changed,
        };
        Ok((applied, after))
    }

    /// Deletes it with all that it owns; not there is as good.
    pub(crate) async fn delete(&self, client: &Client) -> Result<(), ClusterError> {
        let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..Default::default() };
        match self.api(client).delete(&self.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ClusterError::api(format!("delete {}", self.shown()))(error)),
        }
    }
}

/// Whether two readings of one object ask for the same.
fn same(before: &Value, after: &Value) -> bool {
    let wanted = |object: &Value| {
        let metadata = &object["metadata"];
        let mut wanted = object.clone();
        if let Value::Object(fields) = &mut wanted {
            fields.shift_remove("status");
            fields.shift_remove("metadata");
        }
        (wanted, metadata["labels"].clone(), metadata["annotations"].clone())
    };
    wanted(before) == wanted(after)
}

/// The kind's plural is its lower-case name and an `s`, but for kinds that end in `s` or `y`.
fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Name and namespace of a listed object.
pub(crate) fn place(object: &impl ResourceExt) -> (Option<String>, String) {
    (object.namespace(), object.name_any())
}
