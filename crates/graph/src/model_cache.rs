//! A model that a claim holds once for all its workers: the claim, the Job that fills it, the mount that reads it.
//!
//! A `DynamoModel` of type base with a source says which model; its annotations say where it is kept:
//!
//! ```text
//! busbar.dev/model-cache-claim: models          a claim of its Kubernetes namespace; without it nothing is fetched
//! busbar.dev/model-cache-size: 100Gi            makes the claim, where it is not there
//! busbar.dev/model-cache-storage-class: efs     of that claim; the cluster's default when absent
//! busbar.dev/hf-token-secret: hf-token-secret   its key HF_TOKEN is what the hub is asked with
//! busbar.dev/hf-endpoint: http://mirror         in place of the hub
//! ```
//!
//! The Job writes; workers whose `modelRef` names the base model get the claim read-only.

use crate::finding::Finding;
use crds::v1alpha1::DynamoModel;
use crds::v1beta1::DynamoComponentDeployment;
use k8s_openapi::api::core::v1::{EnvVar, PersistentVolumeClaimVolumeSource, Volume, VolumeMount};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Annotation that names the claim.
pub const CLAIM: &str = "busbar.dev/model-cache-claim";
/// Annotation with the size of a claim that is to be made.
pub const SIZE: &str = "busbar.dev/model-cache-size";
/// Annotation with the storage class of a claim that is to be made.
pub const STORAGE_CLASS: &str = "busbar.dev/model-cache-storage-class";
/// Annotation that names the Secret with the key `HF_TOKEN`.
pub const TOKEN_SECRET: &str = "busbar.dev/hf-token-secret";
/// Annotation with the address of a mirror of the hub.
pub const ENDPOINT: &str = "busbar.dev/hf-endpoint";
/// Label of the Job: name of the model.
pub const MODEL_LABEL: &str = "busbar.dev/model";
/// Where the claim is mounted, in the Job and in workers.
pub const MOUNT_PATH: &str = "/model-cache";
/// Tells a worker where models lie that it need not fetch.
pub const FOLDER_VARIABLE: &str = "BUSBAR_MODEL_CACHE";

/// The volume's name in pods.
const VOLUME: &str = "model-cache";
/// Starts of the Job's pod before it is given up: the fetch goes on where it broke off, so each start gets further.
const FETCH_RETRIES_MAX: u32 = 10;
/// The exit code with which the fetch says that the same call fails again: the hub has no such model, or wants a token.
const PERMANENT_EXIT_CODE: i32 = 2;
/// User and group of the image; the claim's files belong to the group.
const GROUP_ID: i64 = 1000;

/// Where a model is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCache {
    /// Name of the claim.
    pub claim: String,
    /// As `busbar model fetch` takes it: `hf:ORG/NAME@REVISION`.
    pub source: String,
    /// The base model's name, as a component's `modelRef` gives it.
    pub base_model: String,
    size: Option<String>,
    storage_class: Option<String>,
    token_secret: Option<String>,
    endpoint: Option<String>,
}

/// What the cache of `model` is; `None` where it asks for none.
///
/// # Errors
/// Every annotation that makes no sense, with its remedy.
pub fn cache_of(model: &DynamoModel) -> Result<Option<ModelCache>, Vec<Finding>> {
    let annotation = |name: &str| model.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
    let path = |name: &str| format!("metadata.annotations[{name}]");
    let Some(claim) = annotation(CLAIM) else {
        let lost: Vec<_> = [SIZE, STORAGE_CLASS].into_iter().filter(|name| annotation(name).is_some()).collect();
        let findings = lost.iter().map(|name| {
            Finding::new(
                path(name),
                "it counts only with a claim",
                format!("add the annotation {CLAIM}, or remove this one"),
            )
        });
        return if lost.is_empty() { Ok(None) } else { Err(findings.collect()) };
    };
    let mut findings = Vec::new();
    if claim.is_empty() {
        findings.push(Finding::new(path(CLAIM), "it names no claim", "give the name of a PersistentVolumeClaim"));
    }
    if !matches!(model.spec.model_type.as_deref(), None | Some("base")) {
        findings.push(Finding::new(
            "spec.modelType",
            "only a base model is kept on a claim",
            format!("remove {CLAIM}"),
        ));
    }
    let uri = model.spec.source.as_ref().map_or("", |source| source.uri.as_str());
    let source = uri.strip_prefix("hf://").map(|name| format!("hf:{name}"));
    if source.is_none() {
        let problem =
            if uri.is_empty() { "there is no source".to_owned() } else { format!("`{uri}` is not on the hub") };
        findings.push(Finding::new("spec.source.uri", problem, "write hf://ORG/NAME@REVISION"));
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    Ok(Some(ModelCache {
        claim,
        source: source.unwrap_or_default(),
        base_model: model.spec.base_model_name.clone(),
        size: annotation(SIZE),
        storage_class: annotation(STORAGE_CLASS),
        token_secret: annotation(TOKEN_SECRET),
        endpoint: annotation(ENDPOINT),
    }))
}

/// Name of the Job that fills the claim. Another source or claim is another Job; the same is never run twice.
pub fn job_name(model: &str, cache: &ModelCache) -> String {
    // Cut so that name, word and hash stay a label's length.
    const HEAD_MAX: usize = 63 - "-fetch-".len() - 8;
    let hash = Sha256::digest(format!("{}\n{}", cache.source, cache.claim));
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let head: String = model.chars().take(HEAD_MAX).collect();
    format!("{}-fetch-{hash}", head.trim_end_matches(['-', '.']))
}

/// The claim, where a size is given. It has no owner: weights outlive the object that asked for them.
pub fn claim(model: &DynamoModel, cache: &ModelCache) -> Option<Value> {
    let size = cache.size.as_ref()?;
    let mut spec = json!({
        "accessModes": ["ReadWriteMany"],
        "resources": { "requests": { "storage": size } },
    });
    if let Some(class) = &cache.storage_class {
        spec["storageClassName"] = json!(class);
    }
    Some(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": cache.claim, "namespace": model.metadata.namespace, "labels": labels(model) },
        "spec": spec,
    }))
}

/// The Job that fills the claim with `image`, Busbar's own. It belongs to the model.
pub fn job(model: &DynamoModel, cache: &ModelCache, image: &str) -> Value {
    let name = model.metadata.name.clone().unwrap_or_default();
    let mut env = vec![json!({ "name": "HF_HOME", "value": "/tmp/huggingface" })];
    if let Some(secret) = &cache.token_secret {
        env.push(json!({ "name": "HF_TOKEN", "valueFrom": { "secretKeyRef": { "name": secret, "key": "HF_TOKEN" } } }));
    }
    if let Some(endpoint) = &cache.endpoint {
        env.push(json!({ "name": "HF_ENDPOINT", "value": endpoint }));
    }
    let container = json!({
        "name": "fetch",
        "image": image,
        "args": ["model", "fetch", cache.source, "--into", MOUNT_PATH, "-o", "json"],
        "env": env,
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": VOLUME, "mountPath": MOUNT_PATH },
            { "name": "tmp", "mountPath": "/tmp" },
        ],
        "resources": { "requests": { "cpu": "250m", "memory": "256Mi" }, "limits": { "memory": "2Gi" } },
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(&name, cache),
            "namespace": model.metadata.namespace,
            "labels": labels(model),
            "ownerReferences": [{
                "apiVersion": model.api_version, "kind": model.kind, "name": name, "uid": model.metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "backoffLimit": FETCH_RETRIES_MAX,
            "podFailurePolicy": { "rules": [{
                "action": "FailJob",
                "onExitCodes": { "containerName": "fetch", "operator": "In", "values": [PERMANENT_EXIT_CODE] },
            }] },
            "template": {
                "metadata": { "labels": labels(model) },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": GROUP_ID, "fsGroup": GROUP_ID,
                        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [container],
                    "volumes": [
                        { "name": VOLUME, "persistentVolumeClaim": { "claimName": cache.claim } },
                        { "name": "tmp", "emptyDir": {} },
                    ],
                },
            },
        },
    })
}

fn labels(model: &DynamoModel) -> Value {
    json!({
        "app.kubernetes.io/managed-by": "busbar-operator",
        MODEL_LABEL: model.metadata.name,
    })
}

/// Gives the pods of `component` the claim, read-only, where its `modelRef` names the base model and its template does
/// not mount the claim already. Whether anything was added.
pub fn mount(component: &mut DynamoComponentDeployment, cache: &ModelCache) -> bool {
    let spec = &mut component.spec.component;
    if spec.model_ref.as_ref().is_none_or(|model| model.name != cache.base_model) {
        return false;
    }
    let Some(pod) = spec.pod_template.as_mut().and_then(|template| template.spec.as_mut()) else { return false };
    let volumes = pod.volumes.get_or_insert_default();
    let claims =
        |volume: &Volume| volume.persistent_volume_claim.as_ref().is_some_and(|own| own.claim_name == cache.claim);
    if volumes.iter().any(|volume| claims(volume) || volume.name == VOLUME) {
        return false;
    }
    let Some(main) = pod.containers.iter_mut().find(|container| container.name == crds::MAIN_CONTAINER) else {
        return false;
    };
    volumes.push(Volume {
        name: VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: cache.claim.clone(),
            read_only: Some(true),
        }),
        ..Volume::default()
    });
    main.volume_mounts.get_or_insert_default().push(VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: MOUNT_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    let env = main.env.get_or_insert_default();
    if !env.iter().any(|variable| variable.name == FOLDER_VARIABLE) {
        env.push(EnvVar { name: FOLDER_VARIABLE.to_owned(), value: Some(MOUNT_PATH.to_owned()), value_from: None });
    }
    true
}
