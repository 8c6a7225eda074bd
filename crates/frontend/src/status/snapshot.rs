//! `GET /status/snapshot`: all that the page shows, at one moment.
//!
//! Every figure that is plotted is a series of `/metrics`, under the same name and from the same rendering; the rest
//! (names, states, reasons) is not a figure.

use crate::models::Entry;
use crate::server::App;
use crate::workers::{MemberView, WorkerSet};
use serde_json::{Map, Number, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Families that the page plots; the part of a name before its label.
const PLOTTED: &[&str] = &[
    "dynamo_frontend_active_requests",
    "dynamo_frontend_queued_requests",
    "dynamo_frontend_output_tokens_total",
    "dynamo_frontend_requests_total",
    "dynamo_frontend_time_to_first_token_seconds_bucket",
    "dynamo_frontend_time_to_first_token_seconds_count",
    "dynamo_frontend_inter_token_latency_seconds_bucket",
    "dynamo_frontend_inter_token_latency_seconds_count",
    "dynamo_frontend_model_migration_total",
    "dynamo_frontend_worker_active_decode_blocks",
    "busbar_frontend_worker_kv_used_blocks",
    "busbar_frontend_worker_kv_total_blocks",
    "busbar_router_index_blocks",
    "busbar_router_cached_tokens_total",
    "busbar_router_prompt_tokens_total",
    "busbar_router_placements_total",
];

/// The page's data.
pub(crate) fn snapshot(app: &App) -> Value {
    let catalog = app.catalog.snapshot();
    let models: Vec<Value> = catalog
        .names
        .iter()
        .map(|(name, entry)| {
            let (ready, why) = match entry {
                Entry::Ready(_) => (true, None),
                Entry::NotReady(why) => (false, Some(why.as_str())),
            };
            let card = match entry {
                Entry::Ready(model) => json!({ "context_length": model.context_length(), "created": model.created }),
                Entry::NotReady(_) => Value::Null,
            };
            json!({ "name": name, "ready": ready, "why": why, "card": card })
        })
        .collect();
    let workers: Vec<Value> = catalog.sets.iter().flat_map(workers_of).collect();
    json!({
        "now_ms": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        "frontend": {
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": app.started.elapsed().as_secs(),
            "router_mode": app.config.router.mode.name(),
            "migration_limit": app.config.migration_limit,
            "keys_required": app.keys.required(),
            "waiting_for_a_place": app.admission.waiting(),
            "draining": app.is_draining(),
        },
        "models": models,
        "workers": workers,
        "left_out": catalog.left_out,
        "routes": app.board.latest(),
        "metrics": plotted(&app.render_metrics(), app.config.metrics_prefix.as_deref()),
    })
}

fn workers_of(set: &Arc<WorkerSet>) -> Vec<Value> {
    let view = |view: MemberView| {
        json!({
            "model": set.model,
            "worker_id": view.worker.worker_id.to_string(),
            "worker_id_decimal": view.worker.worker_id.0.to_string(),
            "dp_rank": view.worker.dp_rank,
            "endpoint": view.endpoint.endpoint_id().to_string(),
            "transport": view.endpoint.transport,
            "device": view.endpoint.device_type,
            "engine": view.engine,
            "state": view.health,
            "active_requests": view.active_requests,
            "here_s": view.here_s,
            "block_size": set.block_size,
        })
    };
    set.views().into_iter().map(view).collect()
}

/// The series of the plotted families: the text before the value, and the value.
fn plotted(text: &str, prefix: Option<&str>) -> Map<String, Value> {
    let mut series = Map::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        // Whatever prefix the user chose, the page knows the stock names.
        let name = match prefix.and_then(|prefix| name.strip_prefix(prefix)) {
            Some(rest) => format!("dynamo_frontend{rest}"),
            None => name.to_owned(),
        };
        let family = name.split('{').next().unwrap_or_default();
        let number = value.parse::<f64>().ok().and_then(Number::from_f64);
        if let (true, Some(number)) = (PLOTTED.contains(&family), number) {
            series.insert(name, Value::Number(number));
        }
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plotted_series_keeps_its_name_and_value_and_others_are_left_out() {
        let text = "# TYPE a counter\ndynamo_frontend_output_tokens_total{model=\"a b\"} 7\nprocess_x 3\n# EOF\n";
        let series = plotted(text, None);
        assert_eq!(
            serde_json::to_string(&series).unwrap(),
            r#"{"dynamo_frontend_output_tokens_total{model=\"a b\"}":7.0}"#
        );
        let series = plotted("acme_output_tokens_total{model=\"m\"} 7", Some("acme"));
        assert_eq!(series["dynamo_frontend_output_tokens_total{model=\"m\"}"], 7.0);
    }
}
