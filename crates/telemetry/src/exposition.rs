//! How `/metrics` is written: Prometheus text 0.0.4, as the stock processes serve it.
//!
//! The client library writes OpenMetrics, in which a counter's family lacks the `_total` of its series, a bucket's bound
//! is `5.0` and a help ends with a full stop. Dashboards and recording rules made for the stock text look for
//! `# TYPE x_total counter` and `le="5"`, so the one is written as the other.

use crate::METRICS;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Default)]
struct Family<'a> {
    help: &'a str,
    kind: &'a str,
    samples: Vec<&'a str>,
}

/// `open_metrics` in Prometheus text 0.0.4: families by name, those without a series left out.
///
/// `prefix` is what stands in place of `dynamo_frontend`, if anything does.
pub fn prometheus_text(open_metrics: &str, prefix: Option<&str>) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut current = "";
    for line in open_metrics.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().help = help.strip_suffix('.').unwrap_or(help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().kind = kind;
            current = name;
        } else if !line.is_empty() && !line.starts_with('#') {
            families.entry(current).or_default().samples.push(line);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for (name, family) in families.iter().filter(|(_, family)| !family.samples.is_empty()) {
        let total = if family.kind == "counter" { "_total" } else { "" };
        let kind = if is_bare_counter(name, prefix) { "counter" } else { family.kind };
        // A `String` takes every write.
        let _ = writeln!(text, "# HELP {name}{total} {}\n# TYPE {name}{total} {kind}", family.help);
        for sample in &family.samples {
            write_sample(&mut text, sample);
        }
    }
    text
}

/// A counter whose stock name lacks `_total`; the client library only writes it under a gauge's name.
fn is_bare_counter(name: &str, prefix: Option<&str>) -> bool {
    let stock_rest = prefix.and_then(|prefix| name.strip_prefix(prefix));
    METRICS.iter().filter(|spec| spec.is_bare_counter()).any(|spec| {
        spec.name == name || stock_rest.is_some_and(|rest| spec.name.strip_prefix("dynamo_frontend") == Some(rest))
    })
}

fn write_sample(text: &mut String, sample: &str) {
    let (series, value) = sample.rsplit_once(' ').unwrap_or((sample, ""));
    match bound(series) {
        Some((before, bound, after)) => {
            let _ = write!(text, "{before}{}{after}", number(bound));
        }
        // The client library writes `{}` for a family of labels that has none here.
        None => text.push_str(series.strip_suffix("{}").unwrap_or(series)),
    }
    let _ = writeln!(text, " {}", number(value));
}

/// The bound of a bucket, with what stands before and after it. A quote inside a label's value is escaped, so what is
/// found is no other label's text.
fn bound(series: &str) -> Option<(&str, &str, &str)> {
    let start = ["{le=\"", ",le=\""].iter().find_map(|label| Some(series.find(label)? + label.len()))?;
    let end = start + series[start..].find('"')?;
    Some((&series[..start], &series[start..end], &series[end..]))
}

/// As the stock writes numbers: no fraction where there is none, no exponent.
fn number(written: &str) -> String {
    if !written.contains(['.', 'e']) {
        return written.to_owned();
    }
    written.parse::<f64>().map_or_else(|_| written.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_becomes_what_the_stock_serves() {
        let open = "# HELP b_seconds Time.\n# TYPE b_seconds histogram\nb_seconds_sum{m=\"le=\\\"1.0\\\"\"} 3.0\n\
                    b_seconds_count{m=\"x\"} 2\nb_seconds_bucket{m=\"x\",le=\"0.5\"} 1\n\
                    b_seconds_bucket{le=\"5.0\",m=\"x\"} 2\nb_seconds_bucket{m=\"x\",le=\"+Inf\"} 2\n\
                    # HELP a Count of things.\n# TYPE a counter\na_total{k=\"v\"} 18446744073709551615\n\
                    # HELP empty Nothing.\n# TYPE empty counter\n\
                    # HELP dynamo_component_kv_cache_events_applied Bare.\n\
                    # TYPE dynamo_component_kv_cache_events_applied gauge\n\
                    dynamo_component_kv_cache_events_applied 7\n# EOF\n";
        let expected = "# HELP a_total Count of things\n# TYPE a_total counter\na_total{k=\"v\"} 18446744073709551615\n\
                        # HELP b_seconds Time\n# TYPE b_seconds histogram\nb_seconds_sum{m=\"le=\\\"1.0\\\"\"} 3\n\
                        b_seconds_count{m=\"x\"} 2\nb_seconds_bucket{m=\"x\",le=\"0.5\"} 1\n\
                        b_seconds_bucket{le=\"5\",m=\"x\"} 2\nb_seconds_bucket{m=\"x\",le=\"+Inf\"} 2\n\
                        # HELP dynamo_component_kv_cache_events_applied Bare\n\
                        # TYPE dynamo_component_kv_cache_events_applied counter\n\
                        dynamo_component_kv_cache_events_applied 7\n";
        assert_eq!(prometheus_text(open, None), expected);
    }

    #[test]
    fn a_series_without_labels_has_no_braces() {
        let open = "# HELP a Size.\n# TYPE a gauge\na{} 48\n# EOF\n";
        assert_eq!(prometheus_text(open, None), "# HELP a Size\n# TYPE a gauge\na 48\n");
    }

    #[test]
    fn a_bare_counter_stays_one_under_the_users_prefix() {
        let open = "# HELP acme_detokenize_total_us Time.\n# TYPE acme_detokenize_total_us gauge\n\
                    acme_detokenize_total_us 5\n# EOF\n";
        assert!(prometheus_text(open, Some("acme")).contains("# TYPE acme_detokenize_total_us counter\n"));
        assert!(prometheus_text(open, None).contains("# TYPE acme_detokenize_total_us gauge\n"));
    }

    #[test]
    fn numbers_are_written_plainly() {
        for (written, expected) in [
            ("0.0", "0"),
            ("1e-5", "0.00001"),
            ("430467.2100000001", "430467.2100000001"),
            ("+Inf", "+Inf"),
            ("7", "7"),
        ] {
            assert_eq!(number(written), expected);
        }
    }
}
