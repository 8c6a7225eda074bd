//! Our specs against `/metrics` of ai-dynamo 1.6.1, recorded from real processes.

use std::collections::{BTreeMap, BTreeSet};
use telemetry::{METRICS, MetricSpec};

#[derive(Default, Debug)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    buckets: BTreeSet<String>,
}

const RECORDINGS: &[&str] = &[
    include_str!("data/frontend-metrics.txt"),
    include_str!("data/frontend-metrics-after-worker-death.txt"),
    include_str!("data/worker-system-metrics.txt"),
];

/// Families that the recordings do not hold, because their event did not happen there; names from Dynamo's list.
const NOT_RECORDED: &[&str] = &[
    "dynamo_frontend_model_rejection_total",
    "dynamo_frontend_model_migration_max_seq_len_exceeded_total",
    "dynamo_component_total_blocks",
    "dynamo_component_gpu_cache_usage_percent",
    "dynamo_component_kv_cache_hit_rate",
    "dynamo_component_model_load_time_seconds",
    "dynamo_transport_nats_errors_total",
];

fn stock() -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for text in RECORDINGS {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a HELP line has a name and a text");
                families.entry(name.into()).or_default().help = help.into();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a TYPE line has a name and a kind");
                families.entry(name.into()).or_default().kind = kind.into();
            } else if !line.is_empty() {
                sample(&mut families, line);
            }
        }
    }
    families
}

fn sample(families: &mut BTreeMap<String, Family>, line: &str) {
    let end = line.find(['{', ' ']).expect("a sample has a value");
    let name = &line[..end];
    let base = ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix))
        .find(|base| families.get(*base).is_some_and(|family| family.kind == "histogram"))
        .unwrap_or(name);
    let family = families.get_mut(base).expect("HELP and TYPE stand before the samples");
    let Some((inside, _)) = line[end..].strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) else { return };
    for pair in inside.split("\",") {
        let (label, value) = pair.split_once("=\"").expect("labels are name=\"value\"");
        let value = value.trim_end_matches('"');
        if label != "le" {
            family.labels.insert(label.into());
        } else if value != "+Inf" {
            family.buckets.insert(bound_of(value));
        }
    }
}

/// Our writing of a number, so that `1` and `1.0` are equal.
fn bound_of(text: &str) -> String {
    text.parse::<f64>().expect("a bound is a number").to_string()
}

fn of_dynamo() -> impl Iterator<Item = &'static MetricSpec> {
    METRICS.iter().filter(|spec| spec.name.starts_with("dynamo_"))
}

#[test]
fn every_dynamo_metric_has_the_stock_type_help_labels_and_buckets() {
    let stock = stock();
    let mut compared = 0;
    for spec in of_dynamo() {
        let Some(family) = stock.get(spec.name) else {
            assert!(NOT_RECORDED.contains(&spec.name), "{} is not in the recordings and not listed as such", spec.name);
            continue;
        };
        let labels: BTreeSet<String> = spec.labels.iter().map(ToString::to_string).collect();
        let buckets: BTreeSet<String> = spec.buckets().iter().map(ToString::to_string).collect();
        assert_eq!((spec.kind.word(), spec.help), (family.kind.as_str(), family.help.as_str()), "{}", spec.name);
        assert_eq!(labels, family.labels, "labels of {}", spec.name);
        assert_eq!(buckets, family.buckets, "buckets of {}", spec.name);
        compared += 1;
    }
    assert!(compared > 70, "only {compared} families were compared");
}

#[test]
fn names_are_unique_and_wear_a_known_prefix() {
    let names: BTreeSet<&str> = METRICS.iter().map(|spec| spec.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for name in names {
        assert!(name.starts_with("dynamo_") || name.starts_with("busbar_"), "{name}");
    }
}

#[test]
fn buckets_ascend_and_labels_do_not_repeat() {
    for spec in METRICS {
        assert!(spec.buckets().windows(2).all(|pair| pair[0] < pair[1]), "{}", spec.name);
        let unique: BTreeSet<&&str> = spec.labels.iter().collect();
        assert_eq!(unique.len(), spec.labels.len(), "{}", spec.name);
    }
}

#[test]
fn only_known_counters_lack_the_total_that_the_client_appends() {
    let bare: Vec<&str> = METRICS.iter().filter(|spec| spec.is_bare_counter()).map(|spec| spec.name).collect();
    assert_eq!(
        bare,
        [
            "dynamo_frontend_detokenize_token_count",
            "dynamo_frontend_detokenize_total_us",
            "dynamo_component_kv_cache_events_applied"
        ]
    );
    assert_eq!(telemetry::frontend::REQUESTS_TOTAL.registration_name(), "dynamo_frontend_requests");
}
