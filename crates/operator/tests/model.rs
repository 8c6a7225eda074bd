//! What a model's conditions say of its fetch and of its endpoints.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use crds::v1alpha1::{DynamoModel, ModelSpec};
use graph::model_cache;
use operator::model::{CacheState, JobState, cached_condition, endpoints_condition};
use serde_json::{Value, json};

fn cache() -> graph::model_cache::ModelCache {
    let model: DynamoModel = serde_json::from_value(json!({
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel",
        "metadata": { "name": "m", "annotations": { "busbar.dev/model-cache-claim": "models" } },
        "spec": { "modelName": "m", "baseModelName": "org/m", "source": { "uri": "hf://org/m" } },
    }))
    .unwrap();
    model_cache::cache_of(&model).unwrap().unwrap()
}

fn fetching(status: &Value, last_line: Option<&str>) -> (String, String, String) {
    let mut job = JobState::read(&json!({ "status": status }));
    job.last_line = last_line.map(str::to_owned);
    let condition = cached_condition(&CacheState::Fetching { cache: cache(), job }, &[], Some(3));
    assert_eq!((condition.type_.as_str(), condition.observed_generation), ("Cached", Some(3)));
    (condition.status, condition.reason, condition.message)
}

#[test]
fn a_fetch_is_told_from_its_job_with_what_the_last_try_said() {
    let check = |status: Value, line: Option<&str>, holds: &str, reason: &str, words: &[&str]| {
        let (found, why, message) = fetching(&status, line);
        assert_eq!((found.as_str(), why.as_str()), (holds, reason), "{message}");
        words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is not in: {message}"));
    };
    check(json!({}), None, "False", "Fetching", &["hf:org/m", "models"]);
    check(
        json!({ "active": 1, "failed": 2 }),
        Some("error: no route"),
        "False",
        "FetchRetrying",
        &["2 tries", "no route"],
    );
    check(json!({ "conditions": [{ "type": "Complete", "status": "True" }] }), None, "True", "Fetched", &["models"]);
    // A condition that does not hold says nothing.
    check(json!({ "conditions": [{ "type": "Complete", "status": "False" }] }), None, "False", "Fetching", &[]);
    let refused = json!({ "failed": 1, "conditions": [
        { "type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 2" }] });
    check(
        refused,
        Some("remedy: set HF_TOKEN"),
        "False",
        "FetchFailed",
        &["PodFailurePolicy", "HF_TOKEN", "delete the Job"],
    );
}

#[test]
fn a_claim_that_is_not_there_is_told_with_the_remedy() {
    let condition = cached_condition(&CacheState::NoClaim(cache()), &[], None);
    assert_eq!(condition.reason, "NoClaim");
    assert!(condition.message.contains("busbar.dev/model-cache-size"), "{}", condition.message);
}

#[test]
fn the_time_of_the_last_change_stays_while_nothing_changes() {
    let first = cached_condition(&CacheState::NoImage, &[], None);
    let again = cached_condition(&CacheState::NoClaim(cache()), std::slice::from_ref(&first), None);
    assert_eq!(again.last_transition_time, first.last_transition_time, "False stays False");
}

#[test]
fn endpoints_are_ready_when_one_is_and_nobody_is_told_how_to_serve() {
    let base = ModelSpec { base_model_name: "org/m".to_owned(), ..ModelSpec::default() };
    let check = |model: &ModelSpec, ready, total, holds: &str, reason: &str| {
        let condition = endpoints_condition(model, ready, total, (&[], None));
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), (holds, reason));
        condition.message
    };
    assert!(check(&base, 0, 0, "False", "NoEndpoints").contains("modelRef: {name: org/m}"));
    check(&base, 0, 2, "False", "EndpointsNotReady");
    check(&base, 1, 2, "True", "EndpointsReady");
    check(&ModelSpec { model_type: Some("lora".to_owned()), ..base }, 1, 1, "False", "AdaptersNotLoaded");
}
