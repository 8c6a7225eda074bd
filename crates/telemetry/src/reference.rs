//! `docs/reference/metrics.md`, generated, so that a test can tell whether the file is fresh.

use crate::{GROUPS, MetricSpec};
use std::fmt::Write;

/// The whole text of `docs/reference/metrics.md`. Same specs, same bytes.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nGenerated from the `telemetry` crate; do not edit. Names, labels and buckets that start with `dynamo_` are Dynamo's.\n",
    );
    for group in GROUPS {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
            group.title, group.about
        );
        for spec in group.metrics {
            text.push_str(&row(spec));
        }
        for spec in group.metrics.iter().filter(|spec| !spec.buckets().is_empty()) {
            let bounds: Vec<String> = spec.buckets().iter().map(|bound| format!("{bound}")).collect();
            let _ = write!(text, "\nBuckets of `{}`: {}.\n", spec.name, bounds.join(", "));
        }
    }
    text
}

fn row(spec: &MetricSpec) -> String {
    let labels: Vec<String> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {} | {} | {} |\n", spec.name, spec.kind.word(), labels.join(", "), spec.help)
}

#[cfg(test)]
mod tests {
    use super::markdown;
    use crate::METRICS;

    #[test]
    fn the_reference_names_every_metric_once_and_breaks_no_table() {
        let text = markdown();
        for spec in METRICS {
            assert_eq!(text.matches(&format!("| `{}` |", spec.name)).count(), 1, "{}", spec.name);
            assert!(!spec.help.contains('|'), "{}: a bar in the help breaks the table", spec.name);
        }
    }
}
