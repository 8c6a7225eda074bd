//! The cost of a candidate, in KV blocks; lower is better, never negative.
//!
//! `prefill_load_scale · max(0, prefill − credit) + decode + decode_active_request_weight · requests +
//! copy_weight · overlap_score_credit · copies`, where
//!
//! - `prefill` = (prompt tokens booked there + this prompt's) ÷ block size, 0 if prefill is not tracked;
//! - `credit` = `overlap_score_credit` · decay · device + `host_cache_hit_weight` · host + `disk_cache_hit_weight` ·
//!   disk + `shared_cache_multiplier` · external, the cached blocks of this prompt;
//! - decay = 1 ÷ (1 + `overlap_score_credit_decay` · excess), excess = prefill blocks there beyond the least loaded
//!   candidate's, in units of this prompt;
//! - `decode` = blocks of running requests there, and those of this prompt that they do not share;
//! - `copies` = the blocks that others hold and it would compute again, see [`crate::copies`]; ours, not Dynamo's.
//!
//! If prefill is not tracked but the cache counts (a decode worker), it is `max(0, decode − credit)` + the requests'
//! part. Source: Dynamo 1.6.1, crate dynamo-kv-router, `scheduling/selector/reference.rs`.

use crate::config::RouterConfig;
use crate::index::TierBlocks;
use crate::loads::RankLoad;

/// One candidate, as the formula sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costed {
    /// Its load without this request.
    pub load: RankLoad,
    /// This prompt's blocks in its cache.
    pub cached: TierBlocks,
    /// Blocks that this request would add to its running ones.
    pub added_blocks: u64,
    /// Blocks that others hold and that it would hold a copy of, each divided by its holders.
    pub copies: f64,
}

/// What is the same for every candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostContext {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens per block; over 0.
    pub block_size: u32,
    /// Fewest prompt tokens booked on any candidate.
    pub least_prefill_tokens: u64,
}

/// The parts of a cost, so that a choice can be explained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CostParts {
    /// Prefill work there, this prompt included, blocks.
    pub prefill_blocks: f64,
    /// What the cache saves, blocks.
    pub credit_blocks: f64,
    /// Decode work there, this prompt included, blocks.
    pub decode_blocks: f64,
    /// What the running requests add.
    pub request_blocks: f64,
    /// What further copies of cached blocks cost.
    pub copy_blocks: f64,
    /// The cost.
    pub total: f64,
}

/// The cost of one candidate. Pure; finite and never negative if the config has no violations.
pub fn cost(config: &RouterConfig, context: &CostContext, candidate: &Costed) -> CostParts {
    let block_size = f64::from(context.block_size.max(1));
    let load = candidate.load;
    let credit_blocks = credit(config, context, candidate);
    let decode_blocks =
        if config.track_active_blocks { (load.active_decode_blocks + candidate.added_blocks) as f64 } else { 0.0 };
    let request_blocks = config.decode_active_request_weight * load.active_requests as f64;
    let prefill_blocks = if config.track_prefill_tokens {
        (load.active_prefill_tokens + context.prompt_tokens) as f64 / block_size
    } else {
        0.0
    };
    let work = if !config.track_prefill_tokens && config.overlap_score_credit > 0.0 {
        (decode_blocks - credit_blocks).max(0.0)
    } else {
        config.prefill_load_scale * (prefill_blocks - credit_blocks).max(0.0) + decode_blocks
    };
    let copy_blocks = config.copy_weight * config.overlap_score_credit * candidate.copies;
    let total = work + request_blocks + copy_blocks;
    CostParts { prefill_blocks, credit_blocks, decode_blocks, request_blocks, copy_blocks, total }
}

fn credit(config: &RouterConfig, context: &CostContext, candidate: &Costed) -> f64 {
    let cached = candidate.cached;
    let decay = if config.track_prefill_tokens && config.overlap_score_credit_decay > 0.0 {
        let block_size = f64::from(context.block_size.max(1));
        let excess_tokens = candidate.load.active_prefill_tokens.saturating_sub(context.least_prefill_tokens);
        let prompt_blocks = context.prompt_tokens.div_ceil(u64::from(context.block_size.max(1))).max(1);
        let excess = excess_tokens as f64 / block_size / prompt_blocks as f64;
        1.0 / (1.0 + config.overlap_score_credit_decay * excess)
    } else {
        1.0
    };
    config.overlap_score_credit * decay * f64::from(cached.device)
        + config.host_cache_hit_weight * f64::from(cached.host)
        + config.disk_cache_hit_weight * f64::from(cached.disk)
        + config.shared_cache_multiplier * f64::from(cached.external)
}

#[cfg(test)]
mod tests {
    use super::{CostContext, Costed, cost};
    use crate::config::RouterConfig;
    use crate::index::TierBlocks;
    use crate::loads::RankLoad;

    /// A prompt of 10 blocks of 16 tokens; the candidate's (prefill tokens, decode blocks, requests), cached (device,
    /// host, disk, external), and its cost.
    fn check(config: RouterConfig, load: (u64, u64, u64), cached: (u32, u32, u32, u32), expected: f64) {
        let context = CostContext { prompt_tokens: 160, block_size: 16, least_prefill_tokens: 32 };
        let load = RankLoad { active_prefill_tokens: load.0, active_decode_blocks: load.1, active_requests: load.2 };
        let cached = TierBlocks { device: cached.0, host: cached.1, disk: cached.2, external: cached.3 };
        let parts = cost(&config, &context, &Costed { load, cached, added_blocks: 10, copies: 0.0 });
        assert!((parts.total - expected).abs() < 1e-9, "{} is not {expected}: {parts:?}", parts.total);
    }

    #[test]
    fn the_cost_is_dynamos_formula() {
        let plain = RouterConfig::default();
        //            prefill, decode, requests   device, host, disk, external
        check(plain, (0, 0, 0), (0, 0, 0, 0), 20.0);
        check(plain, (0, 0, 0), (6, 0, 0, 0), 14.0);
        check(plain, (160, 5, 3), (6, 0, 0, 0), 10.0 + 10.0 - 6.0 + 15.0);
        check(plain, (0, 0, 0), (2, 4, 4, 8), 10.0 - (2.0 + 3.0 + 1.0) + 10.0);
        check(RouterConfig { shared_cache_multiplier: 0.5, ..plain }, (0, 0, 0), (2, 0, 0, 8), 10.0 - 6.0 + 10.0);
        check(RouterConfig { overlap_score_credit: 0.0, ..plain }, (0, 0, 0), (10, 0, 0, 0), 20.0);
        check(RouterConfig { prefill_load_scale: 2.0, ..plain }, (0, 0, 0), (6, 0, 0, 0), 18.0);
        check(RouterConfig { decode_active_request_weight: 1.5, ..plain }, (0, 0, 2), (0, 0, 0, 0), 23.0);
    }

    #[test]
    fn copies_count_by_their_weight_and_not_at_all_where_the_cache_does_not() {
        let of = |config: RouterConfig| {
            let context = CostContext { prompt_tokens: 160, block_size: 16, least_prefill_tokens: 0 };
            let costed = Costed { added_blocks: 10, copies: 4.0, ..Costed::default() };
            cost(&config, &context, &costed).total
        };
        let weighed = RouterConfig { copy_weight: 2.0, ..RouterConfig::default() };
        assert_eq!(of(weighed), 10.0 + 10.0 + 8.0);
        assert_eq!(of(RouterConfig { copy_weight: 0.0, ..weighed }), 20.0);
        assert_eq!(of(RouterConfig { overlap_score_credit: 0.0, ..weighed }), 20.0);
    }

    #[test]
    fn credit_never_turns_prefill_negative() {
        let rich = RouterConfig { overlap_score_credit: 5.0, ..RouterConfig::default() };
        check(rich, (0, 3, 0), (10, 0, 0, 0), 13.0);
    }

    #[test]
    fn credit_fades_with_prefill_beyond_the_least_loaded() {
        let decaying = RouterConfig { overlap_score_credit_decay: 1.0, ..RouterConfig::default() };
        // 32 tokens are the least: full credit. 192 are 10 blocks more, one prompt: half of it.
        check(decaying, (32, 0, 0), (8, 0, 0, 0), 12.0 - 8.0 + 10.0);
        check(decaying, (192, 0, 0), (8, 0, 0, 0), 22.0 - 4.0 + 10.0);
    }

    #[test]
    fn a_decode_worker_pays_for_decode_minus_credit() {
        let decode = RouterConfig { track_prefill_tokens: false, ..RouterConfig::default() };
        check(decode, (160, 5, 0), (6, 0, 0, 0), 9.0);
        check(decode, (160, 0, 0), (12, 0, 0, 0), 0.0);
        check(RouterConfig { overlap_score_credit: 0.0, ..decode }, (160, 5, 0), (6, 0, 0, 0), 15.0);
    }
}
