//! `/metrics`: text that Prometheus takes, and no family that is declared and never told.

use crate::scripted_worker::WorkerPlan;
use crate::stage::{Stage, ask, until};
use futures::StreamExt;
use runtime::request_plane::ErrorClass;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use telemetry::{METRICS, MetricSpec};
use tokio::sync::Semaphore;

/// What a strict reader of Prometheus text 0.0.4 makes of one family.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    /// Series by name and labels, each once.
    series: BTreeMap<String, f64>,
    labels: BTreeSet<String>,
}

/// Reads the text as strictly as the format is written: HELP, TYPE, then the family's own series, nothing twice.
fn read(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "{name} comes twice");
            families.entry(name.into()).or_default().help = help.into();
            current = name.into();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).unwrap().kind = kind.into();
        } else {
            read_sample(families.get_mut(&current).expect("a series belongs to a family"), &current, line);
        }
    }
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        check_histogram(name, family);
    }
    families
}

fn read_sample(family: &mut Family, name: &str, line: &str) {
    assert!(!line.starts_with('#'), "no other comment, no `# EOF`: {line}");
    let (series, value) = line.rsplit_once(' ').unwrap();
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("a value: {line}"));
    assert!(family.kind != "counter" || value >= 0.0, "{line}");
    let own = series.split('{').next().unwrap();
    let allowed: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
    assert!(allowed.iter().any(|end| own == format!("{name}{end}")), "{line} is none of {name}");
    if let Some(inside) = series.strip_prefix(own).and_then(|rest| rest.strip_prefix('{')) {
        for pair in inside.strip_suffix('}').unwrap().split("\",") {
            let (label, _) = pair.split_once("=\"").unwrap_or_else(|| panic!("a label: {line}"));
            assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
            if label != "le" {
                family.labels.insert(label.into());
            }
        }
    }
    assert!(family.series.insert(series.into(), value).is_none(), "{series} comes twice");
}

/// Buckets grow, end with `+Inf`, and that one is the count.
fn check_histogram(name: &str, family: &Family) {
    let counts = family.series.iter().filter(|(series, _)| series.starts_with(&format!("{name}_count")));
    for (count_series, count) in counts {
        let labels = count_series.strip_prefix(&format!("{name}_count")).unwrap().trim_matches(['{', '}']);
        let mut buckets: Vec<(f64, f64)> = family
            .series
            .iter()
            .filter_map(|(series, value)| {
                let inside = series.strip_prefix(&format!("{name}_bucket{{"))?.strip_suffix('}')?;
                let (bounds, others): (Vec<&str>, Vec<&str>) = inside
                    .split("\",")
                    .map(|pair| pair.trim_end_matches('"'))
                    .partition(|pair| pair.starts_with("le=\""));
                let [bound] = bounds[..] else { panic!("one bound: {series}") };
                let own: Vec<&str> = labels.split("\",").map(|pair| pair.trim_end_matches('"')).collect();
                let bound = bound.trim_start_matches("le=\"").parse().unwrap_or_else(|_| panic!("a bound: {series}"));
                (others == own || (others.is_empty() && labels.is_empty())).then_some((bound, *value))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{count_series}: {buckets:?}");
        assert_eq!(buckets.last().map(|last| last.1), Some(*count), "{count_series}");
        assert_eq!(buckets.last().map(|last| last.0), Some(f64::INFINITY), "{count_series}");
    }
}

/// Families that a frontend emits: all but those of a worker's system port and of the operator.
fn of_the_frontend() -> impl Iterator<Item = &'static MetricSpec> {
    METRICS.iter().filter(|spec| {
        let of_another = telemetry::component::ALL.contains(spec)
            || telemetry::operator::ALL.contains(spec)
            || spec.name.starts_with("dynamo_work_handler_")
            || spec.name.starts_with("busbar_engine_")
            || spec.name == telemetry::nats::EVENTS_DROPPED_TOTAL.name;
        !of_another
    })
}

/// A stage with keys, few places, and everything that a request can meet.
async fn eventful(folder: &tempfile::TempDir) -> Stage {
    let keys = folder.path().join("keys");
    let hex: String = Sha256::digest(b"sk-a").iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(&keys, format!("alice sha256:{hex}\n")).unwrap();
    Stage::with(|config| {
        config.router.mode = frontend::RouterMode::Kv;
        config.http.api_keys_file = Some(keys);
        config.limits.concurrent_requests_max = 1;
        config.limits.queued_requests_max = 0;
        config.limits.worker_wait_max = Duration::ZERO;
    })
    .await
}

async fn traffic(stage: &Stage) {
    let gate = Arc::new(Semaphore::new(64));
    let plan = WorkerPlan {
        instance: 1,
        kv_events: true,
        cut_after: Some(3),
        gate: Some(gate.clone()),
        ..WorkerPlan::default()
    };
    let worker = stage.worker(plan).await;
    let url = stage.url("/v1/chat/completions");
    let post = |body| stage.http.post(&url).bearer_auth("sk-a").json(&body).send();
    assert_eq!(stage.http.post(&url).json(&ask("x", &json!({}))).send().await.unwrap().status(), 401);
    // The first stream is cut and migrates; both kinds of answers.
    assert_eq!(post(ask("hello", &json!({}))).await.unwrap().status(), 200);
    let streamed = post(ask("hello", &json!({ "stream": true }))).await.unwrap();
    assert!(streamed.text().await.unwrap().ends_with("[DONE]\n\n"));
    assert_eq!(post(ask("hello", &json!({ "model": "nobody" }))).await.unwrap().status(), 404);
    // One runs, the next finds no place, and the one that runs leaves.
    let held = gate.forget_permits(usize::MAX);
    gate.add_permits(2);
    let mut running = post(ask("hello", &json!({ "stream": true }))).await.unwrap().bytes_stream();
    running.next().await.unwrap().unwrap();
    assert_eq!(post(ask("hello", &json!({}))).await.unwrap().status(), 429);
    drop(running);
    until("the engine has stopped", || async { (worker.running() == 0).then_some(()) }).await;
    gate.add_permits(held);
    until("the worker is followed", || async { (worker.subscribers() > 0).then_some(()) }).await;
    worker.cache(&(100..108).collect::<Vec<u32>>(), false).await;
    worker.tell_load(7).await;
    until("the block is in", || async {
        stage.metric("busbar_router_index_blocks{model=\"m\"").await.filter(|&blocks| blocks > 0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_declared_family_is_told_with_its_own_labels_and_the_text_is_strict() {
    let folder = tempfile::tempdir().unwrap();
    let busy = eventful(&folder).await;
    traffic(&busy).await;
    // What cannot happen on the same stage: a sequence too long to migrate, and a worker that refuses.
    let long = Stage::with(|config| config.migration_max_seq_len = Some(4)).await;
    let _cut = long.worker(WorkerPlan { instance: 1, cut_after: Some(3), ..WorkerPlan::default() }).await;
    assert_eq!(long.chat(&ask("hello", &json!({}))).await.status(), 503);
    let full = Stage::with(|config| config.migration_limit = Some(1)).await;
    let refuse = Some(ErrorClass::WorkerOverloaded);
    let _full = full.worker(WorkerPlan { instance: 1, refuse, ..WorkerPlan::default() }).await;
    assert_eq!(full.chat(&ask("hello", &json!({}))).await.status(), 529);

    let response = busy.http.get(busy.admin_url("/metrics")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let told = [response.text().await.unwrap(), long.metrics().await, full.metrics().await];
    let told: Vec<BTreeMap<String, Family>> = told.iter().map(|text| read(text)).collect();
    let mut missing = Vec::new();
    for spec in of_the_frontend() {
        let Some(family) = told.iter().find_map(|families| families.get(spec.name)) else {
            missing.push(spec.name);
            continue;
        };
        assert_eq!((family.kind.as_str(), family.help.as_str()), (spec.kind.word(), spec.help), "{}", spec.name);
        let declared: BTreeSet<String> = spec.labels.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(family.labels, declared, "{}", spec.name);
    }
    assert!(missing.is_empty(), "declared and never told: {missing:?}");
    let known: BTreeSet<&str> = METRICS.iter().map(|spec| spec.name).collect();
    let strange: Vec<&String> =
        told.iter().flat_map(BTreeMap::keys).filter(|name| !known.contains(name.as_str())).collect();
    assert!(strange.is_empty(), "told and not declared: {strange:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_router_request_plane_and_text_are_those_of_the_traffic() {
    let stage = Stage::kv().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    for _ in 0..3 {
        assert_eq!(stage.chat(&ask("hello", &json!({}))).await.status(), 200);
    }
    until("the last attempt is counted", || async {
        (stage.metric("dynamo_request_plane_inflight_requests").await == Some(0.0)).then_some(())
    })
    .await;
    let prompt: usize = worker.requests().iter().map(|request| request.token_ids.len()).sum();
    let families = read(&stage.metrics().await);
    let value = |family: &str, series: &str| {
        let found = families[family].series.iter().find(|(name, _)| name.starts_with(series));
        *found.unwrap_or_else(|| panic!("{series}")).1
    };
    let count = |family: &str| value(family, &format!("{family}_count"));
    let sum = |family: &str| value(family, &format!("{family}_sum"));
    for family in [
        "dynamo_component_router_time_to_first_token_seconds",
        "dynamo_component_router_inter_token_latency_seconds",
        "dynamo_request_plane_queue_seconds",
        "dynamo_request_plane_send_seconds",
        "dynamo_request_plane_roundtrip_ttft_seconds",
        "dynamo_router_overhead_block_hashing_ms",
        "dynamo_router_overhead_seq_hashing_ms",
        "dynamo_router_overhead_indexer_find_matches_ms",
        "dynamo_router_overhead_scheduling_ms",
        "dynamo_frontend_template_seconds",
        "dynamo_frontend_tokenize_seconds",
    ] {
        assert_eq!(count(family), 3.0, "{family}");
    }
    assert_eq!(sum("dynamo_component_router_output_sequence_tokens"), 48.0);
    assert_eq!(sum("dynamo_component_router_input_sequence_tokens"), prompt as f64);
    for family in ["dynamo_component_router_requests_started_total", "dynamo_component_router_requests_total"] {
        assert_eq!(value(family, family), 3.0);
    }
    // The scripted worker says that it reused 3 tokens of each prompt.
    let reused = "dynamo_component_router_kv_worker_reused_tokens_total";
    assert_eq!(value(reused, reused), 9.0);
    assert_eq!(value("dynamo_frontend_detokenize_token_count", "dynamo_frontend_detokenize_token_count"), 48.0);
    let latency = "dynamo_frontend_tokenizer_latency_ms";
    assert_eq!(value(latency, "dynamo_frontend_tokenizer_latency_ms_count{operation=\"detokenize\"}"), 3.0);
    for family in ["dynamo_transport_tcp_bytes_sent_total", "dynamo_transport_tcp_bytes_received_total"] {
        assert!(value(family, family) > 0.0, "{family}");
    }
    assert_eq!(value("dynamo_transport_tcp_errors_total", "dynamo_transport_tcp_errors_total"), 0.0);
    let received = "dynamo_frontend_router_admission_received_total";
    assert_eq!(value(received, received), 3.0);
    let registered = "dynamo_component_router_worker_registered";
    assert_eq!(value(registered, registered), 1.0);
    let mismatch = "dynamo_component_router_kv_event_source_mismatch_workers";
    assert_eq!(value(mismatch, mismatch), 1.0, "it tells nothing of its cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_that_were_known_from_an_earlier_prompt_are_counted() {
    let stage = Stage::kv().await;
    let worker = stage.worker(WorkerPlan { instance: 1, ..WorkerPlan::default() }).await;
    let long = "The quick brown fox. ".repeat(20);
    for _ in 0..2 {
        assert_eq!(stage.chat(&ask(&long, &json!({}))).await.status(), 200);
    }
    let count = async |name: &str| stage.metric(&format!("dynamo_frontend_tokenizer_cache_{name}")).await;
    assert_eq!((count("hits_total").await, count("misses_total").await), (Some(1.0), Some(1.0)));
    let (found, made) = (count("cached_tokens_total").await.unwrap(), count("uncached_tokens_total").await.unwrap());
    let prompts: Vec<usize> = worker.requests().iter().map(|request| request.token_ids.len()).collect();
    assert_eq!(found + made, prompts.iter().sum::<usize>() as f64);
    assert!(found > 0.8 * prompts[1] as f64, "{found} of the second prompt's {}", prompts[1]);
}
