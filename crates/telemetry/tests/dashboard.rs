//! The chart's dashboard asks for families that exist, in the form that their kind has, by labels that they have.

use std::collections::BTreeSet;
use telemetry::{METRICS, MetricKind, MetricSpec};

const DASHBOARD: &str = include_str!("../../../assets/charts/busbar-platform/files/dashboards/dynamo-dashboard.json");

/// Labels that no process writes: those of Prometheus' targets, and of a histogram's buckets.
const ADDED: &[&str] = &["namespace", "pod", "le"];
/// Names that begin as ours do and are no metrics: labels, and the dashboard's own.
const NO_METRICS: &[&str] = &["dynamo_component", "dynamo_endpoint", "dynamo_namespace"];

/// The queries of the panels. The file has one field a line.
fn queries() -> Vec<String> {
    let field = |line: &str| {
        let text = line.trim().strip_prefix("\"expr\": \"")?;
        Some(text.trim_end_matches(',').trim_end_matches('"').replace("\\\"", "\""))
    };
    DASHBOARD.lines().filter_map(field).collect()
}

/// Words of a query that may be names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The family that a query's name belongs to, and what of it the name asks for.
fn family(name: &str) -> Option<(MetricSpec, &str)> {
    let longest =
        METRICS.iter().copied().filter(|spec| name.starts_with(spec.name)).max_by_key(|spec| spec.name.len())?;
    let part = name.strip_prefix(longest.name)?;
    Some((longest, part))
}

/// What is wrong with a query, in words.
fn faults(query: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut labels: BTreeSet<&str> = ADDED.iter().copied().collect();
    let is_ours =
        |word: &&str| (word.starts_with("dynamo_") || word.starts_with("busbar_")) && !NO_METRICS.contains(word);
    let names: Vec<&str> = words(query).filter(is_ours).collect();
    for name in &names {
        match family(name) {
            Some((spec, part)) => {
                let is_histogram = matches!(spec.kind, MetricKind::Histogram(_));
                let is_series =
                    if is_histogram { matches!(part, "_bucket" | "_sum" | "_count") } else { part.is_empty() };
                if !is_series {
                    faults.push(format!("{name}: {} is a {}", spec.name, spec.kind.word()));
                }
                labels.extend(spec.labels.iter().copied());
            }
            None => faults.push(format!("{name}: no such metric")),
        }
    }
    if names.is_empty() {
        return faults;
    }
    for list in query.split("by (").skip(1).filter_map(|rest| rest.split_once(')')) {
        faults
            .extend(words(list.0).filter(|label| !labels.contains(label)).map(|label| format!("by {label}: no label")));
    }
    for matchers in query.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
        for matcher in matchers.0.split(", ").filter_map(|matcher| words(matcher).next()) {
            if !labels.contains(matcher) {
                faults.push(format!("{{{matcher}}}: no label"));
            }
        }
    }
    faults
}

#[test]
fn every_query_asks_for_what_our_processes_write() {
    let queries = queries();
    assert!(queries.len() > 30, "{} queries were found", queries.len());
    for query in &queries {
        assert_eq!(faults(query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn a_query_of_another_name_form_or_label_is_found() {
    assert_eq!(faults("rate(dynamo_frontend_request_total[1m])").len(), 1);
    assert_eq!(faults("rate(dynamo_frontend_requests_total_sum[1m])").len(), 1);
    assert_eq!(faults("dynamo_frontend_request_duration_seconds").len(), 1);
    assert_eq!(faults("sum by (pod, colour) (dynamo_frontend_inflight_requests)").len(), 1);
    assert_eq!(faults("dynamo_frontend_inflight_requests{worker=\"a\"}").len(), 1);
}

/// What Dynamo's users link to.
#[test]
fn its_uid_is_that_of_dynamos_dashboard() {
    assert!(DASHBOARD.contains("\"uid\": \"dynamo-dashboard\""));
    assert!(DASHBOARD.contains("label_values(dynamo_frontend_requests_total, namespace)"));
}
