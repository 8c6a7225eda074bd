//! What holds for every object.

use super::generate::{Choices, faults};
use super::{KINDS, body, object, other, schema, there};
use crds::convert::{REMAINDER, Version};
use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Cases of each property, for each kind and each direction: a second or so.
const CASES: u32 = 192;
const VERSIONS: [Version; 2] = [Version::V1alpha1, Version::V1beta1];

/// Every kind in every version with its schema.
static SCHEMAS: LazyLock<Vec<(&str, Version, Value)>> = LazyLock::new(|| {
    KINDS.iter().flat_map(|kind| VERSIONS.map(|version| (*kind, version, schema(kind, version)))).collect()
});

fn schema_of(kind: &str, version: Version) -> &'static Value {
    SCHEMAS.iter().find(|(k, v, _)| *k == kind && *v == version).map(|(_, _, schema)| schema).unwrap()
}

fn without_remainder(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().shift_remove("annotations");
    object
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_object_that_goes_to_the_other_version_and_back_is_the_same(seed in any::<u64>()) {
        for (kind, version, schema) in SCHEMAS.iter() {
            let given = object(kind, *version, &Choices::new(seed).body(schema));
            let back = there(&there(&given, other(*version)), *version);
            assert_eq!(back, given, "{kind} {version:?} seed {seed}");
        }
    }

    #[test]
    fn a_converted_object_holds_only_what_its_version_knows(seed in any::<u64>()) {
        for (kind, version, schema) in SCHEMAS.iter() {
            let given = object(kind, *version, &Choices::new(seed).body(schema));
            let converted = there(&given, other(*version));
            let mut found = Vec::new();
            for part in ["spec", "status"] {
                let schema = &schema_of(kind, other(*version))["properties"][part];
                faults(schema, &converted[part], part, &mut found);
            }
            assert!(found.is_empty(), "{kind} to {:?} seed {seed}: {found:#?}\n{given}", other(*version));
        }
    }

    /// Someone writes something else altogether into the converted object and leaves the annotation there.
    #[test]
    fn whatever_is_changed_in_between_wins_and_is_not_lost(seed in any::<u64>(), edit in any::<u64>()) {
        for (kind, version, schema) in SCHEMAS.iter() {
            let target = other(*version);
            let converted = there(&object(kind, *version, &Choices::new(seed).body(schema)), target);
            let mut edited = object(kind, target, &Choices::new(edit).body(schema_of(kind, target)));
            edited["metadata"] = converted["metadata"].clone();
            let back = there(&edited, *version);
            // What comes back says what the edited object says, no more and no less than without the annotation.
            let plain = there(&without_remainder(&edited), *version);
            let (says, should) =
                (there(&without_remainder(&back), target), there(&without_remainder(&plain), target));
            let is_live = body(&says) == body(&should) || body(&says) == body(&edited);
            assert!(is_live, "{kind} {version:?} seeds {seed} {edit}");
            assert_eq!(body(&there(&back, target)), body(&edited), "{kind} {version:?} seeds {seed} {edit}");
        }
    }

    #[test]
    fn what_one_version_alone_says_survives_a_change_of_replicas(seed in any::<u64>(), replicas in 4..9_i64) {
        let schema = schema_of("DynamoComponentDeployment", Version::V1alpha1);
        let mut given = object("DynamoComponentDeployment", Version::V1alpha1, &Choices::new(seed).body(schema));
        let mut beta = there(&given, Version::V1beta1);
        beta["spec"]["replicas"] = json!(replicas);
        given["spec"]["replicas"] = json!(replicas);
        assert_eq!(there(&beta, Version::V1alpha1), given, "seed {seed}");
    }
}

#[test]
fn nulls_and_values_of_the_wrong_kind_come_back_too() {
    for spec in [
        json!({"services": null, "envs": null}),
        json!({"services": {"A": null, "B": 1, "C": {"extraPodSpec": 3, "envs": {}, "resources": {"limits": null}}}}),
        json!({"services": [], "unknown": {"deep": [1]}}),
        json!(7),
    ] {
        for version in VERSIONS {
            let given = object("DynamoGraphDeployment", version, &json!({ "spec": spec, "extra": true }));
            assert_eq!(there(&there(&given, other(version)), version), given);
        }
    }
}

#[test]
fn the_annotation_is_there_only_while_it_is_needed() {
    let body = json!({"spec": {"services": {"F": {"replicas": 2, "ingress": {"enabled": false}}}}});
    let alpha = object("DynamoGraphDeployment", Version::V1alpha1, &body);
    let beta = there(&alpha, Version::V1beta1);
    assert!(beta["metadata"]["annotations"][REMAINDER].is_string());
    let back = there(&beta, Version::V1alpha1);
    assert!(back["metadata"].get("annotations").is_none());
    let plain = json!({"spec": {"services": {"F": {"replicas": 2}}}});
    let beta = there(&object("DynamoGraphDeployment", Version::V1alpha1, &plain), Version::V1beta1);
    assert_eq!(beta["metadata"], json!({"name": "g"}));
}

#[test]
fn annotations_of_others_stay_and_an_unreadable_one_of_ours_is_refused() {
    let mut beta = object("DynamoGraphDeployment", Version::V1beta1, &json!({"spec": {"components": []}}));
    beta["metadata"]["annotations"] = json!({"nvidia.com/dgd-spec": "{}", "mine": "1"});
    let alpha = there(&beta, Version::V1alpha1);
    assert_eq!(alpha["metadata"]["annotations"], beta["metadata"]["annotations"]);
    beta["metadata"]["annotations"][REMAINDER] = json!("{");
    let error = crds::convert::convert(&beta, Version::V1alpha1).unwrap_err();
    assert!(error.to_string().contains("remove it"), "{error}");
}

#[test]
fn a_remainder_that_no_annotation_holds_is_an_error_and_not_a_loss() {
    let long = "x".repeat(crds::convert::REMAINDER_BYTES_MAX);
    let body = json!({"spec": {"pvcs": [{"name": long}]}});
    let error = crds::convert::convert(&object("DynamoGraphDeployment", Version::V1alpha1, &body), Version::V1beta1);
    assert!(error.unwrap_err().to_string().contains("make it smaller"));
}

#[test]
fn what_cannot_be_converted_is_named() {
    let convert = |api_version: &str, kind: &str| {
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {}});
        crds::convert::convert(&object, Version::V1beta1).unwrap_err().to_string()
    };
    assert!(convert("nvidia.com/v1alpha1", "DynamoModel").contains("`DynamoModel`"));
    assert!(convert("nvidia.com/v2", "DynamoGraphDeployment").contains("`nvidia.com/v2`"));
    assert!(convert("apps/v1alpha1", "DynamoGraphDeployment").contains("`apps/v1alpha1`"));
}
