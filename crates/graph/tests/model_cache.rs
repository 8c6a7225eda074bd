//! The cache of a model: what annotations mean, the Job that fills the claim, the mount that reads it.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use crds::v1alpha1::DynamoModel;
use crds::v1beta1::DynamoComponentDeployment;
use graph::model_cache::{self, ModelCache};
use serde_json::{Value, json};

fn model(annotations: &Value, source: &str) -> DynamoModel {
    serde_json::from_value(json!({
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel",
        "metadata": { "name": "smol", "namespace": "ml", "uid": "u-1", "annotations": annotations },
        "spec": { "modelName": "smol", "baseModelName": "org/smol", "source": { "uri": source } },
    }))
    .unwrap()
}

fn kept() -> (DynamoModel, ModelCache) {
    let model = model(
        &json!({
            "busbar.dev/model-cache-claim": "models", "busbar.dev/model-cache-size": "10Gi",
            "busbar.dev/model-cache-storage-class": "efs", "busbar.dev/hf-token-secret": "hf-token-secret",
        }),
        "hf://org/smol@main",
    );
    let cache = model_cache::cache_of(&model).unwrap().unwrap();
    (model, cache)
}

#[test]
fn a_model_without_a_claim_is_not_kept() {
    assert_eq!(model_cache::cache_of(&model(&json!({}), "hf://org/smol")).unwrap(), None);
}

#[test]
fn what_makes_no_sense_is_told_with_its_path_all_at_once() {
    let check = |annotations: Value, source: &str, paths: &[&str]| {
        let findings = model_cache::cache_of(&model(&annotations, source)).unwrap_err();
        let found: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(found, paths, "{findings:?}");
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
    };
    check(
        json!({ "busbar.dev/model-cache-size": "1Gi" }),
        "hf://a/b",
        &["metadata.annotations[busbar.dev/model-cache-size]"],
    );
    check(
        json!({ "busbar.dev/model-cache-claim": "" }),
        "s3://bucket/x",
        &["metadata.annotations[busbar.dev/model-cache-claim]", "spec.source.uri"],
    );
}

#[test]
fn the_job_fetches_the_source_into_the_claim_as_a_restricted_pod() {
    let (model, cache) = kept();
    let job = model_cache::job(&model, &cache, "registry/busbar:1");
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry/busbar:1");
    assert_eq!(
        container["args"],
        json!(["model", "fetch", "hf:org/smol@main", "--into", "/model-cache", "-o", "json"])
    );
    assert_eq!(container["env"][1]["valueFrom"]["secretKeyRef"]["name"], "hf-token-secret");
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "models");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "u-1");
    // A refusal of the hub ends the Job at once; everything else is tried again.
    assert_eq!(job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"], json!([2]));
    let claim = model_cache::claim(&model, &cache).unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "efs");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "10Gi");
    assert!(claim["metadata"].get("ownerReferences").is_none(), "weights outlive the object that asked for them");
}

#[test]
fn another_source_is_another_job_and_every_name_fits() {
    let (_, cache) = kept();
    let mut other = cache.clone();
    other.source = "hf:org/smol@v2".to_owned();
    assert_ne!(model_cache::job_name("smol", &cache), model_cache::job_name("smol", &other));
    assert_eq!(model_cache::job_name("smol", &cache), model_cache::job_name("smol", &cache));
    let long = model_cache::job_name(&"a.".repeat(100), &cache);
    assert!(long.len() <= 63 && !long.contains(".-"), "{long}");
}

#[test]
fn workers_of_the_base_model_read_the_claim_and_others_do_not() {
    let (_, cache) = kept();
    let worker = |base: &str, volumes: Value| -> DynamoComponentDeployment {
        serde_json::from_value(json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoComponentDeployment", "metadata": { "name": "w" },
            "spec": { "name": "Worker", "type": "worker", "modelRef": { "name": base }, "podTemplate": { "spec": {
                "volumes": volumes, "containers": [{ "name": "main", "image": "i" }] } } },
        }))
        .unwrap()
    };
    let mut ours = worker("org/smol", json!([]));
    assert!(model_cache::mount(&mut ours, &cache));
    assert!(!model_cache::mount(&mut ours, &cache), "once is enough");
    let pod = serde_json::to_value(ours.spec.component.pod_template.unwrap().spec.unwrap()).unwrap();
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"], json!({ "claimName": "models", "readOnly": true }));
    assert_eq!(
        pod["containers"][0]["volumeMounts"][0],
        json!({ "name": "model-cache", "mountPath": "/model-cache", "readOnly": true })
    );
    assert_eq!(pod["containers"][0]["env"][0], json!({ "name": "BUSBAR_MODEL_CACHE", "value": "/model-cache" }));
    assert!(!model_cache::mount(&mut worker("org/other", json!([])), &cache));
    let mounted = json!([{ "name": "mine", "persistentVolumeClaim": { "claimName": "models" } }]);
    assert!(!model_cache::mount(&mut worker("org/smol", mounted), &cache), "a template's own mount is left alone");
}
