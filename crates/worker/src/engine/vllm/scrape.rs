//! vLLM's `/metrics`, read: load, limits, and what tells whether it goes forward. Pure.

use super::progress::Counters;
use crate::engine::EngineLoad;

/// Sum over all series of a family; `None` when there is none.
fn total(text: &str, name: &str) -> Option<f64> {
    let mut sum = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])) else { continue };
        // A label's value may hold any character, so the number is what follows the last space.
        let value: Option<f64> = rest.rsplit(' ').next().and_then(|value| value.parse().ok());
        *sum.get_or_insert(0.0) += value.unwrap_or(0.0);
    }
    sum
}

fn count(text: &str, name: &str) -> u64 {
    // Prometheus writes whole numbers as floats.
    total(text, name).map_or(0, |value| value as u64)
}

/// A label of the first series of a family.
fn label<'a>(text: &'a str, name: &str, label: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))?;
    let (_, rest) = line.split_once(&format!("{label}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// Sizes of the KV cache: tokens a block, and blocks.
pub(crate) fn cache_sizes(text: &str) -> Option<(u32, u64)> {
    let number = |key| label(text, "vllm:cache_config_info", key);
    Some((number("block_size")?.parse().ok()?, number("num_gpu_blocks")?.parse().ok()?))
}

/// The load of a server with `total_kv_blocks`. What vLLM does not tell (prompt tokens that wait, cancellations) is 0.
pub(crate) fn load(text: &str, total_kv_blocks: u64) -> EngineLoad {
    let used = total(text, "vllm:kv_cache_usage_perc").unwrap_or(0.0) * total_kv_blocks as f64;
    let used = used.round() as u64;
    EngineLoad {
        running: u32::try_from(count(text, "vllm:num_requests_running")).unwrap_or(u32::MAX),
        waiting: u32::try_from(count(text, "vllm:num_requests_waiting")).unwrap_or(u32::MAX),
        kv_used_blocks: used,
        active_decode_blocks: used,
        active_prefill_tokens: 0,
        prefix_query_tokens_total: count(text, "vllm:prefix_cache_queries_total"),
        prefix_hit_tokens_total: count(text, "vllm:prefix_cache_hits_total"),
        prompt_tokens_total: count(text, "vllm:prompt_tokens_total"),
        generation_tokens_total: count(text, "vllm:generation_tokens_total"),
        preemptions_total: count(text, "vllm:num_preemptions_total"),
        cancelled_total: 0,
    }
}

/// The counters that only a living engine moves.
pub(crate) fn counters(text: &str) -> Counters {
    Counters {
        prompt_tokens: count(text, "vllm:prompt_tokens_total"),
        generation_tokens: count(text, "vllm:generation_tokens_total"),
        iterations: count(text, "vllm:iteration_tokens_total_count"),
        preemptions: count(text, "vllm:num_preemptions_total"),
        kv_usage: total(text, "vllm:kv_cache_usage_perc").unwrap_or(0.0),
    }
}

/// Prompt tokens that were computed (not found in the cache), and the seconds that they took; sums over the requests
/// that are over.
pub(crate) fn prefill_sums(text: &str) -> Option<(f64, f64)> {
    let tokens = total(text, "vllm:request_prefill_kv_computed_tokens_sum")?;
    Some((tokens, total(text, "vllm:request_prefill_time_seconds_sum")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = include_str!("../../../tests/data/vllm/metrics.txt");

    #[test]
    fn the_recorded_metrics_give_the_load_and_the_sizes() {
        let load = load(RECORDED, 80);
        assert_eq!((load.running, load.waiting, load.kv_used_blocks), (0, 0, 0));
        assert_eq!((load.prompt_tokens_total, load.generation_tokens_total), (4312, 90));
        assert_eq!((load.prefix_query_tokens_total, load.prefix_hit_tokens_total), (4312, 256));
        assert_eq!(cache_sizes(RECORDED), Some((32, 80)));
        let counters = counters(RECORDED);
        assert_eq!((counters.prompt_tokens, counters.generation_tokens), (4312, 90));
        assert!(counters.iterations > 0);
        assert_eq!(prefill_sums(RECORDED), Some((4056.0, 1.748_520_529_000_416)));
    }

    #[test]
    fn series_of_one_family_are_summed_and_longer_names_are_not_taken_for_it() {
        let text = "vllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:num_requests_waiting{engine=\"1\"} 1.0\n\
                    vllm:num_requests_waiting_by_reason{engine=\"0\"} 9.0\nvllm:kv_cache_usage_perc 0.25\n";
        let load = load(text, 80);
        assert_eq!((load.waiting, load.kv_used_blocks), (3, 20));
        assert_eq!(cache_sizes(text), None);
    }
}
